//! An IMAP server, real enough to log in and to be recognised.

use std::io;
use std::sync::{Arc, Mutex};

use crate::client::Wire;

use super::tcp::TcpBackend;

/// An IMAP backend that lets everybody in and answers `NOOP` with its name.
#[derive(Debug)]
pub struct ImapBackend {
    tcp: TcpBackend,
    logins: Arc<Mutex<Vec<(String, String)>>>,
}

impl ImapBackend {
    /// Starts it under a name, which it gives in `* OK <name>` lines.
    pub fn start(name: &str) -> ImapBackend {
        let name = name.to_owned();
        let logins = Arc::new(Mutex::new(Vec::new()));
        let tcp = TcpBackend::start({
            let logins = Arc::clone(&logins);
            move |mut wire, _| {
                let _ = serve(&mut wire, &name, &logins);
            }
        });
        ImapBackend { tcp, logins }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.tcp.port()
    }

    /// Every user and password that logged in.
    pub fn logins(&self) -> Vec<(String, String)> {
        self.logins.lock().expect("no session panics with the lock").clone()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.tcp.accepted()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.tcp.open()
    }
}

fn serve(wire: &mut Wire, name: &str, logins: &Mutex<Vec<(String, String)>>) -> io::Result<()> {
    wire.try_send(format!("* OK {name} ready\r\n"))?;
    while let Some(words) = command(wire)? {
        let tag = words.first().cloned().unwrap_or_default();
        let verb = words.get(1).map(|verb| verb.to_ascii_uppercase()).unwrap_or_default();
        let answer = match verb.as_str() {
            "LOGIN" => {
                let word = |index: usize| words.get(index).cloned().unwrap_or_default();
                logins.lock().expect("no session panics with the lock").push((word(2), word(3)));
                format!("{tag} OK logged in at {name}\r\n")
            }
            "NOOP" => format!("* OK {name}\r\n{tag} OK done\r\n"),
            "CAPABILITY" => format!("* CAPABILITY IMAP4rev1 X-{name}\r\n{tag} OK done\r\n"),
            "FILL" => {
                let size: usize = words.get(2).and_then(|size| size.parse().ok()).unwrap_or(0);
                format!("* {}\r\n{tag} OK done\r\n", "x".repeat(size))
            }
            "LOGOUT" => {
                return wire.try_send(format!("* BYE {name}\r\n{tag} OK done\r\n"));
            }
            _ => format!("{tag} BAD unknown\r\n"),
        };
        wire.try_send(answer)?;
    }
    Ok(())
}

/// One command as words, quoted strings and literals among them.
fn command(wire: &mut Wire) -> io::Result<Option<Vec<String>>> {
    let mut words = Vec::new();
    loop {
        let Some(line) = wire.try_line()? else { return Ok(None) };
        let (text, literal) = split_literal(&line);
        words.extend(split_words(text));
        let Some(length) = literal else { return Ok(Some(words)) };
        wire.try_send("+ go on\r\n")?;
        words.push(String::from_utf8_lossy(&wire.try_exactly(length)?).into_owned());
    }
}

fn split_literal(line: &str) -> (&str, Option<usize>) {
    let parts = line.strip_suffix('}').and_then(|line| line.rsplit_once('{'));
    match parts.and_then(|(text, length)| Some((text, length.trim_end_matches('+').parse().ok()?))) {
        Some((text, length)) => (text, Some(length)),
        None => (line, None),
    }
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_into_words() {
        assert_eq!(split_words(r#"a1 LOGIN "al ice" pw"#), ["a1", "LOGIN", "al ice", "pw"]);
        assert_eq!(split_literal("a1 LOGIN {5}"), ("a1 LOGIN ", Some(5)));
        assert_eq!(split_literal("a1 NOOP"), ("a1 NOOP", None));
    }
}
