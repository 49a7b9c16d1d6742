//! Whether a client is still there while its upstream is being connected: nobody is connected for one that has left.
//! nginx does not look.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tidegate_core::net::pump::{Counters, Doing, End, Limits, Side};
use tidegate_core::net::{Timer, Transport, buffers};

/// How long a client's last words are worth a connection to say them to: the system asks a second time after one second.
const LAST_WORDS: Duration = Duration::from_millis(1_500);

/// Waits until the client leaves; how it did. What it says meanwhile goes to `early`, as much as a buffer takes.
///
/// Its end is a departure unless it may go on with half a connection; a reset always is.
pub async fn until_gone(client: &mut Transport, limits: Limits, counters: &Counters, early: &mut BytesMut) -> End {
    loop {
        if early.len() >= limits.client_buffer {
            return broken(client, counters).await;
        }
        if let Err(error) = client.readable().await {
            return failed(counters, error);
        }
        if early.capacity() == 0 {
            *early = buffers::take(limits.client_buffer);
        }
        match client.read_some(early).await {
            Ok(0) if limits.half_close => return broken(client, counters).await,
            Ok(0) if early.is_empty() => return End::Closed(Side::Client),
            Ok(0) => {
                let broken = Timer::default().limit(LAST_WORDS, broken(client, counters)).await;
                return broken.unwrap_or(End::Closed(Side::Client));
            }
            Ok(count) => {
                let count = u64::try_from(count).unwrap_or(0);
                counters.from_client.set(counters.from_client.get().saturating_add(count));
            }
            Err(error) => return failed(counters, error),
        }
    }
}

/// Waits until the connection is broken: of a client that is not listened to any more.
async fn broken(client: &Transport, counters: &Counters) -> End {
    client.broken().await;
    failed(counters, client.tcp().and_then(|tcp| tcp.take_error().ok().flatten()).unwrap_or_else(reset))
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn failed(counters: &Counters, error: io::Error) -> End {
    counters.doing.set(Doing::Reading(Side::Client));
    End::Failed(Side::Client, error)
}
