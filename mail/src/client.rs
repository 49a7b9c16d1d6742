//! The client's side of a session until it is logged in: bytes in and out, one deadline for the login, and the three
//! things that may cut it short: the client leaves, the time is over, the worker goes away.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate_core::log;
use tidegate_core::net::buffers;
use tidegate_core::net::connection::{Connection, IoFailure, write};
use tidegate_core::net::timer::later;
use tidegate_core::net::{Lifetime, Timer, Transport};
use tidegate_core::subject::Subject;
use tidegate_core::tls::{self, ServerTls};
use tidegate_mail_wire::action::Action;
use tidegate_mail_wire::dialogue::{Dialogue, Event};
use tokio::io::AsyncReadExt;

use crate::session::{Ending, Session};

/// How long a client that has not logged in yet may go on when the worker is going away.
const GRACE: Duration = Duration::from_secs(5);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Room for what a client sends before it has its turn.
const SPARE: usize = 512;

/// A client's connection before the login.
pub struct Client {
    session: Rc<Session>,
    /// Gone after a handshake that failed.
    transport: Option<Transport>,
    timer: Timer,
    life: Lifetime,
    /// Nothing while the client and the server have nothing to say to each other.
    talk: Option<Box<Talk>>,
    deadline: Instant,
    /// When to give up because the worker is going away, once it is. Apart, since few ever have one.
    stop_at: Option<Box<Instant>>,
}

/// What has been said and not been heard yet.
#[derive(Default)]
struct Talk {
    input: BytesMut,
    replies: BytesMut,
}

/// What a client needs when it is logged in.
pub struct Parts {
    /// Its transport.
    pub transport: Transport,
    /// Its timer.
    pub timer: Timer,
    /// Its membership: the session counts until this is dropped.
    pub life: Lifetime,
    /// What it has sent and nobody has read.
    pub input: BytesMut,
    /// What it has yet to get.
    pub replies: BytesMut,
}

impl Client {
    /// A client that has just connected.
    pub fn new(session: Rc<Session>, connection: Connection, life: Lifetime) -> Self {
        connection.transport.set_nodelay();
        let deadline = later(session.server().timeout);
        Client {
            session,
            transport: Some(connection.transport),
            timer: connection.timer,
            life,
            talk: None,
            deadline,
            stop_at: None,
        }
    }

    /// Whose client this is.
    pub fn session(&self) -> Rc<Session> {
        self.session.clone()
    }

    /// What the client has sent and nobody has read.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.talk().input
    }

    /// Where what the client has to get is written.
    pub fn replies(&mut self) -> &mut BytesMut {
        &mut self.talk().replies
    }

    fn talk(&mut self) -> &mut Talk {
        self.talk.get_or_insert_default()
    }

    /// Gives back what has no use while nothing is said.
    fn fall_silent(&mut self) {
        if let Some(talk) = self.talk.take_if(|talk| talk.input.is_empty() && talk.replies.is_empty()) {
            buffers::give(talk.input);
        }
    }

    /// A login has failed and another may be tried: the time for it begins anew.
    pub fn begins_anew(&mut self) {
        self.deadline = later(self.session.server().timeout);
    }

    /// Waits for more of what the client says.
    ///
    /// # Errors
    /// The client left or took too long, or the worker is going away.
    pub async fn more<D: Dialogue>(&mut self) -> Result<(), Ending> {
        Err(match poll_fn(|cx| self.poll_read(cx)).await {
            Read::Some => return Ok(()),
            Read::End => Ending::Gone,
            Read::Failed(error) => self.failed("recv", &error),
            Read::TimedOut => self.timed_out(),
            Read::Stopped => {
                self.replies().extend_from_slice(D::SHUTTING_DOWN);
                Ending::Stopped
            }
        })
    }

    /// What the dialogue makes of what has come. Its replies have been sent.
    ///
    /// # Errors
    /// The client left, took too long or misbehaved.
    pub async fn turn<D: Dialogue>(&mut self, dialogue: &mut D) -> Result<Option<Event>, Ending> {
        let talk = self.talk();
        let outcome = dialogue.receive(&mut talk.input, &mut talk.replies);
        self.flush().await?;
        outcome.map_err(|close| {
            log!(self.session.logger(), Info, "{close}");
            Ending::Misbehaved
        })
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The client left, or took nothing for `timeout`.
    pub async fn flush(&mut self) -> Result<(), Ending> {
        let limit = self.session.server().timeout;
        self.flush_within(limit).await
    }

    async fn flush_within(&mut self, limit: Duration) -> Result<(), Ending> {
        let Some(transport) = &mut self.transport else { return Err(Ending::Gone) };
        let bytes = self.talk.as_mut().map(|talk| std::mem::take(&mut talk.replies)).unwrap_or_default();
        if bytes.is_empty() {
            self.fall_silent();
            return Ok(());
        }
        let sent = write(transport, &mut self.timer, &bytes, limit).await;
        match sent {
            Ok(()) => {
                let counter = &self.session.counters.to_client;
                counter.set(counter.get().saturating_add(u64::try_from(bytes.len()).unwrap_or(0)));
                self.fall_silent();
                Ok(())
            }
            Err(IoFailure::TimedOut) => Err(self.timed_out()),
            Err(IoFailure::Io(error)) => Err(self.failed("send", &error)),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        if let Poll::Ready(read) = self.poll_input(cx) {
            return Poll::Ready(read);
        }
        let stop_at = self.life.is_stopping().then(|| **self.stop_at.get_or_insert_with(|| Box::new(later(GRACE))));
        let deadline = stop_at.map_or(self.deadline, |at| at.min(self.deadline));
        let over = if stop_at == Some(deadline) { Read::Stopped } else { Read::TimedOut };
        self.timer.poll_until(cx, deadline).map(|()| over)
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        let Some(transport) = &mut self.transport else { return Poll::Ready(Read::End) };
        // There is a buffer only when there is something to put into it.
        if let Err(error) = ready!(transport.poll_readable(cx)) {
            return Poll::Ready(Read::Failed(error));
        }
        let input = &mut self.talk.get_or_insert_default().input;
        if input.capacity() == 0 {
            *input = buffers::take(self.session.server().dialogue.buffer.clamp(256, 1 << 16));
        } else if input.capacity() == input.len() {
            input.reserve(SPARE);
        }
        let read = pin!(transport.read_buf(input)).poll(cx);
        if read.is_pending() {
            self.fall_silent();
        }
        read.map(|read| match read {
            Ok(0) => Read::End,
            Ok(count) => {
                let counter = &self.session.counters.from_client;
                counter.set(counter.get().saturating_add(u64::try_from(count).unwrap_or(0)));
                Read::Some
            }
            Err(error) => Read::Failed(error),
        })
    }

    /// Does some work during which nothing is asked of the client. What it sends meanwhile is kept, up to the size of
    /// its buffer; nginx does not look, and so does not notice that nobody is there any more.
    ///
    /// # Errors
    /// The client left; the work is dropped.
    pub async fn during<F: Future>(&mut self, work: F) -> Result<F::Output, Ending> {
        let mut work = pin!(work);
        let done = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(Some(output))),
            Poll::Pending => self.poll_presence(cx).map(|gone| gone.map_or(Ok(None), Err)),
        });
        if let Some(output) = done.await? {
            return Ok(output);
        }
        // There is no room for more of what it says: that it breaks off can still be noticed.
        let mut broken = pin!(self.broken());
        let done = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => broken.as_mut().poll(cx).map(|()| None),
        });
        done.await.ok_or_else(|| self.left())
    }

    async fn broken(&self) {
        if let Some(transport) = &self.transport {
            transport.broken().await;
        }
    }

    /// Lets the client wait, but not longer than the worker lives.
    ///
    /// # Errors
    /// The client left.
    pub async fn pause(&mut self, time: Duration) -> Result<(), Ending> {
        let until = later(time);
        let over = poll_fn(|cx| {
            if self.life.is_stopping() || self.timer.poll_until(cx, until).is_ready() {
                return Poll::Ready(Ok(true));
            }
            self.poll_presence(cx).map(|gone| gone.map_or(Ok(false), Err))
        });
        if over.await? {
            return Ok(());
        }
        let Client { transport, timer, life, .. } = self;
        let Some(transport) = transport else { return Err(Ending::Gone) };
        let over = {
            let mut broken = pin!(transport.broken());
            poll_fn(|cx| {
                if life.is_stopping() || timer.poll_until(cx, until).is_ready() {
                    return Poll::Ready(true);
                }
                broken.as_mut().poll(cx).map(|()| false)
            })
            .await
        };
        if over { Ok(()) } else { Err(self.left()) }
    }

    /// True when the worker is going away.
    pub fn is_stopping(&self) -> bool {
        self.life.is_stopping()
    }

    /// Ready when the client is gone, or with nothing when there is no room for more of what it says.
    fn poll_presence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        while self.talk.as_ref().map_or(0, |talk| talk.input.len()) < self.session.server().dialogue.buffer {
            match self.poll_input(cx) {
                Poll::Ready(Read::Some) => {}
                Poll::Ready(Read::Failed(error)) => return Poll::Ready(Some(self.failed("recv", &error))),
                Poll::Ready(_) => return Poll::Ready(Some(self.left())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }

    fn left(&self) -> Ending {
        log!(self.session.logger(), Info, "client closed connection");
        Ending::Gone
    }

    /// Shakes hands, within what is left of the time to log in.
    ///
    /// # Errors
    /// The handshake failed; the connection is lost.
    pub async fn start_tls(&mut self, server: ServerTls) -> Result<(), Ending> {
        self.session.acts(Action::TlsHandshaking);
        let limit = self.deadline.saturating_duration_since(Instant::now());
        let Some(transport) = self.transport.take() else { return Err(Ending::Gone) };
        match tls::server::accept(transport, &mut self.timer, limit, |_| Some(server)).await {
            Ok((transport, info)) => {
                self.transport = Some(transport);
                let _ = self.session.peer().tls.set(Box::new(info));
                Ok(())
            }
            Err(tls::TlsFailure::TimedOut) => Err(self.timed_out()),
            Err(failure) => {
                log!(self.session.logger(), Info, "{failure}");
                if let tls::TlsFailure::NotTls(transport) = failure {
                    tls::server::refuse(*transport).await;
                }
                Err(Ending::TlsFailed)
            }
        }
    }

    /// Says the last words that are queued and closes. Who has had all the time there is gets no more for that.
    pub async fn close(mut self, ending: Ending) {
        let patience = if matches!(ending, Ending::TimedOut | Ending::Gone) { Duration::ZERO } else { LAST_WORDS };
        let _ = self.flush_within(patience).await;
        if let Some(transport) = &mut self.transport {
            let _ = self.timer.limit(patience, transport.finish()).await;
        }
    }

    /// What is needed of a client that is logged in.
    ///
    /// # Errors
    /// It is gone.
    pub fn into_parts(self) -> Result<Parts, Ending> {
        let Client { transport, timer, life, talk, .. } = self;
        let Talk { input, replies } = talk.map_or_else(Talk::default, |talk| *talk);
        Ok(Parts { transport: transport.ok_or(Ending::Gone)?, timer, life, input, replies })
    }

    fn timed_out(&self) -> Ending {
        log!(self.session.logger(), Info, "client timed out (110: Connection timed out)");
        Ending::TimedOut
    }

    fn failed(&self, call: &str, error: &io::Error) -> Ending {
        log!(self.session.logger(), Info, "{call}() failed ({})", log::os_error(error));
        Ending::Gone
    }
}

/// What a wait for the client gave.
enum Read {
    Some,
    End,
    Failed(io::Error),
    TimedOut,
    Stopped,
}
