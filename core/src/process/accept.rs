//! Accepting connections: which worker takes the next one, and what happens when there is no room for it.

use std::ffi::OsStr;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_core::future::LocalBoxFuture;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_local;

use super::stall;
use super::turn::Turn;
use crate::log::{ErrorLog, Logger};
use crate::net::adopt;
use crate::net::listen::Binding;
use crate::net::network::Network;
use crate::net::{Address, Connection, Connections, Lifetime, PeerInfo, Timer, Transport};
use crate::zone::counters::{Counters, Standing, State, Total};

/// How long to wait before accepting again when the process has no descriptors left.
const BREATHER: Duration = Duration::from_millis(500);

/// A listening socket in the event loop.
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    is_unix: bool,
}

impl Listener {
    /// Watches a listening socket, which must not block.
    ///
    /// # Errors
    /// Those of epoll_ctl(2), or it is no socket.
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        let is_unix = socket2::SockRef::from(&socket).local_addr()?.is_unix();
        Ok(Listener { socket: adopt::watch(socket)?, is_unix })
    }

    /// Waits until somebody may be waiting.
    async fn knock(&self) -> std::io::Result<()> {
        poll_fn(|cx| {
            let _guard = ready!(self.socket.poll_read_ready(cx))?;
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// True when somebody is waiting right now.
    fn is_waited_at(&self) -> bool {
        let look = |socket: &OwnedFd| {
            let mut socket = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut socket, PollTimeout::ZERO) {
                Ok(0) => Err(std::io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        };
        self.socket.try_io(Interest::READABLE, look).is_ok()
    }

    /// The next connection that is waiting; `WouldBlock` when there is none.
    fn accept(&self) -> std::io::Result<(Transport, Address)> {
        let accept = |socket: &OwnedFd| Ok(acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?);
        let (socket, client) = self.socket.try_io(Interest::READABLE, accept)?;
        if self.is_unix {
            let client = client.and_then(|client| SocketAddrUnix::try_from(client).ok());
            let path = client.and_then(|client| client.path().map(|path| OsStr::from_bytes(path.to_bytes()).into()));
            return Ok((
                Transport::Unix(UnixStream::from_std(socket.into())?),
                Address::Unix(path.unwrap_or_default()),
            ));
        }
        let client = client.map(SocketAddrAny::try_into).and_then(Result::ok);
        let client = client.ok_or(std::io::ErrorKind::ConnectionAborted)?;
        Ok((Transport::Tcp(TcpStream::from_std(socket.into())?), Address::Inet(client)))
    }
}

/// Accepts from one socket for one worker.
pub struct Acceptor {
    /// What is served there.
    pub binding: Binding,
    /// The socket.
    pub listener: Listener,
    /// No other worker accepts from it (`reuseport`).
    pub own: bool,
    /// The worker's connections.
    pub connections: Rc<Connections>,
    /// What all workers count.
    pub counters: Rc<Counters>,
    /// `accept_mutex`: one worker accepts at a time.
    pub turn: Option<Rc<Turn>>,
    /// `multi_accept`: everybody who waits is let in before anything else is done.
    pub multi_accept: bool,
    /// `worker_stall_threshold`
    pub stall_threshold: Option<Duration>,
    /// `debug_connection`
    pub debugged: Rc<[Network]>,
    /// Where to complain.
    pub log: ErrorLog,
}

/// What comes after those who could be let in.
enum Then {
    /// The next who knocks.
    Next,
    /// Waiting for a connection to end.
    Wait,
    /// A pause: the process has no descriptors left.
    Pause,
}

impl Acceptor {
    /// Accepts until the task is aborted.
    pub async fn run(self) {
        let _accepting = Standing::enter(self.counters.clone(), State::Accepting);
        let mut complaints = Complaints::default();
        while self.listener.knock().await.is_ok() {
            let then = match &self.turn {
                Some(turn) => {
                    let _mine = turn.take().await;
                    self.let_in(&mut complaints)
                }
                None => {
                    self.stand_back().await;
                    self.let_in(&mut complaints)
                }
            };
            match then {
                Then::Next => {}
                // Meanwhile those who knock stay in the backlog, from which other workers can take them.
                Then::Wait => self.connections.one_gone().await,
                Then::Pause => tokio::time::sleep(BREATHER).await,
            }
            if !self.multi_accept {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets the other workers have theirs.
    ///
    /// The kernel gives a connection to whoever asks first, which at low load is again and again the same worker. So one
    /// that is clearly ahead of another stands back: for a millisecond, then for two, and so on. After the longest pause
    /// it takes what is there, so that nobody waits for a worker that is stuck. A socket of the worker's own is not
    /// shared, so there the kernel does the spreading.
    async fn stand_back(&self) {
        const LONGEST: Duration = Duration::from_millis(64);
        let mut pause = Duration::from_millis(1);
        while !self.own && pause <= LONGEST && self.counters.is_ahead() {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Lets in who knocks, one or all of them.
    fn let_in(&self, complaints: &mut Complaints) -> Then {
        loop {
            let Some(life) = self.connections.admit() else {
                // It may be long since somebody knocked.
                if !self.listener.is_waited_at() {
                    return Then::Next;
                }
                self.make_room(complaints, None);
                return Then::Wait;
            };
            match self.listener.accept() {
                Ok((transport, client)) => self.serve(transport, client, life),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Then::Next,
                Err(error) if is_shortage(&error) => {
                    self.make_room(complaints, Some(&error));
                    return Then::Pause;
                }
                // The client has given up before we came to it.
                Err(_) => {}
            }
            if !self.multi_accept {
                return Then::Next;
            }
        }
    }

    /// Makes room at the cost of idle connections, where there are any, and says so.
    fn make_room(&self, complaints: &mut Complaints, shortage: Option<&std::io::Error>) {
        let reclaimed = self.connections.reclaim();
        (0..reclaimed).for_each(|_| self.counters.count(Total::Reclaimed));
        if reclaimed == 0 {
            self.counters.count(Total::Exhausted);
        }
        if !complaints.are_due() {
            return;
        }
        let (log, connections) = (Logger::new(&self.log), self.connections.len());
        if let Some(error) = shortage {
            crate::log!(log, Alert, "accept4() failed ({})", crate::log::os_error(error));
        } else if reclaimed > 0 {
            let total = self.counters.total(Total::Reclaimed);
            crate::log!(
                log,
                Warn,
                "{connections} worker_connections are not enough, reusing connections, {total} so far"
            );
        } else {
            let total = self.counters.total(Total::Exhausted);
            crate::log!(log, Alert, "{connections} worker_connections are not enough, {total} times so far");
        }
    }

    fn serve(&self, transport: Transport, client: Address, life: Lifetime) {
        self.counters.count(Total::Accepted);
        let local = if self.binding.is_wildcard() {
            transport.local_address().unwrap_or_else(|| self.binding.address.clone())
        } else {
            self.binding.address.clone()
        };
        let Some(protocol) = self.binding.route(&local) else { return };
        let info = Rc::new(PeerInfo {
            number: self.connections.number(),
            debugged: self.debugged.iter().any(|network| network.contains(&client)),
            client,
            local,
            accepted: Instant::now(),
            tls: std::cell::OnceCell::new(),
        });
        let connection = Connection { transport, timer: Timer::default(), info: info.clone() };
        self.counters.count(Total::Handled);
        let active = Standing::enter(self.counters.clone(), State::Active);
        spawn_local(Served {
            entering: Some(life.entering()),
            serving: protocol.serve(connection, life),
            info,
            limit: self.stall_threshold.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            log: self.log.clone(),
            _active: active,
        });
    }
}

/// A connection's task. Written out, since there may be very many that only wait: it has room for pointers to what they
/// are made of, and for nothing twice.
struct Served<E> {
    entering: Option<E>,
    serving: LocalBoxFuture<'static, ()>,
    info: Rc<PeerInfo>,
    /// `worker_stall_threshold` in milliseconds.
    limit: Option<u64>,
    log: ErrorLog,
    _active: Standing,
}

impl<E: Future<Output = ()> + Unpin> Future for Served<E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(mut entering) = this.entering.take() {
            // Ready at once: it only notes whom to wake.
            let _ = Pin::new(&mut entering).poll(cx);
        }
        let serving = &mut this.serving;
        match this.limit {
            Some(limit) => stall::watched(limit, &this.info, &this.log, || serving.as_mut().poll(cx)),
            None => serving.as_mut().poll(cx),
        }
    }
}

fn is_shortage(error: &std::io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// When the last complaint was made: one a second is enough.
#[derive(Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn are_due(&mut self) -> bool {
        let due = self.0.is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}
