//! The client that speaks HTTP/2: several exchanges at once on one connection.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt as _};
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};

use crate::Server;
use crate::client::{Http2, Offer, request};
use crate::proof::chance::{Chance, Compared};

use super::{Framing, Plan, Run, next_piece};

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(600);

/// All of them on one connection, up to eight at once, with windows and frames of whatever size.
pub fn converse(run: &Run<'_>, server: &Server, is_secure: bool, plans: &[Plan], chance: &mut Chance) {
    let how = if is_secure { "HTTP/2 over TLS" } else { "HTTP/2" };
    let is_large = plans.iter().any(|plan| plan.down.length > 200_000);
    let windows: &[u32] = if is_large { &[65_535, 1 << 20] } else { &[1000, 16_383, 65_535, 1 << 20] };
    let window = *chance.of(windows);
    let mut builder = Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window.max(65_535) * *chance.of(&[1, 4]))
        .max_frame_size(*chance.of(&[16_384, 20_000, 1 << 20]));
    let offer = is_secure.then(|| Offer::name("a.example").alpn(&["h2"]));
    let mut client = match Http2::with(server.port(usize::from(is_secure)), offer.as_ref(), &builder) {
        Ok(client) => client,
        Err(error) => return plans.iter().for_each(|plan| run.note(plan, how, Err(error.to_string()))),
    };
    client.run_within(LIMIT, async |send| {
        let exchanges = plans.iter().map(|plan| {
            let send = send.clone();
            async move { run.note(plan, how, exchange(send, plan.clone()).await) }
        });
        stream::iter(exchanges).buffer_unordered(8).collect::<()>().await;
    });
}

async fn exchange(send: SendRequest<Bytes>, plan: Plan) -> Result<(), String> {
    let failed = |error: h2::Error| format!("client: {error}");
    let mut send = send.ready().await.map_err(failed)?;
    let (target, length) = (plan.target(), format!("Content-Length: {}", plan.up.length));
    let lines = if plan.up_framing == Framing::Length && plan.up.length > 0 { vec![&*length] } else { vec![] };
    let method = if plan.up.length == 0 { "GET" } else { "POST" };
    let sent = send.send_request(request(method, &target, &lines), plan.up.length == 0);
    let (response, stream) = sent.map_err(failed)?;
    drop(send);
    let (up, down) = join(upload(stream, plan.clone()), download(response, plan)).await;
    // Of both, what the answer says is nearer to the cause.
    down.and(up.map_err(failed))
}

async fn upload(mut stream: SendStream<Bytes>, mut plan: Plan) -> Result<(), h2::Error> {
    let mut at = 0;
    while at < plan.up.length {
        let (size, stall) = next_piece(&mut plan.client, plan.up.length);
        if let Some(time) = stall {
            tokio::time::sleep(time).await;
        }
        let mut piece = Bytes::from(plan.up.piece(at, size));
        at += piece.len() as u64;
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(capacity)) => {
                    let part = piece.split_to(capacity.min(piece.len()));
                    stream.send_data(part, piece.is_empty() && at == plan.up.length)?;
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    }
    Ok(())
}

async fn download(response: ResponseFuture, plan: Plan) -> Result<(), String> {
    let failed = |error: h2::Error| format!("client: {error}");
    let (head, mut stream) = response.await.map_err(failed)?.into_parts();
    let mut body = Compared::with(plan.down);
    let (mut chance, mut text) = (plan.client, Vec::new());
    while let Some(data) = stream.data().await {
        let data = data.map_err(failed)?;
        if chance.once_in(200) {
            tokio::time::sleep(Duration::from_millis(chance.below(60))).await;
        }
        stream.flow_control().release_capacity(data.len()).map_err(failed)?;
        match head.status.as_u16() {
            200 => body.take(&data)?,
            _ => text.extend_from_slice(&data),
        }
    }
    if head.status != 200 {
        return Err(format!("{}: {}", head.status, String::from_utf8_lossy(&text)));
    }
    let exchange = head.headers.get("x-exchange").map(|value| value.as_bytes());
    if exchange != Some(plan.number.to_string().as_bytes()) {
        return Err(format!("the answer of {exchange:?}"));
    }
    body.end()
}
