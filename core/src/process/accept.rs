//! Accepting connections: which worker takes the next one, and what happens when there is no room for it.

use std::cell::{Cell, OnceCell};
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

use super::row::{Position, Positions};
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

/// nginx: a worker that is free each time goes to the end of the row after so many clients all the same.
const TURNS: u32 = 16;

/// A listening socket in the event loop.
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    is_unix: bool,
    /// Where several workers wait in a row.
    position: OnceCell<Position>,
}

impl Listener {
    /// Watches a listening socket, which must not block.
    ///
    /// # Errors
    /// Those of epoll_ctl(2), or it is no socket.
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        let is_unix = socket2::SockRef::from(&socket).local_addr()?.is_unix();
        Ok(Listener { socket: adopt::watch(socket)?, is_unix, position: OnceCell::new() })
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        self.socket.get_ref()
    }

    /// Is given a position in the row at the socket.
    pub fn stand(&self, position: Position) {
        let _ = self.position.set(position);
    }

    /// Steps out of the row, if it stands in one.
    pub fn step_out(&self) {
        if let Some(position) = self.position.get() {
            position.step_out(self.socket().as_fd());
        }
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

    /// The next connection that is waiting; `WouldBlock` when there is none, as far as the event loop knows.
    fn accept(&self) -> std::io::Result<(Transport, Address)> {
        self.socket.try_io(Interest::READABLE, |_| self.accept_unasked())
    }

    /// The same, whether the event loop knows of anybody or not.
    fn accept_unasked(&self) -> std::io::Result<(Transport, Address)> {
        let (socket, client) = acceptfrom_with(self.socket(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
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
    pub listener: Rc<Listener>,
    /// The positions of all of the worker's listeners.
    pub positions: Positions,
    /// No other worker accepts from it: it is the only one, or has a socket of its own (`reuseport`).
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
    /// Clients let in since it last went to the end of the row.
    pub turns: Cell<u32>,
}

/// What comes after those who could be let in.
enum Then {
    /// The next who knocks.
    Next,
    /// Somebody waits, and there is no room.
    Full,
    /// A pause, or until there may be room: the system is short of something, or the socket does not work.
    Pause,
}

impl Acceptor {
    /// Accepts until the task is aborted.
    pub async fn run(self: Rc<Self>) {
        let enter = || Standing::enter(self.counters.clone(), State::Accepting);
        let mut accepting = Some(enter());
        let (mut complaints, mut courtesy) = (Complaints::default(), Courtesy::default());
        self.line_up().await;
        while self.listener.knock().await.is_ok() {
            let _ = accepting.get_or_insert_with(enter);
            let then = match &self.turn {
                Some(turn) => {
                    let _mine = turn.take().await;
                    self.let_in(&mut complaints)
                }
                None => {
                    self.stand_back(&mut courtesy).await;
                    self.let_in(&mut complaints)
                }
            };
            // Meanwhile those who knock stay in the backlog, from which other workers can take them.
            match then {
                Then::Next => self.find_position().await,
                Then::Full => {
                    accepting = None;
                    self.positions.step_out();
                    if !self.has_gone_elsewhere().await && self.connections.is_full() {
                        self.make_room(&mut complaints, None);
                        self.connections.room().await;
                    }
                }
                Then::Pause => {
                    accepting = None;
                    self.positions.step_out();
                    let _ = Timer::default().limit(BREATHER, self.connections.room()).await;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Lets in those for whom this worker may be the only one that was woken, before it goes.
    pub fn last_call(&self) {
        while let Some(life) = self.connections.admit() {
            match self.listener.accept_unasked() {
                Ok((transport, client)) => self.serve(transport, client, life),
                Err(_) => return,
            }
        }
    }

    /// Looks whether somebody waits for whom a worker was woken that has died or was stopped since.
    pub fn look_again(self: &Rc<Self>) {
        let Some(position) = self.listener.position.get().filter(|position| position.is_in()) else { return };
        if !position.look_again(self.listener.socket().as_fd(), &self.counters) {
            // The system is short of memory for it, and nothing else would try again.
            let acceptor = self.clone();
            spawn_local(async move { acceptor.line_up().await });
        }
    }

    /// Sees to it that the next connection wakes the worker whose it should be. A worker without room steps out of the row
    /// before it can be the only one to know of a client.
    async fn find_position(&self) {
        let Some(position) = self.listener.position.get() else { return };
        if self.connections.is_full() {
            return self.positions.step_out();
        }
        let has_had_its_turn = || self.turns.get() >= TURNS || self.counters.behind().next().is_some();
        if !position.is_in() || has_had_its_turn() && !position.is_last(&self.counters) {
            self.turns.set(0);
            self.line_up().await;
        }
    }

    /// Goes to the end of the row.
    async fn line_up(&self) {
        let Some(position) = self.listener.position.get() else { return };
        while !position.line_up(self.listener.socket().as_fd(), &self.counters) {
            // The system is short of memory for it.
            tokio::time::sleep(BREATHER).await;
        }
    }

    /// Leaves a client to a worker that has fewer.
    ///
    /// The kernel gives a connection to whoever asks first, and a worker that is at work asks before another has woken. So
    /// one that is ahead, and the last of the row, for then the others know of the client, stands back: for a millisecond,
    /// then for two, and so on, until the client has been taken. Not for ever: the others may be stuck, or not listen
    /// here. Those for whom it has waited in vain are not waited for again before they have accepted something. And not
    /// while they cannot keep up: where they have let in others and clients wait still, this worker takes one, then two,
    /// and so on.
    ///
    /// A socket of the worker's own is not shared, so there the kernel does the spreading.
    async fn stand_back(&self, courtesy: &mut Courtesy) {
        let others_know = || self.listener.position.get().is_none_or(|position| position.is_last(&self.counters));
        if self.own || !others_know() {
            return;
        }
        if courtesy.has_allowance() {
            return;
        }
        let accepted = courtesy.accepted_by_others(&self.counters);
        let mut pause = Duration::from_millis(1);
        // It may be long since somebody knocked.
        while courtesy.is_due(&self.counters) && others_know() && self.listener.is_waited_at() {
            if courtesy.accepted_by_others(&self.counters).saturating_sub(accepted) > 1 {
                return courtesy.help_more();
            }
            if pause > Courtesy::LONGEST_PAUSE {
                return courtesy.ignore_those_behind(&self.counters);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        courtesy.help_no_more();
    }

    /// Leaves a client to a worker that has room, where there is one: it knows of the client as well, or will with the next.
    /// Not for long, since it may be stuck. True when there is nothing to be done any more.
    async fn has_gone_elsewhere(&self) -> bool {
        let mut pause = Duration::from_millis(1);
        while self.connections.is_full() && self.listener.is_waited_at() {
            if !self.counters.others_have_fewer() || pause > Courtesy::LONGEST_PAUSE {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        true
    }

    /// Lets in who knocks, one or all of them.
    fn let_in(&self, complaints: &mut Complaints) -> Then {
        loop {
            let Some(life) = self.connections.admit() else {
                // It may be long since somebody knocked.
                if !self.listener.is_waited_at() {
                    return Then::Next;
                }
                return Then::Full;
            };
            match self.listener.accept() {
                Ok((transport, client)) => self.serve(transport, client, life),
                Err(error) => match Failure::of(&error) {
                    Failure::Nobody => return Then::Next,
                    Failure::GaveUp => return Then::Next,
                    Failure::Shortage => {
                        self.make_room(complaints, Some(&error));
                        return Then::Pause;
                    }
                    Failure::Other => {
                        if complaints.are_due() {
                            let (address, error) = (&self.binding.address, crate::log::os_error(&error));
                            crate::log!(Logger::new(&self.log), Alert, "accept4() on {address} failed ({error})");
                        }
                        return Then::Pause;
                    }
                },
            }
            if !self.multi_accept {
                return Then::Next;
            }
        }
    }

    /// Makes room at the cost of idle connections, where there are any, and says so.
    fn make_room(&self, complaints: &mut Complaints, shortage: Option<&std::io::Error>) {
        let reclaimed = self.connections.reclaim();
        match reclaimed {
            Some(count) => (0..count).for_each(|_| self.counters.count(Total::Reclaimed)),
            None => self.counters.count(Total::Exhausted),
        }
        if !complaints.are_due() {
            return;
        }
        let (log, connections) = (Logger::new(&self.log), self.connections.len());
        if let Some(error) = shortage {
            crate::log!(log, Alert, "accept4() failed ({})", crate::log::os_error(error));
        } else if reclaimed.is_some() {
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
        self.turns.set(self.turns.get().saturating_add(1));
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

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Nobody waits.
    Nobody,
    /// The client has given up before we came to it, or it could not be reached: accept(2) passes such errors on.
    GaveUp,
    /// The system is short of something.
    Shortage,
    /// The socket does not work.
    Other,
}

impl Failure {
    fn of(error: &std::io::Error) -> Failure {
        use nix::libc;
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Failure::Nobody,
            None if error.kind() == std::io::ErrorKind::WouldBlock => Failure::Nobody,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC) => Failure::Shortage,
            Some(
                libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET,
            ) => Failure::GaveUp,
            None if error.kind() == std::io::ErrorKind::ConnectionAborted => Failure::GaveUp,
            _ => Failure::Other,
        }
    }
}

/// How much a worker that is ahead leaves to others.
#[derive(Default)]
struct Courtesy {
    /// The workers that are not waited for: each with the number of connections that it had accepted when it was in vain.
    ignored: Vec<(usize, u64)>,
    /// Clients that it may take without waiting, and how many that were the last time.
    left: u32,
    allowance: u32,
}

impl Courtesy {
    /// Those before it take as long again.
    const LONGEST_PAUSE: Duration = Duration::from_millis(64);
    const LARGEST_ALLOWANCE: u32 = 1024;

    /// True when there is a worker to leave a client to.
    fn is_due(&mut self, counters: &Counters) -> bool {
        self.ignored.retain(|(slot, accepted)| counters.accepted_by(*slot) == *accepted);
        counters.behind().any(|slot| !self.ignored.iter().any(|(known, _)| *known == slot))
    }

    fn has_allowance(&mut self) -> bool {
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }

    /// What the workers have accepted that a client could be left to.
    fn accepted_by_others(&self, counters: &Counters) -> u64 {
        counters.behind().map(|slot| counters.accepted_by(slot)).fold(0, u64::wrapping_add)
    }

    /// They have taken clients, and others wait still.
    fn help_more(&mut self) {
        self.allowance = self.allowance.saturating_mul(2).clamp(1, Self::LARGEST_ALLOWANCE);
        self.left = self.allowance - 1;
    }

    fn help_no_more(&mut self) {
        self.allowance = 0;
    }

    fn ignore_those_behind(&mut self, counters: &Counters) {
        self.ignored = counters.behind().map(|slot| (slot, counters.accepted_by(slot))).collect();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_client_causes_is_passed_over() {
        use nix::libc;
        for (number, expected) in [
            (libc::EAGAIN, Failure::Nobody),
            (libc::ECONNABORTED, Failure::GaveUp),
            (libc::EHOSTUNREACH, Failure::GaveUp),
            (libc::EMFILE, Failure::Shortage),
            (libc::ENOSPC, Failure::Shortage),
            (libc::EINVAL, Failure::Other),
            (libc::EPERM, Failure::Other),
            (libc::EACCES, Failure::Other),
        ] {
            assert_eq!(Failure::of(&std::io::Error::from_raw_os_error(number)), expected, "{number}");
        }
        assert_eq!(Failure::of(&std::io::ErrorKind::WouldBlock.into()), Failure::Nobody);
    }

    #[test]
    fn a_worker_is_waited_for_again_when_it_has_accepted_something() {
        let counters = Rc::new(Counters::shared(&crate::zone::Zones::default()).unwrap());
        let enter = |state| Standing::enter(counters.clone(), state);
        crate::slot::set(5, 0);
        let accepting = enter(State::Accepting);
        crate::slot::set(0, 0);
        let mut courtesy = Courtesy::default();
        let mut mine = vec![enter(State::Active)];
        assert!(!courtesy.is_due(&counters), "one more is no more than chance");
        mine.push(enter(State::Active));
        assert!(courtesy.is_due(&counters));
        courtesy.ignore_those_behind(&counters);
        assert!(!courtesy.is_due(&counters));
        crate::slot::set(5, 0);
        counters.count(Total::Accepted);
        crate::slot::set(0, 0);
        assert!(courtesy.is_due(&counters));
        crate::slot::set(5, 0);
        drop(accepting);
        crate::slot::set(0, 0);
        assert!(!courtesy.is_due(&counters), "it does not accept");
    }

    #[test]
    fn a_worker_helps_more_and_more_while_others_cannot_keep_up() {
        let mut courtesy = Courtesy::default();
        let taken = |courtesy: &mut Courtesy| {
            courtesy.help_more();
            // The one that it has waited with, and those that it need not wait with.
            1 + std::iter::repeat_with(|| courtesy.has_allowance()).take_while(|has| *has).count()
        };
        let all: Vec<usize> = (0..12).map(|_| taken(&mut courtesy)).collect();
        assert_eq!(all, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
        courtesy.help_no_more();
        assert_eq!(taken(&mut courtesy), 1);
    }
}
