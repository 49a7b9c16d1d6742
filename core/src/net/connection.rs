//! A connection: its transport (TCP, local socket, TLS over either), who is at its other end, and its timer.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::address::Address;
use super::timer::{TimedOut, Timer};
use crate::file::OpenFile;
use crate::tls::session::{TlsInfo, TlsTransport};

/// How bytes get to the peer.
pub enum Transport {
    /// TCP.
    Tcp(TcpStream),
    /// A local socket.
    Unix(UnixStream),
    /// TLS on top of one of the others.
    Tls(Box<TlsTransport>),
}

impl Transport {
    /// Connects to an address.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connect(address: &Address) -> io::Result<Transport> {
        match address {
            Address::Inet(address) => Ok(Transport::Tcp(TcpStream::connect(address).await?)),
            Address::Unix(path) => Ok(Transport::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Connects from a local address, where one is given and the peer is not a Unix socket.
    ///
    /// # Errors
    /// Those of bind(2) and connect(2).
    pub async fn connect_from(local: Option<SocketAddr>, address: &Address) -> io::Result<Transport> {
        let (Some(local), Address::Inet(address)) = (local, address) else { return Transport::connect(address).await };
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if local.port() != 0 {
            socket.set_reuseaddr(true)?;
        }
        socket.bind(local)?;
        Ok(Transport::Tcp(socket.connect(*address).await?))
    }

    /// Disables Nagle's algorithm where there is one.
    pub fn set_nodelay(&self) {
        if let Some(tcp) = self.tcp() {
            let _ = tcp.set_nodelay(true);
        }
    }

    /// Has the system probe a silent peer, where it can.
    pub fn set_keepalive(&self) {
        if let Some(tcp) = self.tcp() {
            let _ = socket2::SockRef::from(tcp).set_keepalive(true);
        }
    }

    /// The TCP stream below, with or without TLS on top.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Transport::Tcp(tcp) => Some(tcp),
            Transport::Unix(_) => None,
            Transport::Tls(tls) => tls.inner().tcp(),
        }
    }

    /// True when files can be sent by the kernel itself.
    pub fn is_plain_tcp(&self) -> bool {
        matches!(self, Transport::Tcp(_))
    }

    /// The local address of an IP connection.
    pub fn local_address(&self) -> Option<Address> {
        self.tcp()?.local_addr().ok().map(Address::Inet)
    }

    /// Ready when a read is likely to give something; no buffer needs to exist before that.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // What is known already need not be waited for.
            Transport::Tcp(_) | Transport::Unix(_) if self.may_be_readable() => Poll::Ready(Ok(())),
            Transport::Tcp(tcp) => tcp.poll_read_ready(cx),
            Transport::Unix(unix) => unix.poll_read_ready(cx),
            Transport::Tls(tls) => tls.poll_readable(cx),
        }
    }

    /// Writes what can be written at once, and waits where there is no room. Other than a write it takes nothing of the
    /// task's turn: it is for what the task has just read, which did.
    #[inline]
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = match self {
            Transport::Tcp(tcp) => tcp.try_write(bytes),
            Transport::Unix(unix) => unix.try_write(bytes),
            Transport::Tls(_) => return Pin::new(self).poll_write(cx, bytes),
        };
        match sent {
            Ok(count) if count == bytes.len() => Poll::Ready(sent),
            _ => self.poll_send_part(cx, bytes, sent),
        }
    }

    #[cold]
    fn poll_send_part(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        sent: io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let full = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        match (sent, &mut *self) {
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(self).poll_write(cx, bytes),
            // The runtime takes it so, too: where not all was taken there is no room left.
            (Ok(count), Transport::Tcp(tcp)) => {
                let _ = tcp.try_io(Interest::WRITABLE, full);
                Poll::Ready(Ok(count))
            }
            (sent, _) => Poll::Ready(sent),
        }
    }

    /// False when the runtime knows that there is nothing to be read; whoever waits for it still has to say so. Asks nobody.
    pub fn may_be_readable(&self) -> bool {
        match self {
            Transport::Tcp(tcp) => tcp.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Transport::Unix(unix) => unix.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Transport::Tls(_) => true,
        }
    }

    /// True when a read gives something at once, be it the end: asks the system, for the runtime hears of it later. What
    /// lies below TLS counts as well.
    pub fn has_input(&self) -> bool {
        let mut one = [std::mem::MaybeUninit::uninit()];
        let peeked = match self {
            Transport::Tcp(tcp) => socket2::SockRef::from(tcp).peek(&mut one),
            Transport::Unix(unix) => socket2::SockRef::from(unix).peek(&mut one),
            Transport::Tls(tls) => return tls.inner().has_input(),
        };
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until the connection is broken, without reading: what the peer has sent does not matter, nor its end.
    pub async fn broken(&self) {
        let broken = match self {
            Transport::Tcp(tcp) => tcp.ready(Interest::ERROR).await,
            Transport::Unix(unix) => unix.ready(Interest::ERROR).await,
            Transport::Tls(tls) => return Box::pin(tls.inner().broken()).await,
        };
        drop(broken);
    }

    /// Has the kernel ask the peer every two seconds whether it still has its end of the connection, and gives what was
    /// asked of it before. A peer that has closed answers so for a minute at most, and one that has only said that it
    /// sends no more goes on; from what has been received the two cannot be told apart.
    pub fn probe(&self) -> Option<Probes> {
        let socket = SockRef::from(self.tcp()?);
        let before = Probes::of(&socket).ok()?;
        Probes::OFTEN.set(&socket).ok().map(|()| before)
    }

    /// Has the kernel ask the peer as it did before.
    pub fn probe_as(&self, before: Probes) {
        if let Some(tcp) = self.tcp() {
            let _ = before.set(&SockRef::from(tcp));
        }
    }

    /// True when the connection has broken: the peer has reset it, or no longer answers. Nothing is taken from what it has
    /// sent.
    pub fn is_broken(&self) -> bool {
        let descriptor = match self {
            Transport::Tcp(tcp) => tcp.as_fd(),
            Transport::Unix(unix) => unix.as_fd(),
            Transport::Tls(tls) => return tls.inner().is_broken(),
        };
        // Errors are looked for without being asked for.
        let mut asked = [PollFd::new(descriptor, PollFlags::empty())];
        poll(&mut asked, PollTimeout::ZERO).is_ok_and(|found| found > 0)
    }

    /// Has the connection end with a reset when it is dropped, so that the peer knows that something is missing. Only TCP
    /// has resets.
    pub fn reset_when_dropped(&self) {
        if let Some(tcp) = self.tcp() {
            let _ = tcp.set_zero_linger();
        }
    }

    /// Waits until a read is likely to give something.
    ///
    /// # Errors
    /// The runtime is going away.
    pub async fn readable(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Reads what is there into the free room of `buffer`; 0 is the end.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn read_some(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.read_buf(buffer).await
    }

    /// Sends up to `count` bytes of `file` from `offset`, inside the kernel. Plain TCP only.
    ///
    /// `None`: they are not all cached, which would keep the worker waiting, and nothing has been sent. With `sure` nobody
    /// looks.
    ///
    /// # Errors
    /// Those of sendfile(2); `Unsupported` on other transports. 0 means that the file has become shorter.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &OpenFile,
        offset: u64,
        count: usize,
        sure: bool,
    ) -> Poll<io::Result<Option<usize>>> {
        let Transport::Tcp(tcp) = self else { return Poll::Ready(Err(io::ErrorKind::Unsupported.into())) };
        let start = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        loop {
            // Looked for here and not before: until the client takes more, pages may have gone.
            let sent = tcp.try_io(Interest::WRITABLE, || {
                if !sure && !file.is_cached(offset, u64::try_from(count).unwrap_or(u64::MAX)) {
                    return Ok(None);
                }
                let mut at = start;
                let sent = nix::sys::sendfile::sendfile64(&*tcp, file.as_fd()?, Some(&mut at), count);
                sent.map(Some).map_err(io::Error::from)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tcp.poll_write_ready(cx))?,
                other => return Poll::Ready(other),
            }
        }
    }

    /// Half-closes: the peer sees the end, we can still read.
    ///
    /// # Errors
    /// Those of shutdown(2).
    pub async fn finish(&mut self) -> io::Result<()> {
        AsyncWriteExt::shutdown(self).await
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Transport::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Transport::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Tcp(_) | Transport::Unix(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

/// When the kernel asks a silent peer whether it is still there.
#[derive(Clone, Copy, Debug)]
pub struct Probes {
    on: bool,
    after: Duration,
    every: Duration,
    most: u32,
}

impl Probes {
    const OFTEN: Probes = Probes { on: true, after: Duration::from_secs(2), every: Duration::from_secs(2), most: 4 };

    fn of(socket: &SockRef<'_>) -> io::Result<Probes> {
        Ok(Probes {
            on: socket.keepalive()?,
            after: socket.tcp_keepalive_time()?,
            every: socket.tcp_keepalive_interval()?,
            most: socket.tcp_keepalive_retries()?,
        })
    }

    fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        let times = TcpKeepalive::new().with_time(self.after).with_interval(self.every).with_retries(self.most);
        socket.set_tcp_keepalive(&times)?;
        socket.set_keepalive(self.on)
    }
}

/// Who is at the other end of a client's connection, and how it came in.
#[derive(Debug)]
pub struct PeerInfo {
    /// The connection's number in its worker, for logs.
    pub number: u64,
    /// `debug_connection` names the client: everything is logged.
    pub debugged: bool,
    /// The client.
    pub client: Address,
    /// The address it connected to.
    pub local: Address,
    /// When it was accepted.
    pub accepted: Instant,
    /// The TLS session, once there is one.
    pub tls: std::cell::OnceCell<Box<TlsInfo>>,
}

/// A client's connection.
pub struct Connection {
    /// The transport.
    pub transport: Transport,
    /// Its timer.
    pub timer: Timer,
    /// Who is there.
    pub info: Rc<PeerInfo>,
}

/// Why a read or write with a time limit did not succeed.
#[derive(Debug)]
pub enum IoFailure {
    /// The time allowed is over.
    TimedOut,
    /// The transport failed.
    Io(io::Error),
}

impl From<TimedOut> for IoFailure {
    fn from(_: TimedOut) -> Self {
        IoFailure::TimedOut
    }
}

impl From<io::Error> for IoFailure {
    fn from(error: io::Error) -> Self {
        IoFailure::Io(error)
    }
}

impl std::fmt::Display for IoFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IoFailure::TimedOut => f.write_str("110: Connection timed out"),
            IoFailure::Io(error) => f.write_str(&crate::log::os_error(error)),
        }
    }
}

impl Connection {
    /// Reads what is there into the free room of `buffer`; 0 is the end.
    ///
    /// # Errors
    /// Nothing came within `limit`, or the transport failed.
    pub async fn read(&mut self, buffer: &mut BytesMut, limit: Duration) -> Result<usize, IoFailure> {
        read(&mut self.transport, &mut self.timer, buffer, limit).await
    }

    /// Writes everything.
    ///
    /// # Errors
    /// The peer took nothing for `limit`, or the transport failed.
    pub async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), IoFailure> {
        write(&mut self.transport, &mut self.timer, bytes, limit).await
    }
}

/// Reads into the free room of `buffer`; 0 is the end.
///
/// # Errors
/// Nothing came within `limit`, or the transport failed.
pub async fn read(
    transport: &mut Transport,
    timer: &mut Timer,
    buffer: &mut BytesMut,
    limit: Duration,
) -> Result<usize, IoFailure> {
    Ok(timer.limit(limit, transport.read_buf(buffer)).await??)
}

/// Writes everything; the limit is between two successful writes, as in nginx.
///
/// # Errors
/// The peer took nothing for `limit`, or the transport failed.
pub async fn write(
    transport: &mut Transport,
    timer: &mut Timer,
    mut bytes: &[u8],
    limit: Duration,
) -> Result<(), IoFailure> {
    while !bytes.is_empty() {
        let written = timer.limit(limit, transport.write(bytes)).await??;
        if written == 0 {
            return Err(IoFailure::Io(io::ErrorKind::WriteZero.into()));
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    timer.limit(limit, transport.flush()).await??;
    Ok(())
}

/// Writes two pieces one after the other, together where the transport can.
///
/// # Errors
/// As [`write()`].
pub async fn write_both(
    transport: &mut Transport,
    timer: &mut Timer,
    first: &[u8],
    second: &[u8],
    limit: Duration,
) -> Result<(), IoFailure> {
    let slices = [IoSlice::new(first), IoSlice::new(second)];
    let written = timer.limit(limit, transport.write_vectored(&slices)).await??;
    if written == 0 {
        return Err(IoFailure::Io(io::ErrorKind::WriteZero.into()));
    }
    let rest = second.get(written.saturating_sub(first.len())..).unwrap_or_default();
    write(transport, timer, first.get(written..).unwrap_or_default(), limit).await?;
    write(transport, timer, rest, limit).await
}

/// Polls a read into `buffer`'s free room without allocating more; 0 is the end.
///
/// # Errors
/// The transport failed.
pub fn poll_read_into(
    transport: &mut Transport,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut reading = std::pin::pin!(transport.read_buf(buffer));
    let count = ready!(std::future::Future::poll(reading.as_mut(), cx))?;
    Poll::Ready(Ok(count))
}

/// The same, for no more than `most` bytes.
///
/// # Errors
/// The transport failed.
pub fn poll_read_up_to(
    transport: &mut Transport,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    most: usize,
) -> Poll<io::Result<usize>> {
    let mut limited = BufMut::limit(buffer, most);
    let mut reading = std::pin::pin!(transport.read_buf(&mut limited));
    std::future::Future::poll(reading.as_mut(), cx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Transport::Tcp(listener.accept().await.unwrap().0), peer)
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn input_is_known_of_before_the_runtime_hears_of_it() {
        run(async {
            for words in [&b""[..], b"x", b"many words"] {
                let (mut own, mut peer) = pair().await;
                assert!(!own.has_input());
                peer.write_all(words).await.unwrap();
                assert_eq!(own.has_input(), !words.is_empty());
                let mut input = BytesMut::new();
                while input.len() < words.len() {
                    own.read_some(&mut input).await.unwrap();
                }
                assert!(!own.has_input());
                // Nothing is awaited in between: nobody has told the runtime.
                let peer = peer.into_std().unwrap();
                peer.set_nonblocking(false).unwrap();
                std::io::Write::write_all(&mut &peer, b"more").unwrap();
                assert!(own.has_input());
                drop(peer);
                own.read_some(&mut input).await.unwrap();
                assert!(own.has_input(), "the end is input");
            }
        });
    }

    /// How long a peer that has closed goes on answering is up to its system: a minute with Linux.
    #[test]
    fn a_peer_that_has_half_closed_has_not_abandoned_its_connection() {
        run(async {
            let (own, mut peer) = pair().await;
            peer.shutdown().await.unwrap();
            let before = own.probe().unwrap();
            let unanswered = Probes::OFTEN.after + Probes::OFTEN.every * (Probes::OFTEN.most + 1);
            assert!(Timer::default().limit(unanswered, own.broken()).await.is_err());
            assert!(!own.is_broken());
            own.probe_as(before);
            assert!(!SockRef::from(own.tcp().unwrap()).keepalive().unwrap(), "what was asked before is asked again");
            peer.set_zero_linger().unwrap();
            drop(peer);
            Timer::default().limit(Duration::from_secs(9), own.broken()).await.unwrap();
            assert!(own.is_broken());
        });
    }

    #[test]
    fn only_a_reset_breaks_a_connection() {
        run(async {
            for (words, ends_first, resets) in
                [(0, false, true), (9, false, true), (9, true, true), (100_000, false, true), (9, true, false)]
            {
                let (own, mut peer) = pair().await;
                peer.write_all(&vec![7; words]).await.unwrap();
                if ends_first {
                    peer.shutdown().await.unwrap();
                }
                let mut timer = Timer::default();
                assert!(timer.limit(Duration::from_millis(50), own.broken()).await.is_err(), "{words} {ends_first}");
                if resets {
                    peer.set_zero_linger().unwrap();
                    drop(peer);
                    timer.limit(Duration::from_secs(9), own.broken()).await.unwrap();
                }
            }
        });
    }
}
