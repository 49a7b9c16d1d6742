//! The dialogue with an IMAP client before login.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tidegate_core_wire::Machine;
use tidegate_core_wire::line::take_line;

use super::command::{Command, Item, Oversize, Reader, Verb};
use crate::auth::Refusal;
use crate::dialogue::{Attempt, Close, Config, Dialogue, Event, Protocol, StartTls};
use crate::sasl::{Credentials, Exchange, Mechanism, Method, Rejection, Secret, Step};

const INVALID_COMMAND: &str = "BAD invalid command";
const ABORTED: &str = "BAD AUTHENTICATE aborted";
const COMPLETED: &str = "OK completed";

/// An IMAP client before login: reads its commands, answers them, and says when it wants to log in.
///
/// Commands may be pipelined; the dialogue stops taking input at every event that the driver has to act upon.
pub struct Client {
    config: Rc<Config>,
    /// Empty where CRAM-MD5 is off.
    salt: Box<[u8]>,
    tls: bool,
    errors: u32,
    attempts: u32,
    reader: Reader,
    state: State,
}

/// Most clients wait at [`State::Commands`], which takes no room for the others.
enum State {
    /// Commands are read.
    Commands,
    /// An AUTHENTICATE waits for a response.
    Authenticating(Box<(Bytes, Exchange)>),
    /// A login is with the driver.
    Deciding { tag: Box<[u8]> },
    /// STARTTLS was answered.
    Handshaking,
    /// The dialogue is over.
    Over,
}

/// What a piece of input leads to: the state after it and perhaps an event; or more input is needed.
enum Turn {
    Next(State),
    Report(State, Event),
    NeedInput(State),
}

impl Client {
    /// A dialogue over a connection that is in TLS already or not. `salt` is the challenge of CRAM-MD5,
    /// `<random.time@server_name>`, and must be this connection's own.
    pub fn new(config: Rc<Config>, tls: bool, salt: &[u8]) -> Self {
        let reader = Reader::new(config.buffer);
        Client { config, salt: salt.into(), tls, errors: 0, attempts: 0, reader, state: State::Commands }
    }

    fn command(&mut self, input: &mut BytesMut, replies: &mut BytesMut) -> Result<Turn, Close> {
        match self.reader.next(input) {
            Ok(Item::NeedInput) => Ok(Turn::NeedInput(State::Commands)),
            Ok(Item::Permit) => {
                replies.extend_from_slice(b"+ OK\r\n");
                Ok(Turn::Next(State::Commands))
            }
            Ok(Item::Command(command)) => Ok(self.obey(command, replies)),
            Ok(Item::Malformed { tag }) => {
                tagged(replies, tag.as_deref(), INVALID_COMMAND);
                self.count_error()?;
                Ok(Turn::Next(State::Commands))
            }
            Err(Oversize::Command { tag, verb }) => {
                tagged(replies, tag.as_deref(), INVALID_COMMAND);
                Err(Close::TooLong { command: verb.map(Verb::name) })
            }
            Err(Oversize::Malformed) => Err(Close::TooLong { command: None }),
        }
    }

    fn count_error(&mut self) -> Result<(), Close> {
        self.errors = self.errors.saturating_add(1);
        if self.errors >= self.config.max_errors { Err(Close::TooManyErrors) } else { Ok(()) }
    }

    fn obey(&mut self, command: Command, replies: &mut BytesMut) -> Turn {
        let Command { tag, verb, arguments } = command;
        match verb {
            Verb::Login => self.login(tag, arguments, replies),
            Verb::Authenticate => self.authenticate(tag, &arguments, replies),
            Verb::StartTls => self.starttls(&tag, replies),
            Verb::Logout => {
                replies.extend_from_slice(b"* BYE\r\n");
                tagged(replies, Some(&tag), COMPLETED);
                Turn::Report(State::Over, Event::Logout)
            }
            Verb::Capability => {
                self.write_capabilities(replies);
                tagged(replies, Some(&tag), COMPLETED);
                Turn::Next(State::Commands)
            }
            Verb::Noop => {
                tagged(replies, Some(&tag), COMPLETED);
                Turn::Next(State::Commands)
            }
        }
    }

    fn write_capabilities(&self, replies: &mut BytesMut) {
        let offers = if self.tls { StartTls::Off } else { self.config.starttls };
        replies.extend_from_slice(b"* CAPABILITY");
        for capability in &self.config.capabilities {
            replies.extend_from_slice(b" ");
            replies.extend_from_slice(capability);
        }
        if offers != StartTls::Only {
            for mechanism in Mechanism::ALL.into_iter().filter(|&m| self.config.mechanisms.announces(m)) {
                replies.extend_from_slice(b" AUTH=");
                replies.extend_from_slice(mechanism.name().as_bytes());
            }
        }
        replies.extend_from_slice(match offers {
            StartTls::Off => b"\r\n",
            StartTls::On => b" STARTTLS\r\n",
            StartTls::Only => b" STARTTLS LOGINDISABLED\r\n",
        });
    }

    /// nginx: a login that `starttls only` forbids is as invalid as any other command, and not counted as an error.
    fn login_disabled(&self) -> bool {
        !self.tls && self.config.starttls == StartTls::Only
    }

    fn login(&mut self, tag: Bytes, arguments: Vec<Secret>, replies: &mut BytesMut) -> Turn {
        match <[Secret; 2]>::try_from(arguments) {
            Ok([user, password]) if !user.expose().is_empty() && !self.login_disabled() => {
                let credentials = Credentials { user: user.into_public(), password: Some(password) };
                self.attempt(tag, Method::Plain, credentials)
            }
            _ => refuse(&tag, INVALID_COMMAND, replies),
        }
    }

    fn authenticate(&mut self, tag: Bytes, arguments: &[Secret], replies: &mut BytesMut) -> Turn {
        if self.login_disabled() {
            return refuse(&tag, INVALID_COMMAND, replies);
        }
        let step = Exchange::begin(self.config.mechanisms, arguments, &self.salt);
        self.follow(tag, step, replies)
    }

    fn respond(
        &mut self,
        tag: Bytes,
        exchange: Exchange,
        input: &mut BytesMut,
        replies: &mut BytesMut,
    ) -> Result<Turn, Close> {
        match take_line(input, self.config.buffer) {
            Ok(Some(line)) => Ok(self.follow(tag, exchange.respond(&line), replies)),
            Ok(None) => Ok(Turn::NeedInput(State::Authenticating(Box::new((tag, exchange))))),
            Err(_) => {
                tagged(replies, Some(&tag), INVALID_COMMAND);
                Err(Close::TooLong { command: Some(Verb::Authenticate.name()) })
            }
        }
    }

    fn follow(&mut self, tag: Bytes, step: Step, replies: &mut BytesMut) -> Turn {
        match step {
            Step::Challenge(exchange, challenge) => {
                replies.extend_from_slice(b"+ ");
                replies.extend_from_slice(&challenge);
                replies.extend_from_slice(b"\r\n");
                Turn::Next(State::Authenticating(Box::new((tag, exchange))))
            }
            Step::Done(method, credentials) => self.attempt(tag, method, credentials),
            Step::Rejected(Rejection::Unsupported) => refuse(&tag, INVALID_COMMAND, replies),
            Step::Rejected(Rejection::Aborted) => refuse(&tag, ABORTED, replies),
            Step::Rejected(Rejection::Invalid(complaint)) => {
                tagged(replies, Some(&tag), INVALID_COMMAND);
                Turn::Report(State::Commands, Event::Complaint(complaint))
            }
        }
    }

    fn attempt(&mut self, tag: Bytes, method: Method, credentials: Credentials) -> Turn {
        self.attempts = self.attempts.saturating_add(1);
        let salt = (method == Method::CramMd5).then(|| Bytes::copy_from_slice(&self.salt));
        let deciding = State::Deciding { tag: tag.as_ref().into() };
        let attempt = Attempt { method, credentials, salt, tag, number: self.attempts };
        Turn::Report(deciding, Event::Login(attempt))
    }

    fn starttls(&mut self, tag: &[u8], replies: &mut BytesMut) -> Turn {
        if self.tls || self.config.starttls == StartTls::Off {
            return refuse(tag, INVALID_COMMAND, replies);
        }
        tagged(replies, Some(tag), COMPLETED);
        Turn::Report(State::Handshaking, Event::StartTls)
    }
}

/// `tag text`, or `* text` to what had no tag.
fn tagged(replies: &mut BytesMut, tag: Option<&[u8]>, text: &str) {
    replies.extend_from_slice(tag.unwrap_or(b"*"));
    replies.extend_from_slice(b" ");
    replies.extend_from_slice(text.as_bytes());
    replies.extend_from_slice(b"\r\n");
}

fn refuse(tag: &[u8], text: &str, replies: &mut BytesMut) -> Turn {
    tagged(replies, Some(tag), text);
    Turn::Next(State::Commands)
}

impl Machine for Client {
    type Event = Event;
    type Error = Close;

    fn receive(&mut self, input: &mut BytesMut, replies: &mut BytesMut) -> Result<Option<Event>, Close> {
        loop {
            let turn = match std::mem::replace(&mut self.state, State::Over) {
                State::Commands => self.command(input, replies)?,
                State::Authenticating(under_way) => {
                    let (tag, exchange) = *under_way;
                    self.respond(tag, exchange, input, replies)?
                }
                state @ (State::Deciding { .. } | State::Handshaking | State::Over) => Turn::NeedInput(state),
            };
            match turn {
                Turn::Next(state) => self.state = state,
                Turn::Report(state, event) => {
                    self.state = state;
                    return Ok(Some(event));
                }
                Turn::NeedInput(state) => {
                    self.state = state;
                    return Ok(None);
                }
            }
        }
    }

    /// A client may leave at any time before login; there is nothing left to say to it.
    fn end(&mut self) -> Result<Option<Event>, Close> {
        self.state = State::Over;
        Ok(None)
    }
}

impl Dialogue for Client {
    const PROTOCOL: Protocol = Protocol::Imap;
    const CERTIFICATE_ERROR: &'static [u8] = b"* BYE SSL certificate error\r\n";
    const CERTIFICATE_REQUIRED: &'static [u8] = b"* BYE No required SSL certificate\r\n";
    const SHUTTING_DOWN: &'static [u8] = b"* BYE server shutting down\r\n";

    fn greeting(&mut self, replies: &mut BytesMut) {
        replies.extend_from_slice(b"* OK IMAP4 ready\r\n");
    }

    fn accepted(&mut self, backend_reply: &[u8], replies: &mut BytesMut) {
        self.state = State::Over;
        replies.extend_from_slice(backend_reply);
    }

    fn refused(&mut self, refusal: &Refusal, replies: &mut BytesMut) {
        let State::Deciding { tag } = &self.state else { return };
        replies.extend_from_slice(tag);
        replies.extend_from_slice(b" NO ");
        replies.extend(refusal.text.iter().map(|&octet| if matches!(octet, b'\r' | b'\n' | 0) { b' ' } else { octet }));
        replies.extend_from_slice(b"\r\n");
        self.state = State::Commands;
    }

    fn internal_error(&mut self, replies: &mut BytesMut) {
        self.state = State::Over;
        replies.extend_from_slice(b"* BAD internal server error\r\n");
    }

    fn tls_established(&mut self, input: &mut BytesMut) {
        input.clear();
        self.tls = true;
        self.state = State::Commands;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::DEFAULT_CAPABILITIES;
    use crate::sasl::Mechanisms;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::num::NonZeroU32;
    use tidegate_core_wire::testing::every_split;

    fn config() -> Config {
        Config {
            capabilities: DEFAULT_CAPABILITIES.iter().map(|c| Bytes::from_static(c.as_bytes())).collect(),
            mechanisms: Mechanisms { plain: true, ..Mechanisms::default() },
            starttls: StartTls::Off,
            max_errors: 5,
            buffer: 128,
        }
    }

    fn client(config: &Config, tls: bool) -> Client {
        Client::new(Rc::new(config.clone()), tls, b"<1.2@host>")
    }

    fn show(attempt: &Attempt) -> String {
        let password = attempt.credentials.password.as_ref().map(|p| p.expose().escape_ascii().to_string());
        format!(
            "<login {} {} {} {} {:?} {:?}>\r\n",
            attempt.number,
            attempt.method.name(),
            attempt.tag.escape_ascii(),
            attempt.credentials.user.escape_ascii(),
            password,
            attempt.salt,
        )
    }

    /// All that happens when a client sends `pieces` and then goes away. User `good` gets in, others may try again.
    fn session(mut client: Client, pieces: &[&[u8]]) -> String {
        let (mut input, mut replies, mut story) = (BytesMut::new(), BytesMut::new(), String::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                let outcome = client.receive(&mut input, &mut replies);
                story += std::str::from_utf8(&replies.split()).unwrap();
                match outcome {
                    Ok(None) => break,
                    Ok(Some(Event::Login(attempt))) => {
                        story += &show(&attempt);
                        decide(&mut client, &attempt, &mut replies);
                    }
                    Ok(Some(Event::StartTls)) => {
                        story += "<starttls>\r\n";
                        client.tls_established(&mut BytesMut::new());
                    }
                    Ok(Some(Event::Logout)) => story += "<logout>\r\n",
                    Ok(Some(Event::Complaint(complaint))) => story += &format!("<{complaint}>\r\n"),
                    Err(close) => return story + &format!("<closed: {close}>\r\n"),
                }
            }
        }
        assert_eq!(client.end(), Ok(None), "leaving is no error");
        assert_eq!(client.receive(&mut input, &mut replies), Ok(None), "nothing follows the end");
        story
    }

    fn decide(client: &mut Client, attempt: &Attempt, replies: &mut BytesMut) {
        match &attempt.credentials.user[..] {
            b"good" => client.accepted(b"a OK in\r\n", replies),
            b"broken" => client.internal_error(replies),
            _ => {
                let wait = NonZeroU32::new(1);
                client.refused(&Refusal { text: Bytes::from_static(b"no\r\nway"), wait, error_code: None }, replies);
            }
        }
    }

    fn with(config: &Config, tls: bool, input: &[u8]) -> String {
        let whole = every_split(input, |pieces| session(client(config, tls), pieces));
        for end in 0..input.len() {
            let early = session(client(config, tls), &[&input[..end]]);
            assert!(whole.starts_with(&early), "ended after {end} octets: {early}");
        }
        whole
    }

    fn plainly(input: &str) -> String {
        with(&config(), false, input.as_bytes())
    }

    fn b64(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn it_greets() {
        let mut replies = BytesMut::new();
        client(&config(), false).greeting(&mut replies);
        assert_eq!(&replies[..], b"* OK IMAP4 ready\r\n");
    }

    #[test]
    fn commands_that_need_no_login() {
        assert_eq!(
            plainly("a CAPABILITY\r\nb noop\r\nc LOGOUT\r\nd NOOP\r\n"),
            "* CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN\r\na OK completed\r\n\
             b OK completed\r\n\
             * BYE\r\nc OK completed\r\n<logout>\r\n"
        );
    }

    #[test]
    fn capabilities_follow_configuration_and_tls() {
        let everything = Mechanisms { plain: true, login: true, cram_md5: true, external: true };
        for (starttls, tls, expected) in [
            (StartTls::Off, false, " AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=EXTERNAL"),
            (StartTls::On, false, " AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=EXTERNAL STARTTLS"),
            (StartTls::Only, false, " STARTTLS LOGINDISABLED"),
            (StartTls::On, true, " AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=EXTERNAL"),
            (StartTls::Only, true, " AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=EXTERNAL"),
        ] {
            let capabilities = vec![Bytes::from_static(b"SEE-THIS")];
            let config = Config { capabilities, mechanisms: everything, starttls, ..config() };
            let expected = format!("* CAPABILITY SEE-THIS{expected}\r\na OK completed\r\n");
            assert_eq!(with(&config, tls, b"a CAPABILITY\r\n"), expected);
        }
    }

    #[test]
    fn login_in_every_spelling() {
        let expected = "<login 1 plain a good Some(\"p w\") None>\r\na OK in\r\n";
        assert_eq!(plainly("a LOGIN good \"p w\"\r\n"), expected);
        assert_eq!(plainly("a LOGIN {4}\r\ngood {3}\r\np w\r\n"), format!("+ OK\r\n+ OK\r\n{expected}"));
        assert_eq!(plainly("a LOGIN {4+}\r\ngood {3+}\r\np w\r\n"), expected);
        assert_eq!(
            plainly("a LOGIN good {0}\r\n\r\n"),
            "+ OK\r\n<login 1 plain a good Some(\"\") None>\r\na OK in\r\n"
        );
    }

    #[test]
    fn login_wants_a_user_and_a_password_and_nothing_else() {
        for arguments in ["", " u", " \"\" p", " {0+}\r\n p", " u p x"] {
            assert_eq!(
                plainly(&format!("a LOGIN{arguments}\r\nb NOOP\r\n")),
                "a BAD invalid command\r\nb OK completed\r\n"
            );
        }
    }

    #[test]
    fn the_dialogue_goes_on_after_a_refusal_with_its_own_tags() {
        assert_eq!(
            plainly("a01 LOGIN bad p\r\n\r\nb NOOP\r\nc LOGIN good p\r\nfor the backend"),
            "<login 1 plain a01 bad Some(\"p\") None>\r\na01 NO no  way\r\n\
             * BAD invalid command\r\nb OK completed\r\n\
             <login 2 plain c good Some(\"p\") None>\r\na OK in\r\n"
        );
    }

    #[test]
    fn what_follows_a_login_is_left_for_the_backend() {
        let mut client = client(&config(), false);
        let (mut input, mut replies) = (BytesMut::from(&b"a LOGIN good p\r\nb SELECT x\r\n"[..]), BytesMut::new());
        assert!(matches!(client.receive(&mut input, &mut replies), Ok(Some(Event::Login(_)))));
        assert_eq!(client.receive(&mut input, &mut replies), Ok(None), "undecided");
        client.accepted(b"", &mut replies);
        assert_eq!(client.receive(&mut input, &mut replies), Ok(None), "over");
        assert_eq!(&input[..], b"b SELECT x\r\n");
    }

    #[test]
    fn an_internal_error_ends_it() {
        assert_eq!(
            plainly("a LOGIN broken p\r\nb NOOP\r\n"),
            "<login 1 plain a broken Some(\"p\") None>\r\n* BAD internal server error\r\n"
        );
    }

    #[test]
    fn authenticate_plain_with_and_without_initial_response() {
        let response = b64("\0good\0p");
        let login = "<login 1 plain a good Some(\"p\") None>\r\na OK in\r\n";
        assert_eq!(plainly(&format!("a AUTHENTICATE plain {response}\r\n")), login);
        assert_eq!(plainly(&format!("a AUTHENTICATE PLAIN\r\n{response}\r\n")), format!("+ \r\n{login}"));
    }

    #[test]
    fn authenticate_login_prompts() {
        let (user, password) = (b64("good"), b64("p"));
        let login = "+ UGFzc3dvcmQ6\r\n<login 1 plain a good Some(\"p\") None>\r\na OK in\r\n";
        assert_eq!(
            plainly(&format!("a AUTHENTICATE LOGIN\r\n{user}\r\n{password}\r\n")),
            format!("+ VXNlcm5hbWU6\r\n{login}")
        );
        assert_eq!(plainly(&format!("a AUTHENTICATE LOGIN {user}\r\n{password}\r\n")), login);
    }

    #[test]
    fn authenticate_cram_md5_brings_the_salt() {
        let digest = "0".repeat(32);
        let input = format!("a AUTHENTICATE CRAM-MD5\r\n{}\r\n", b64(&format!("good {digest}")));
        let mut config = config();
        assert_eq!(
            with(&config, false, input.as_bytes()),
            "a BAD invalid command\r\n* BAD invalid command\r\n",
            "not enabled"
        );
        config.mechanisms.cram_md5 = true;
        assert_eq!(
            with(&config, false, input.as_bytes()),
            format!(
                "+ {}\r\n<login 1 cram-md5 a good Some(\"{digest}\") Some(b\"<1.2@host>\")>\r\na OK in\r\n",
                b64("<1.2@host>")
            )
        );
    }

    #[test]
    fn authenticate_external_must_be_enabled_in_both_forms() {
        let (asked, initial) = ("a AUTHENTICATE EXTERNAL\r\n", format!("a AUTHENTICATE EXTERNAL {}\r\n", b64("good")));
        assert_eq!(plainly(asked), "a BAD invalid command\r\n");
        assert_eq!(plainly(&initial), "a BAD invalid command\r\n");
        let mut config = config();
        config.mechanisms.external = true;
        let login = "<login 1 external a good None None>\r\na OK in\r\n";
        assert_eq!(with(&config, false, initial.as_bytes()), login);
        let input = format!("{asked}{}\r\n", b64("good"));
        assert_eq!(with(&config, false, input.as_bytes()), format!("+ VXNlcm5hbWU6\r\n{login}"));
    }

    #[test]
    fn external_after_a_password_has_no_password() {
        let mut config = config();
        config.mechanisms.external = true;
        let input = format!("a LOGIN bad secret\r\nb AUTHENTICATE EXTERNAL {}\r\n", b64("good"));
        let story = with(&config, false, input.as_bytes());
        assert!(story.ends_with("<login 2 external b good None None>\r\na OK in\r\n"), "{story}");
    }

    #[test]
    fn a_bad_response_ends_the_exchange_but_not_the_dialogue() {
        assert_eq!(
            plainly("a AUTHENTICATE PLAIN\r\n!!!\r\nb AUTHENTICATE\r\nc AUTHENTICATE SCRAM\r\nd NOOP\r\n"),
            "+ \r\na BAD invalid command\r\n<client sent invalid base64 encoding in AUTH PLAIN command>\r\n\
             b BAD invalid command\r\nc BAD invalid command\r\nd OK completed\r\n"
        );
        assert_eq!(
            plainly(&format!("a AUTHENTICATE PLAIN {}\r\n", b64("\0user"))),
            "a BAD invalid command\r\n<client sent invalid password in AUTH PLAIN command>\r\n"
        );
    }

    #[test]
    fn a_star_aborts_an_exchange() {
        assert_eq!(
            plainly("a AUTHENTICATE LOGIN\r\n*\r\nb NOOP\r\n"),
            "+ VXNlcm5hbWU6\r\na BAD AUTHENTICATE aborted\r\nb OK completed\r\n"
        );
        assert_eq!(
            plainly(&format!("a AUTHENTICATE LOGIN {}\r\n* \r\n", b64("u"))),
            "+ UGFzc3dvcmQ6\r\na BAD AUTHENTICATE aborted\r\n"
        );
    }

    #[test]
    fn starttls_changes_what_is_offered() {
        let config = Config { starttls: StartTls::Only, ..config() };
        assert_eq!(
            with(
                &config,
                false,
                b"a LOGIN u p\r\nb AUTHENTICATE PLAIN\r\nc STARTTLS\r\nd CAPABILITY\r\ne STARTTLS\r\nf LOGIN good p\r\n"
            ),
            "a BAD invalid command\r\nb BAD invalid command\r\nc OK completed\r\n<starttls>\r\n\
             * CAPABILITY IMAP4 IMAP4rev1 UIDPLUS AUTH=PLAIN\r\nd OK completed\r\n\
             e BAD invalid command\r\n<login 1 plain f good Some(\"p\") None>\r\na OK in\r\n"
        );
        assert_eq!(plainly("a STARTTLS\r\n"), "a BAD invalid command\r\n", "not configured");
        assert_eq!(with(&config, true, b"a STARTTLS\r\n"), "a BAD invalid command\r\n", "in TLS already");
    }

    #[test]
    fn what_came_in_clear_does_not_act_inside_tls() {
        let config = Config { starttls: StartTls::On, ..config() };
        let mut client = client(&config, false);
        let (mut input, mut replies) = (BytesMut::from(&b"a STARTTLS\r\nb LOGIN evil p\r\n"[..]), BytesMut::new());
        assert_eq!(client.receive(&mut input, &mut replies), Ok(Some(Event::StartTls)));
        assert_eq!(client.receive(&mut input, &mut replies), Ok(None), "nothing is read before TLS is up");
        client.tls_established(&mut input);
        assert_eq!(client.receive(&mut input, &mut replies), Ok(None));
        assert_eq!(&replies[..], b"a OK completed\r\n");
        assert!(input.is_empty());
    }

    #[test]
    fn too_many_errors_close_after_the_last_reply() {
        let config = Config { max_errors: 2, ..config() };
        assert_eq!(
            with(&config, false, b"a01 FOO\r\na02 BAR\r\na03 BAZZ\r\n"),
            "a01 BAD invalid command\r\na02 BAD invalid command\r\n<closed: client sent too many invalid commands>\r\n"
        );
    }

    #[test]
    fn only_what_cannot_be_parsed_counts_as_an_error() {
        let config = Config { max_errors: 2, starttls: StartTls::On, ..config() };
        let story = with(
            &config,
            true,
            b"a FOO\r\nb LOGIN\r\nc AUTHENTICATE X\r\nd STARTTLS\r\ne AUTHENTICATE PLAIN !\r\nf LOGIN bad p\r\ng NOOP\r\n",
        );
        assert!(story.ends_with("g OK completed\r\n"), "{story}");
    }

    #[test]
    fn pipelining_goes_on_behind_an_invalid_command_and_its_literal() {
        assert_eq!(
            plainly("a03 FOOBAR {10+}\r\ntest test \r\na04 NOOP\r\n"),
            "a03 BAD invalid command\r\na04 OK completed\r\n"
        );
    }

    #[test]
    fn a_command_that_is_too_long_closes_and_is_not_repeated() {
        let secret = "s".repeat(200);
        for (input, story) in [
            (
                format!("a LOGIN u {secret}\r\n"),
                "a BAD invalid command\r\n<closed: client sent too long command \"LOGIN\">\r\n",
            ),
            (
                "a LOGIN u {4096}\r\n".to_owned(),
                "a BAD invalid command\r\n<closed: client sent too long command \"LOGIN\">\r\n",
            ),
            (
                format!("a AUTHENTICATE PLAIN {secret}\r\n"),
                "a BAD invalid command\r\n<closed: client sent too long command \"AUTHENTICATE\">\r\n",
            ),
            (
                format!("a AUTHENTICATE PLAIN\r\n{secret}\r\n"),
                "+ \r\na BAD invalid command\r\n<closed: client sent too long command \"AUTHENTICATE\">\r\n",
            ),
            (secret.clone(), "* BAD invalid command\r\n<closed: client sent too long command>\r\n"),
            (format!("a {secret}"), "a BAD invalid command\r\n<closed: client sent too long command>\r\n"),
            ("a FOO {4096+}\r\n".to_owned(), "a BAD invalid command\r\n<closed: client sent too long command>\r\n"),
        ] {
            assert_eq!(plainly(&input), story);
        }
    }

    #[test]
    fn a_pipelined_command_may_straddle_the_buffer() {
        let first = format!("a NOOP {}\r\n", "x".repeat(100));
        let second = format!("b LOGIN bad {}\r\n", "y".repeat(100));
        let story = plainly(&(first + &second));
        assert!(story.starts_with("a OK completed\r\n<login 1 plain b bad"), "{story}");
    }

    /// Words a client might send, in an order no client would; from a fixed seed.
    fn nonsense(seed: u32) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "a ",
            "LOGIN ",
            "AUTHENTICATE ",
            "PLAIN",
            "LOGIN",
            "NOOP",
            "\r\n",
            "\r\n",
            "\n",
            "{1}",
            "{2+}",
            "\"",
            "\\",
            " ",
            "*",
            "AGEAYg==",
        ];
        let mut state = seed;
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            WORDS[usize::try_from(state >> 28).unwrap()]
        });
        words.take(14).collect::<String>().into_bytes()
    }

    #[test]
    fn nonsense_means_the_same_however_it_is_cut() {
        for seed in 0..64 {
            let config = Config { max_errors: 3, buffer: 24, ..config() };
            let input = nonsense(seed);
            every_split(&input, |pieces| session(client(&config, false), pieces));
        }
    }
}
