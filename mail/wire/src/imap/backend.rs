//! The login to an IMAP backend with the client's own tag, so that its answer can go to the client as it is.

use bytes::{Bytes, BytesMut};
use tidegate_core_wire::Machine;
use tidegate_core_wire::line::{Line, take_line};

use crate::action::Action;
use crate::backend::{BadReply, LoggedIn, Login};
use crate::sasl::{Credentials, Secret};

/// A LOGIN to an IMAP backend; user and password go as literals, so that nothing in them needs quoting.
///
/// Every reply may come with untagged lines, as many as fit `proxy_buffer` with it. nginx knows at most one.
///
/// What comes before the command that it would answer has been sent is no answer: an untagged line, which a server may
/// send at any time, is dropped then, and anything else is a fault.
pub struct Backend {
    tag: Bytes,
    credentials: Credentials,
    limit: usize,
    /// The lines of the reply being read; they and the rest of it must fit `limit`.
    reply: BytesMut,
    state: State,
    /// A command is queued and has not been sent yet: nothing that comes can be its answer.
    unsent: bool,
}

/// What the backend is to say next.
#[derive(Clone, Copy)]
enum State {
    /// Its greeting.
    Greeting,
    /// That it wants the user name.
    UserName,
    /// That it wants the password.
    Password,
    /// That we are in.
    Completion,
    /// Nothing: the login is over.
    Over,
}

/// What a line is in the state it came in.
enum Meaning {
    /// The answer awaited.
    Awaited,
    /// An untagged line before it.
    Untagged,
    /// An answer to a command that has not been sent.
    Unasked,
    /// Anything else.
    Wrong,
}

impl Backend {
    /// Logs in under the client's tag. `limit` is `proxy_buffer`: the most octets that one reply may have.
    pub fn new(tag: Bytes, credentials: Credentials, limit: usize) -> Self {
        Backend { tag, credentials, limit, reply: BytesMut::new(), state: State::Greeting, unsent: false }
    }

    fn meaning(&self, line: &[u8]) -> Meaning {
        if self.unsent {
            return if line.starts_with(b"* ") { Meaning::Untagged } else { Meaning::Unasked };
        }
        let awaited = match self.state {
            State::Greeting => return if says_ok(line, b"*") { Meaning::Awaited } else { Meaning::Wrong },
            // nginx: the plus sign is enough.
            State::UserName | State::Password => line.starts_with(b"+"),
            State::Completion => says_ok(line, &self.tag),
            State::Over => false,
        };
        if awaited {
            Meaning::Awaited
        } else if line.starts_with(b"* ") {
            Meaning::Untagged
        } else {
            Meaning::Wrong
        }
    }

    /// Sends what follows the awaited answer; the last answer completes the login.
    fn advance(&mut self, replies: &mut BytesMut) -> Option<LoggedIn> {
        let reply = self.reply.split().freeze();
        let password = self.credentials.password.as_ref().map_or(&b""[..], Secret::expose);
        let user = &self.credentials.user;
        self.state = match self.state {
            State::Greeting => {
                replies.extend_from_slice(&self.tag);
                replies.extend_from_slice(format!(" LOGIN {{{}}}\r\n", user.len()).as_bytes());
                State::UserName
            }
            State::UserName => {
                replies.extend_from_slice(user);
                replies.extend_from_slice(format!(" {{{}}}\r\n", password.len()).as_bytes());
                State::Password
            }
            State::Password => {
                replies.extend_from_slice(password);
                replies.extend_from_slice(b"\r\n");
                State::Completion
            }
            State::Completion => {
                self.state = State::Over;
                return Some(LoggedIn { reply });
            }
            State::Over => State::Over,
        };
        self.unsent = true;
        None
    }

    /// Whether the beginning of a line shows already that the line must not be there yet.
    fn is_unasked(&self, beginning: &[u8]) -> bool {
        const UNTAGGED: &[u8] = b"* ";
        self.unsent && beginning.iter().zip(UNTAGGED).any(|(found, wanted)| found != wanted)
    }

    fn unasked(&mut self, line: &[u8]) -> BadReply {
        self.state = State::Over;
        BadReply::Unasked { line: Bytes::copy_from_slice(line) }
    }

    fn wrong(&mut self, line: Line) -> BadReply {
        self.state = State::Over;
        BadReply::Invalid { line: line.into_content(), reply: self.reply.split().freeze() }
    }

    fn too_long(&mut self, input: &BytesMut, room: usize) -> BadReply {
        self.state = State::Over;
        BadReply::TooLong { line: Bytes::copy_from_slice(input.get(..room).unwrap_or(input)) }
    }
}

/// Whether a line is `tag OK`, alone or with text.
fn says_ok(line: &[u8], tag: &[u8]) -> bool {
    match line.strip_prefix(tag).and_then(|rest| rest.split_at_checked(3)) {
        Some((word, text)) => word.eq_ignore_ascii_case(b" OK") && (text.is_empty() || text.starts_with(b" ")),
        None => false,
    }
}

impl Machine for Backend {
    type Event = LoggedIn;
    type Error = BadReply;

    fn receive(&mut self, input: &mut BytesMut, replies: &mut BytesMut) -> Result<Option<LoggedIn>, BadReply> {
        while !matches!(self.state, State::Over) {
            let room = self.limit.saturating_sub(self.reply.len());
            let line = match take_line(input, room) {
                Ok(Some(line)) => line,
                Ok(None) if self.is_unasked(input) => return Err(self.unasked(input)),
                Ok(None) => return Ok(None),
                Err(_) => return Err(self.too_long(input, room)),
            };
            self.reply.extend_from_slice(line.raw());
            match self.meaning(&line) {
                Meaning::Untagged => (),
                Meaning::Wrong => return Err(self.wrong(line)),
                Meaning::Unasked => return Err(self.unasked(&line)),
                Meaning::Awaited => {
                    if let Some(logged_in) = self.advance(replies) {
                        return Ok(Some(logged_in));
                    }
                }
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<Option<LoggedIn>, BadReply> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => Ok(None),
            _ => Err(BadReply::Closed),
        }
    }
}

impl Login for Backend {
    fn action(&self) -> Action {
        match self.state {
            State::Greeting => Action::ConnectingToUpstream,
            State::UserName => Action::SendingLogin,
            State::Password => Action::SendingUserName,
            State::Completion => Action::SendingPassword,
            State::Over => Action::ReadingUpstreamResponse,
        }
    }

    fn sent(&mut self) {
        self.unsent = false;
        self.reply.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core_wire::testing::every_split;

    const SENT: &str = "a01 LOGIN {4}\r\nu\"\\v {3}\r\np w\r\n";

    fn backend() -> Backend {
        let credentials = Credentials { user: Bytes::from_static(b"u\"\\v"), password: Some(Secret::new(&b"p w"[..])) };
        Backend::new(Bytes::from_static(b"a01"), credentials, 64)
    }

    /// What was sent, how it ended, and what of the input was left. The backend is one that waits for what it answers.
    fn login(pieces: &[&[u8]]) -> (String, Result<String, BadReply>, String) {
        let mut backend = backend();
        let (mut input, mut sent) = (BytesMut::new(), BytesMut::new());
        let mut outcome = None;
        for line in pieces.iter().flat_map(|piece| piece.split_inclusive(|octet| *octet == b'\n')) {
            input.extend_from_slice(line);
            if outcome.is_none() {
                let before = sent.len();
                outcome = backend.receive(&mut input, &mut sent).transpose();
                if sent.len() > before {
                    backend.sent();
                }
            }
        }
        let outcome = match outcome {
            Some(Ok(LoggedIn { reply })) => {
                assert_eq!(backend.end(), Ok(None), "the end of a backend that let us in is not the login's matter");
                Ok(text(&reply))
            }
            Some(Err(bad)) => Err(bad),
            None => backend.end().map(|event| panic!("{event:?}")),
        };
        (text(&sent), outcome, text(&input))
    }

    fn text(octets: &[u8]) -> String {
        String::from_utf8(octets.to_vec()).unwrap()
    }

    /// The outcome for `input`, and that it ends too early anywhere before `needed`.
    fn run(input: &str, needed: usize) -> (String, Result<String, BadReply>, String) {
        for end in 0..needed {
            let (_, outcome, _) = login(&[&input.as_bytes()[..end]]);
            assert_eq!(outcome, Err(BadReply::Closed), "after {end} octets");
        }
        every_split(input.as_bytes(), login)
    }

    fn invalid(line: &str, reply: &str) -> Result<String, BadReply> {
        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Err(BadReply::Invalid { line: copy(line), reply: copy(reply) })
    }

    #[test]
    fn user_and_password_go_as_literals() {
        let input = "* OK ready\r\n+ \r\n+\r\na01 OK in\r\n";
        assert_eq!(run(input, input.len()), (SENT.into(), Ok("a01 OK in\r\n".into()), String::new()));
    }

    #[test]
    fn any_number_of_untagged_lines_may_come_before_an_answer() {
        let input =
            "* ok\r\n* CAPABILITY IMAP4rev1\r\n+ go\r\n* X\r\n+ go\r\n* CAPABILITY A\r\n* 0 B\r\na01 ok [C] in\r\n";
        let reply = "* CAPABILITY A\r\n* 0 B\r\na01 ok [C] in\r\n";
        assert_eq!(run(input, input.len()), (SENT.into(), Ok(reply.into()), String::new()));
    }

    /// How a login ends at a backend that has said `asked` when it was its turn, and then says `early` before the command
    /// that this has led to was sent.
    fn hasty(asked: &str, early: &str) -> Option<Result<LoggedIn, BadReply>> {
        every_split(early.as_bytes(), |pieces| {
            let mut backend = backend();
            let (mut input, mut sent) = (BytesMut::new(), BytesMut::new());
            let turns: Vec<&str> = asked.split_inclusive('\n').collect();
            for (number, turn) in turns.iter().enumerate() {
                input.extend_from_slice(turn.as_bytes());
                if number + 1 < turns.len() || pieces.len() > 1 {
                    assert_eq!(backend.receive(&mut input, &mut sent), Ok(None));
                }
                if number + 1 < turns.len() {
                    backend.sent();
                }
            }
            // In one piece it comes together with what was asked for.
            let mut outcome = None;
            for piece in pieces {
                input.extend_from_slice(piece);
                outcome = outcome.or_else(|| backend.receive(&mut input, &mut sent).transpose());
            }
            // How much of the line is told depends on how much of it was there.
            outcome.map(|outcome| {
                outcome.map_err(|bad| match bad {
                    BadReply::Unasked { .. } => BadReply::Unasked { line: Bytes::new() },
                    other => other,
                })
            })
        })
    }

    #[test]
    fn an_answer_before_the_question_is_a_fault() {
        let unasked = Some(Err(BadReply::Unasked { line: Bytes::new() }));
        for (asked, early) in [
            ("* OK\r\n", "+ \r\n"),
            ("* OK\r\n", "+"),
            ("* OK\r\n", "+ \r\n+ \r\na01 OK in\r\n"),
            ("* OK\r\n", "a01 OK in\r\n"),
            ("* OK\r\n", "* 1 EXISTS\r\n+ \r\n"),
            ("* OK\r\n", "\r\n"),
            ("* OK\r\n", "*\r\n"),
            ("* OK\r\n", "**"),
            ("* OK\r\n+ \r\n", "+ \r\n"),
            ("* OK\r\n+ \r\n", "+ \r\na01 OK in\r\n"),
            ("* OK\r\n+ \r\n+ \r\n", "a01 OK in\r\n"),
            ("* OK\r\n+ \r\n+ \r\n", "a01 NO\r\n"),
            ("* OK\r\n+ \r\n+ \r\n", "a"),
        ] {
            assert_eq!(hasty(asked, early), unasked, "{asked:?} {early:?}");
        }
    }

    #[test]
    fn untagged_lines_may_come_at_any_time_and_early_ones_are_no_part_of_the_answer() {
        for early in ["", "* 1 EXISTS\r\n", "* 1 EXISTS\r\n* BYE\r\n", "*", "* 1 EX"] {
            assert_eq!(if early.is_empty() { None } else { hasty("* OK\r\n", early) }, None, "{early:?}");
            let mut backend = backend();
            let (mut input, mut sent) = (BytesMut::new(), BytesMut::new());
            for (asked, early) in [("* OK\r\n", ""), ("+ \r\n", ""), ("+ \r\n", early)] {
                input.extend_from_slice(asked.as_bytes());
                assert_eq!(backend.receive(&mut input, &mut sent), Ok(None));
                input.extend_from_slice(early.as_bytes());
                assert_eq!(backend.receive(&mut input, &mut sent), Ok(None));
                backend.sent();
            }
            let rest = if early.is_empty() || early.ends_with('\n') { "a01 OK\r\n" } else { " x\r\na01 OK\r\n" };
            input.extend_from_slice(rest.as_bytes());
            let reply = backend.receive(&mut input, &mut sent).unwrap().unwrap().reply;
            assert!(reply.ends_with(b"a01 OK\r\n") && !text(&reply).contains("BYE"), "{reply:?}");
        }
    }

    #[test]
    fn early_lines_have_a_limit() {
        let long = "* 30 octets with its line end\r\n".repeat(3);
        let mut backend = backend();
        let (mut input, mut sent) = (BytesMut::from(&*format!("* OK\r\n{long}")), BytesMut::new());
        assert!(matches!(backend.receive(&mut input, &mut sent), Err(BadReply::TooLong { .. })));
    }

    #[test]
    fn what_follows_the_login_stays_in_the_input() {
        let login = "* OK\r\n+ \r\n+ \r\na01 OK\r\n";
        let (_, outcome, left) = run(&format!("{login}* BYE\r\nrest"), login.len());
        assert_eq!((outcome, left), (Ok("a01 OK\r\n".into()), "* BYE\r\nrest".into()));
    }

    #[test]
    fn a_reply_that_is_not_the_awaited_one_is_kept_whole() {
        for (input, line) in [
            ("* PREAUTH hi\r\n", "* PREAUTH hi"),
            ("* BYE busy\r\n", "* BYE busy"),
            ("* OKAY\r\n", "* OKAY"),
            ("\r\n", ""),
            ("+OK pop3\r\n", "+OK pop3"),
            ("220 smtp\r\n", "220 smtp"),
        ] {
            let (sent, outcome, _) = run(input, input.len());
            assert_eq!((sent, outcome), (String::new(), invalid(line, input)));
        }
        let input = "* OK\r\na01 BAD no literals\r\n";
        let (_, outcome, _) = run(input, input.len());
        assert_eq!(outcome, invalid("a01 BAD no literals", "a01 BAD no literals\r\n"));

        let input = "* OK\r\n+ \r\n+ \r\n* NO hm\r\na01 NO [UNAVAILABLE] later\r\n";
        let (sent, outcome, _) = run(input, input.len());
        assert_eq!(sent, SENT);
        assert_eq!(outcome, invalid("a01 NO [UNAVAILABLE] later", "* NO hm\r\na01 NO [UNAVAILABLE] later\r\n"));
    }

    #[test]
    fn only_our_own_tag_completes_the_login() {
        for line in ["a02 OK in", "a011 OK in", "A01 OK in", "a01 OKAY", "a01OK", "+ more"] {
            let input = format!("* OK\r\n+ \r\n+ \r\n{line}\r\n");
            let (_, outcome, _) = run(&input, input.len());
            assert_eq!(outcome, invalid(line, &format!("{line}\r\n")));
        }
    }

    #[test]
    fn a_reply_must_fit_the_buffer() {
        let long = format!("* OK {}", "x".repeat(59));
        let (_, outcome, _) = run(&format!("{long}xx\r\n"), 64 - 1);
        assert_eq!(outcome.unwrap_err().to_string(), format!("upstream sent too long response line: \"{long}\""));

        let untagged = "* 30 octets with its line end\r\n";
        let login = format!("* OK\r\n+ \r\n+ \r\n{untagged}{untagged}");
        let (_, outcome, _) = run(&format!("{login}a01 OK\r\n"), login.len());
        assert_eq!(outcome, Err(BadReply::TooLong { line: Bytes::from_static(b"a0") }));
    }

    #[test]
    fn each_reply_has_the_whole_buffer() {
        let long = "x".repeat(55);
        let input = format!("* OK {long}\r\n+ {long}\r\n+ {long}\r\na01 OK {long}\r\n");
        let (_, outcome, _) = run(&input, input.len());
        assert_eq!(outcome, Ok(format!("a01 OK {long}\r\n")));
    }

    #[test]
    fn the_action_is_what_was_sent_last() {
        let mut backend = backend();
        for (input, action) in [
            ("", Action::ConnectingToUpstream),
            ("* OK\r\n", Action::SendingLogin),
            ("+ \r\n", Action::SendingUserName),
            ("+ \r\n", Action::SendingPassword),
        ] {
            let mut input = BytesMut::from(input);
            assert_eq!(backend.receive(&mut input, &mut BytesMut::new()), Ok(None));
            backend.sent();
            assert_eq!(backend.action(), action);
        }
    }
}
