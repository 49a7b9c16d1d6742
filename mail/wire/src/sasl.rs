//! SASL as the mail protocols share it: PLAIN, LOGIN, CRAM-MD5 and EXTERNAL, without a protocol's framing.
//!
//! An [`Exchange`] is one AUTHENTICATE (or AUTH) in progress. It takes the client's base64 lines and answers with a
//! challenge, the credentials, or why not; each protocol puts its own `+ `, `334 ` or `-ERR ` around that. Nothing is
//! verified here: the credentials go to the authentication server as they are.

use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;

/// nginx accepts any padding, none included, and does not look at the bits beyond the last octet.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The length of an MD5 digest in hexadecimal.
const DIGEST_LENGTH: usize = 32;

/// Octets that must not reach a log: `Debug` hides them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Bytes);

impl Secret {
    /// Hides `octets`.
    pub fn new(octets: impl Into<Bytes>) -> Self {
        Secret(octets.into())
    }

    /// The octets themselves, for whoever has to send or compare them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Gives up the protection: what was read turned out to be public, such as a user name.
    pub fn into_public(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who wants to log in and with what; `Debug` shows the user and hides the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The login name, any octets; may be empty with SASL, as with nginx.
    pub user: Bytes,
    /// The password, or the digest of APOP and CRAM-MD5; none with EXTERNAL.
    pub password: Option<Secret>,
}

impl Credentials {
    /// What the backend gets: what the authentication server gave, else what the client gave, but never a digest, which
    /// answers our challenge and not the backend's.
    #[must_use]
    pub fn for_backend(self, method: Method, user: Option<Bytes>, password: Option<Secret>) -> Credentials {
        let own = self.password.filter(|_| !method.needs_backend_password());
        Credentials { user: user.unwrap_or(self.user), password: password.or(own) }
    }
}

/// How the client proves who it is, as the authentication server is told. LOGIN counts as plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// A password in clear: LOGIN, USER/PASS, AUTH PLAIN, AUTH LOGIN.
    Plain,
    /// POP3's APOP digest.
    Apop,
    /// A CRAM-MD5 digest.
    CramMd5,
    /// Something outside the dialogue, such as a client certificate.
    External,
    /// No authentication: an SMTP client that went straight to MAIL and RCPT.
    None,
}

impl Method {
    /// The value of the `Auth-Method` header.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Plain => "plain",
            Method::Apop => "apop",
            Method::CramMd5 => "cram-md5",
            Method::External => "external",
            Method::None => "none",
        }
    }

    /// Whether the client's proof is useless to a backend, which then needs a password from the authentication server.
    pub const fn needs_backend_password(self) -> bool {
        matches!(self, Method::Apop | Method::CramMd5 | Method::External)
    }
}

/// A SASL mechanism by its registered name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The obsolete but widespread prompt for user and password.
    Login,
    /// RFC 2195.
    CramMd5,
    /// RFC 4422, appendix A.
    External,
}

impl Mechanism {
    /// In the order in which nginx announces them.
    pub const ALL: [Mechanism; 4] = [Mechanism::Plain, Mechanism::Login, Mechanism::CramMd5, Mechanism::External];

    /// The name as announced.
    pub const fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::CramMd5 => "CRAM-MD5",
            Mechanism::External => "EXTERNAL",
        }
    }

    /// Finds a mechanism by name, in any case.
    pub fn by_name(name: &[u8]) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|m| m.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// The mechanisms that `imap_auth`, `pop3_auth` or `smtp_auth` enables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mechanisms {
    /// `plain`
    pub plain: bool,
    /// `login`
    pub login: bool,
    /// `cram-md5`
    pub cram_md5: bool,
    /// `external`
    pub external: bool,
}

impl Mechanisms {
    /// Whether the mechanism is announced to clients.
    pub const fn announces(self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Plain => self.plain,
            Mechanism::Login => self.login,
            Mechanism::CramMd5 => self.cram_md5,
            Mechanism::External => self.external,
        }
    }

    /// Whether the mechanism is accepted from a client.
    ///
    /// nginx: PLAIN and LOGIN always are; the directive only decides whether they are announced.
    pub const fn accepts(self, mechanism: Mechanism) -> bool {
        matches!(mechanism, Mechanism::Plain | Mechanism::Login) || self.announces(mechanism)
    }
}

/// What the client got wrong inside an exchange; `Display` is nginx's log line and never holds credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// The response is not base64.
    Base64(Mechanism),
    /// A PLAIN response without a login.
    Login,
    /// A PLAIN response without a password.
    Password,
    /// A CRAM-MD5 response without a digest of 32 hexadecimal digits.
    Digest,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Complaint::Base64(mechanism) => {
                write!(f, "client sent invalid base64 encoding in AUTH {} command", mechanism.name())
            }
            Complaint::Login => f.write_str("client sent invalid login in AUTH PLAIN command"),
            Complaint::Password => f.write_str("client sent invalid password in AUTH PLAIN command"),
            Complaint::Digest => f.write_str("client sent invalid CRAM-MD5 hash in AUTH CRAM-MD5 command"),
        }
    }
}

/// Why an exchange ended without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// An unknown or disabled mechanism, or arguments that it does not take.
    Unsupported,
    /// The client gave up with `*`.
    Aborted,
    /// A response that makes no sense.
    Invalid(Complaint),
}

/// What follows from a client's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this challenge (base64, without framing or line end) and wait for a response.
    Challenge(Exchange, Bytes),
    /// The client has said all it has to say.
    Done(Method, Credentials),
    /// The exchange is over.
    Rejected(Rejection),
}

/// An exchange that waits for the client's next response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// PLAIN: its only response.
    Plain,
    /// LOGIN: the user name.
    LoginUser,
    /// LOGIN: the password.
    LoginPassword {
        /// The user name given before.
        user: Bytes,
    },
    /// CRAM-MD5: its only response.
    CramMd5,
    /// EXTERNAL: its only response.
    External,
}

impl Exchange {
    /// Starts with the arguments of AUTHENTICATE or AUTH: a mechanism and perhaps an initial response.
    ///
    /// `salt` is the CRAM-MD5 challenge before base64, `<random.time@server_name>`.
    pub fn begin(enabled: Mechanisms, arguments: &[Secret], salt: &[u8]) -> Step {
        let (name, initial) = match arguments {
            [name] => (name, None),
            [name, initial] => (name, Some(initial.expose())),
            _ => return Step::Rejected(Rejection::Unsupported),
        };
        match Mechanism::by_name(name.expose()) {
            Some(mechanism) if enabled.accepts(mechanism) => Exchange::start(mechanism, initial, salt),
            _ => Step::Rejected(Rejection::Unsupported),
        }
    }

    fn start(mechanism: Mechanism, initial: Option<&[u8]>, salt: &[u8]) -> Step {
        let (exchange, challenge) = match mechanism {
            Mechanism::Plain => (Exchange::Plain, Bytes::new()),
            Mechanism::Login => (Exchange::LoginUser, USERNAME),
            Mechanism::CramMd5 => (Exchange::CramMd5, Bytes::from(STANDARD.encode(salt))),
            Mechanism::External => (Exchange::External, USERNAME),
        };
        match initial {
            None => Step::Challenge(exchange, challenge),
            // The server has to speak first: RFC 2195 knows no initial response.
            Some(_) if mechanism == Mechanism::CramMd5 => Step::Rejected(Rejection::Unsupported),
            Some(response) => exchange.take(response),
        }
    }

    /// Takes the line with which the client answers a challenge.
    pub fn respond(self, line: &[u8]) -> Step {
        match line.trim_ascii_end() {
            b"*" => Step::Rejected(Rejection::Aborted),
            response => self.take(response),
        }
    }

    fn take(self, response: &[u8]) -> Step {
        let mechanism = self.mechanism();
        let Some(decoded) = decode(response) else {
            return Step::Rejected(Rejection::Invalid(Complaint::Base64(mechanism)));
        };
        let credentials = match self {
            Exchange::LoginUser => return Step::Challenge(Exchange::LoginPassword { user: decoded }, PASSWORD),
            Exchange::LoginPassword { user } => Ok(Credentials { user, password: Some(Secret(decoded)) }),
            Exchange::Plain => plain(&decoded),
            Exchange::CramMd5 => cram_md5(&decoded),
            Exchange::External => Ok(Credentials { user: decoded, password: None }),
        };
        match credentials {
            Ok(credentials) => Step::Done(mechanism.method(), credentials),
            Err(complaint) => Step::Rejected(Rejection::Invalid(complaint)),
        }
    }

    const fn mechanism(&self) -> Mechanism {
        match self {
            Exchange::Plain => Mechanism::Plain,
            Exchange::LoginUser | Exchange::LoginPassword { .. } => Mechanism::Login,
            Exchange::CramMd5 => Mechanism::CramMd5,
            Exchange::External => Mechanism::External,
        }
    }
}

impl Mechanism {
    const fn method(self) -> Method {
        match self {
            Mechanism::Plain | Mechanism::Login => Method::Plain,
            Mechanism::CramMd5 => Method::CramMd5,
            Mechanism::External => Method::External,
        }
    }
}

/// "Username:" in base64.
const USERNAME: Bytes = Bytes::from_static(b"VXNlcm5hbWU6");
/// "Password:" in base64.
const PASSWORD: Bytes = Bytes::from_static(b"UGFzc3dvcmQ6");

/// Decodes a response; `=` alone is an empty one (RFC 4959).
///
/// Unlike nginx, which ignores whatever follows the first `=`, nothing but padding may follow.
fn decode(response: &[u8]) -> Option<Bytes> {
    let padding = response.iter().rev().take_while(|&&octet| octet == b'=').count();
    let digits = response.get(..response.len() - padding)?;
    LENIENT.decode(digits).ok().map(Bytes::from)
}

/// `[authzid] NUL user NUL password`. nginx: the authorization identity is ignored, user and password may be empty.
fn plain(message: &Bytes) -> Result<Credentials, Complaint> {
    let (_, rest) = split_at_octet(message, 0).filter(|(_, rest)| !rest.is_empty()).ok_or(Complaint::Login)?;
    let (user, password) = split_at_octet(rest, 0).ok_or(Complaint::Password)?;
    Ok(Credentials { user: message.slice_ref(user), password: Some(Secret(message.slice_ref(password))) })
}

/// `user SP digest`. The user may contain spaces (RFC 2195); nginx splits at the first one and then refuses.
fn cram_md5(message: &Bytes) -> Result<Credentials, Complaint> {
    let at = memchr::memrchr(b' ', message).ok_or(Complaint::Digest)?;
    let (user, rest) = message.split_at_checked(at).ok_or(Complaint::Digest)?;
    match rest {
        [_, digest @ ..] if digest.len() == DIGEST_LENGTH && digest.iter().all(u8::is_ascii_hexdigit) => {
            Ok(Credentials { user: message.slice_ref(user), password: Some(Secret(message.slice_ref(digest))) })
        }
        _ => Err(Complaint::Digest),
    }
}

fn split_at_octet(text: &[u8], octet: u8) -> Option<(&[u8], &[u8])> {
    let (before, from) = text.split_at_checked(memchr::memchr(octet, text)?)?;
    Some((before, from.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Mechanisms = Mechanisms { plain: true, login: true, cram_md5: true, external: true };

    fn begin(enabled: Mechanisms, arguments: &[&[u8]]) -> Step {
        let arguments: Vec<Secret> = arguments.iter().map(|a| Secret::new(a.to_vec())).collect();
        Exchange::begin(enabled, &arguments, &Bytes::from_static(b"<1.2@host>"))
    }

    fn b64(text: &[u8]) -> Vec<u8> {
        STANDARD.encode(text).into_bytes()
    }

    fn done(step: Step) -> (Method, Vec<u8>, Option<Vec<u8>>) {
        match step {
            Step::Done(method, c) => (method, c.user.to_vec(), c.password.map(|p| p.expose().to_vec())),
            other => panic!("not done: {other:?}"),
        }
    }

    fn invalid(step: Step) -> Complaint {
        match step {
            Step::Rejected(Rejection::Invalid(complaint)) => complaint,
            other => panic!("not invalid: {other:?}"),
        }
    }

    #[test]
    fn plain_takes_user_and_password_and_ignores_the_authorization_identity() {
        for (message, user, password) in [
            (&b"\0u\0p"[..], &b"u"[..], &b"p"[..]),
            (b"admin\0u\0p", b"u", b"p"),
            (b"\0\0p", b"", b"p"),
            (b"\0u\0", b"u", b""),
            (b"\0u\0p\0q", b"u", b"p\0q"),
            (b"\0\xc3\xa9\0\xff", b"\xc3\xa9", b"\xff"),
        ] {
            let expected = (Method::Plain, user.to_vec(), Some(password.to_vec()));
            assert_eq!(done(Exchange::Plain.respond(&b64(message))), expected);
            assert_eq!(done(begin(EVERYTHING, &[b"plain", &b64(message)])), expected);
        }
    }

    #[test]
    fn plain_without_login_or_password_is_named() {
        for (message, complaint) in [
            (&b""[..], Complaint::Login),
            (b"user", Complaint::Login),
            (b"user\0", Complaint::Login),
            (b"\0", Complaint::Login),
            (b"\0user", Complaint::Password),
            (b"zid\0user", Complaint::Password),
        ] {
            assert_eq!(invalid(Exchange::Plain.respond(&b64(message))), complaint, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn login_prompts_for_user_and_password() {
        let Step::Challenge(exchange, prompt) = begin(EVERYTHING, &[b"LOGIN"]) else { panic!() };
        assert_eq!(STANDARD.decode(prompt).unwrap(), b"Username:");
        let Step::Challenge(exchange, prompt) = exchange.respond(&b64(b"u")) else { panic!() };
        assert_eq!(STANDARD.decode(prompt).unwrap(), b"Password:");
        let expected = (Method::Plain, b"u".to_vec(), Some(b"p".to_vec()));
        assert_eq!(done(exchange.respond(&b64(b"p"))), expected);

        let Step::Challenge(exchange, _) = begin(EVERYTHING, &[b"LOGIN", &b64(b"u")]) else { panic!() };
        assert_eq!(exchange, Exchange::LoginPassword { user: Bytes::from_static(b"u") });
    }

    #[test]
    fn cram_md5_sends_the_salt_and_takes_a_digest() {
        let Step::Challenge(exchange, challenge) = begin(EVERYTHING, &[b"CRAM-MD5"]) else { panic!() };
        assert_eq!(STANDARD.decode(challenge).unwrap(), b"<1.2@host>");
        let digest = "0123456789abcdefABCDEF0000000000";
        let response = |user: &str, digest: &str| b64(format!("{user} {digest}").as_bytes());
        let expected = |user: &str| (Method::CramMd5, user.into(), Some(digest.into()));
        assert_eq!(done(exchange.clone().respond(&response("u", digest))), expected("u"));
        assert_eq!(done(exchange.clone().respond(&response("a b", digest))), expected("a b"));
        for bad in ["", "0", "0123456789abcdef0123456789abcdeg", "0123456789abcdef0123456789abcdef0"] {
            assert_eq!(invalid(exchange.clone().respond(&response("u", bad))), Complaint::Digest);
        }
        assert_eq!(invalid(exchange.respond(&b64(b"nospace"))), Complaint::Digest);
        assert_eq!(
            begin(EVERYTHING, &[b"CRAM-MD5", &response("u", digest)]),
            Step::Rejected(Rejection::Unsupported),
            "no initial response"
        );
    }

    #[test]
    fn external_carries_a_user_and_no_password() {
        let Step::Challenge(exchange, _) = begin(EVERYTHING, &[b"EXTERNAL"]) else { panic!() };
        assert_eq!(done(exchange.respond(&b64(b"u"))), (Method::External, b"u".to_vec(), None));
        assert_eq!(done(begin(EVERYTHING, &[b"EXTERNAL", b"="])), (Method::External, b"".to_vec(), None));
    }

    #[test]
    fn external_and_cram_md5_must_be_enabled_in_every_form() {
        let nothing = Mechanisms::default();
        let refused = Step::Rejected(Rejection::Unsupported);
        assert_eq!(begin(nothing, &[b"EXTERNAL"]), refused);
        assert_eq!(begin(nothing, &[b"EXTERNAL", &b64(b"victim")]), refused);
        assert_eq!(begin(nothing, &[b"CRAM-MD5"]), refused);
        assert!(matches!(begin(nothing, &[b"PLAIN"]), Step::Challenge(..)), "nginx accepts PLAIN unannounced");
        assert!(matches!(begin(nothing, &[b"LOGIN"]), Step::Challenge(..)), "and LOGIN");
    }

    #[test]
    fn unknown_mechanisms_and_argument_counts_are_refused() {
        let refused = Step::Rejected(Rejection::Unsupported);
        for arguments in [&[][..], &[&b"XOAUTH2"[..]], &[b""], &[b"PLAIN", b"a", b"b"]] {
            assert_eq!(begin(EVERYTHING, arguments), refused);
        }
    }

    #[test]
    fn a_star_aborts_a_running_exchange_only() {
        for exchange in
            [Exchange::Plain, Exchange::LoginUser, Exchange::LoginPassword { user: Bytes::new() }, Exchange::CramMd5]
        {
            assert_eq!(exchange.respond(b"*"), Step::Rejected(Rejection::Aborted));
        }
        assert_eq!(invalid(begin(EVERYTHING, &[b"PLAIN", b"*"])), Complaint::Base64(Mechanism::Plain));
    }

    #[test]
    fn base64_is_lenient_about_padding_and_strict_about_the_rest() {
        for (text, decoded) in [
            (&b""[..], Some(&b""[..])),
            (b"=", Some(b"")),
            (b"YQ==", Some(b"a")),
            (b"YQ", Some(b"a")),
            (b"YR==", Some(b"a")),
            (b"YWI=", Some(b"ab")),
            (b"YWJj", Some(b"abc")),
            (b"Y", None),
            (b"YWJjZ", None),
            (b"YQ==YQ==", None),
            (b"YW-j", None),
            (b"YW j", None),
            (b"\xff\xff\xff\xff", None),
        ] {
            assert_eq!(decode(text).as_deref(), decoded, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_backend_never_gets_a_digest() {
        let given = || Credentials { user: Bytes::from_static(b"u"), password: Some(Secret::new(&b"p"[..])) };
        let other = || Some(Secret::new(&b"other"[..]));
        assert_eq!(given().for_backend(Method::Plain, None, None), given());
        assert_eq!(given().for_backend(Method::CramMd5, None, None).password, None);
        assert_eq!(given().for_backend(Method::CramMd5, None, other()).password, other());
        let replaced = given().for_backend(Method::Plain, Some(Bytes::from_static(b"v")), other());
        assert_eq!(replaced, Credentials { user: Bytes::from_static(b"v"), password: other() });
    }

    #[test]
    fn debug_and_complaints_never_show_a_password() {
        let credentials = Credentials { user: Bytes::from_static(b"u"), password: Some(Secret::new(&b"hunter2"[..])) };
        let shown = format!("{credentials:?} {:?}", Step::Done(Method::Plain, credentials.clone()));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(
            Complaint::Base64(Mechanism::CramMd5).to_string(),
            "client sent invalid base64 encoding in AUTH CRAM-MD5 command"
        );
    }
}
