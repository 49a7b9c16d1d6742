//! Reading IMAP commands: tag, verb and up to three arguments as atoms, quoted strings and literals.
//!
//! The reader knows the grammar and the limit; what commands mean is the client dialogue's matter. A command is
//! measured from its own first octet, whatever came before it in the same read.

use bytes::{Bytes, BytesMut};
use tidegate_core_wire::line::{Line, take_line};

use crate::sasl::Secret;

/// The longest tag accepted. nginx's limit; the RFC has none.
const MAX_TAG: usize = 32;
/// The most arguments a command may have.
const MAX_ARGUMENTS: usize = 3;

/// The commands that mean something before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Capability,
    Noop,
    Login,
    Authenticate,
    Logout,
    StartTls,
}

impl Verb {
    const ALL: [Verb; 6] =
        [Verb::Capability, Verb::Noop, Verb::Login, Verb::Authenticate, Verb::Logout, Verb::StartTls];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Verb::Capability => "CAPABILITY",
            Verb::Noop => "NOOP",
            Verb::Login => "LOGIN",
            Verb::Authenticate => "AUTHENTICATE",
            Verb::Logout => "LOGOUT",
            Verb::StartTls => "STARTTLS",
        }
    }

    fn by_name(name: &[u8]) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// A command, complete once the reader hands it out.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) tag: Bytes,
    pub(super) verb: Verb,
    pub(super) arguments: Vec<Secret>,
}

/// What the reader found.
#[derive(Debug)]
pub(super) enum Item {
    /// Nothing yet.
    NeedInput,
    /// The client waits for permission to send a literal.
    Permit,
    /// A command.
    Command(Command),
    /// Something that is no command, with its tag if it had one. The reader goes on behind it.
    Malformed { tag: Option<Bytes> },
}

/// A command that does not fit the limit; the dialogue cannot go on.
#[derive(Debug)]
pub(super) enum Oversize {
    /// With tag and verb as far as they could be made out.
    Command { tag: Option<Bytes>, verb: Option<Verb> },
    /// A command that was malformed, and was reported so, announced more than anybody would skip.
    Malformed,
}

/// Reads one command after the other.
#[derive(Debug)]
pub(super) struct Reader {
    limit: usize,
    state: State,
}

/// `budget` is what the command may still have. Few clients are ever found inside a command, so that one is kept apart.
#[derive(Debug)]
enum State {
    /// At the start of a command.
    Start,
    /// Inside a literal that becomes the next argument.
    Literal { command: Box<Command>, length: usize, budget: usize },
    /// Behind a literal, in the rest of the command.
    Rest { command: Box<Command>, budget: usize },
    /// Inside a literal of a malformed command, which the client sends without waiting for permission.
    Skip { length: usize, budget: usize },
    /// Behind that literal, in the rest of the malformed command.
    SkipRest { budget: usize },
}

impl Reader {
    pub(super) fn new(limit: usize) -> Self {
        Reader { limit, state: State::Start }
    }

    /// Takes from `input` up to the next thing that needs an answer.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Item, Oversize> {
        loop {
            let item = match std::mem::replace(&mut self.state, State::Start) {
                State::Start => self.start(input)?,
                State::Literal { command, length, budget } => self.literal(*command, length, budget, input),
                State::Rest { command, budget } => self.rest(*command, budget, input)?,
                State::Skip { length, budget } => self.skip(length, budget, input)?,
                State::SkipRest { budget } => self.skip_rest(budget, input)?,
            };
            if let Some(item) = item {
                return Ok(item);
            }
        }
    }

    fn start(&mut self, input: &mut BytesMut) -> Result<Option<Item>, Oversize> {
        let Ok(line) = take_line(input, self.limit) else {
            let (tag, verb) = recognise(input.get(..self.limit).unwrap_or_default());
            return Err(Oversize::Command { tag, verb });
        };
        let Some(line) = line else { return Ok(Some(Item::NeedInput)) };
        let budget = self.limit.saturating_sub(line.raw().len());
        match head(&line) {
            Ok((command, arguments)) => self.arguments(command, arguments, budget),
            Err(tag) => Ok(Some(self.malformed(tag, &line, budget))),
        }
    }

    fn rest(&mut self, command: Command, budget: usize, input: &mut BytesMut) -> Result<Option<Item>, Oversize> {
        match take_line(input, budget) {
            Ok(Some(line)) => self.arguments(command, &line, budget.saturating_sub(line.raw().len())),
            Ok(None) => {
                self.state = State::Rest { command: Box::new(command), budget };
                Ok(Some(Item::NeedInput))
            }
            Err(_) => Err(Oversize::Command { tag: Some(command.tag), verb: Some(command.verb) }),
        }
    }

    /// Reads `text`, the arguments on one line: the command is complete, malformed, or goes on with a literal.
    fn arguments(&mut self, mut command: Command, text: &[u8], budget: usize) -> Result<Option<Item>, Oversize> {
        match arguments(text, &mut command.arguments) {
            Some(Ending::Complete) => Ok(Some(Item::Command(command))),
            // As large as the budget is too large: the line end still has to come.
            Some(Ending::Literal(literal)) if literal.length >= budget => {
                Err(Oversize::Command { tag: Some(command.tag), verb: Some(command.verb) })
            }
            Some(Ending::Literal(Literal { length, waits })) => {
                self.state = State::Literal { command: Box::new(command), length, budget };
                Ok(waits.then_some(Item::Permit))
            }
            None => Ok(Some(self.malformed(Some(command.tag), text, budget))),
        }
    }

    fn literal(&mut self, mut command: Command, length: usize, budget: usize, input: &mut BytesMut) -> Option<Item> {
        if input.len() < length {
            self.state = State::Literal { command: Box::new(command), length, budget };
            return Some(Item::NeedInput);
        }
        command.arguments.push(Secret::new(input.split_to(length).freeze()));
        self.state = State::Rest { command: Box::new(command), budget: budget.saturating_sub(length) };
        None
    }

    /// Gives up on a command. A literal that its line announces as already under way is not a command: it is skipped.
    fn malformed(&mut self, tag: Option<Bytes>, line: &[u8], budget: usize) -> Item {
        self.skip_announced(line, budget);
        Item::Malformed { tag }
    }

    fn skip_announced(&mut self, line: &[u8], budget: usize) {
        self.state = match announced(line) {
            Some(Literal { length, waits: false }) => State::Skip { length, budget },
            _ => State::Start,
        };
    }

    fn skip(&mut self, length: usize, budget: usize, input: &mut BytesMut) -> Result<Option<Item>, Oversize> {
        if length >= budget {
            return Err(Oversize::Malformed);
        }
        let here = length.min(input.len());
        drop(input.split_to(here));
        let (length, budget) = (length - here, budget - here);
        if length > 0 {
            self.state = State::Skip { length, budget };
            return Ok(Some(Item::NeedInput));
        }
        self.state = State::SkipRest { budget };
        Ok(None)
    }

    fn skip_rest(&mut self, budget: usize, input: &mut BytesMut) -> Result<Option<Item>, Oversize> {
        match take_line(input, budget) {
            Ok(Some(line)) => {
                self.skip_announced(&line, budget.saturating_sub(line.raw().len()));
                Ok(None)
            }
            Ok(None) => {
                self.state = State::SkipRest { budget };
                Ok(Some(Item::NeedInput))
            }
            Err(_) => Err(Oversize::Malformed),
        }
    }
}

/// Tag and verb of a line and what follows them, or the tag of what is no command.
fn head(line: &Line) -> Result<(Command, &[u8]), Option<Bytes>> {
    match split_head(line) {
        (Some(tag), verb, rest) => {
            let tag = Bytes::copy_from_slice(tag);
            match Verb::by_name(verb) {
                Some(verb) => Ok((Command { tag, verb, arguments: Vec::new() }, rest)),
                None => Err(Some(tag)),
            }
        }
        (None, ..) => Err(None),
    }
}

/// Tag and verb of a line that is too long to be taken.
fn recognise(line: &[u8]) -> (Option<Bytes>, Option<Verb>) {
    let (tag, verb, _) = split_head(line);
    (tag.map(Bytes::copy_from_slice), Verb::by_name(verb))
}

/// Splits `tag SP verb rest`; the rest begins with a space or is empty.
fn split_head(line: &[u8]) -> (Option<&[u8]>, &[u8], &[u8]) {
    let Some((tag, rest)) = line.iter().position(|&octet| octet == b' ').and_then(|at| line.split_at_checked(at))
    else {
        return (None, &[], &[]);
    };
    if !is_tag(tag) {
        return (None, &[], &[]);
    }
    let rest = without_spaces(rest);
    let (verb, rest) = split_word(rest);
    (Some(tag), verb, rest)
}

/// nginx: letters, digits, `-`, `.` and `_`, less than the RFC allows.
fn is_tag(tag: &[u8]) -> bool {
    (1..=MAX_TAG).contains(&tag.len())
        && tag.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_'))
}

/// A literal that a line announces.
struct Literal {
    length: usize,
    /// Whether the client waits for permission before it sends the literal.
    waits: bool,
}

/// How a line of arguments ends.
enum Ending {
    Complete,
    Literal(Literal),
}

/// Reads the arguments of one line: nothing, or a space before each. `None`: that is no list of arguments.
///
/// nginx: an atom may have any octets but space and CR, quotes and braces inside it included.
fn arguments(line: &[u8], arguments: &mut Vec<Secret>) -> Option<Ending> {
    if line.contains(&b'\r') {
        return None;
    }
    let mut rest = line;
    while let [b' ', ..] = rest {
        rest = without_spaces(rest);
        if !rest.is_empty() && arguments.len() == MAX_ARGUMENTS {
            return None;
        }
        match rest {
            [] => return Some(Ending::Complete),
            [b'{', ..] => return literal(rest).map(Ending::Literal),
            [b'"', quoted @ ..] => {
                let (value, after) = unquote(quoted)?;
                arguments.push(value);
                rest = after;
            }
            _ => {
                let (atom, after) = split_word(rest);
                arguments.push(Secret::new(Bytes::copy_from_slice(atom)));
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(Ending::Complete)
}

/// Reads a quoted string from behind its opening quote; a backslash takes the next octet as it is.
fn unquote(text: &[u8]) -> Option<(Secret, &[u8])> {
    let mut value = Vec::new();
    let mut octets = text.iter();
    loop {
        match octets.next()? {
            b'"' => return Some((Secret::new(value), octets.as_slice())),
            b'\\' => value.push(*octets.next()?),
            octet => value.push(*octet),
        }
    }
}

/// Reads `{n}` or `{n+}` as the whole of `text`. A number beyond counting is the largest one: it fits no limit.
fn literal(text: &[u8]) -> Option<Literal> {
    let inside = text.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let (digits, waits) = match inside {
        [digits @ .., b'+'] => (digits, false),
        digits => (digits, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = digits
        .iter()
        .fold(0, |length: usize, digit| length.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    Some(Literal { length, waits })
}

/// The literal announced at the end of a line that is otherwise not understood.
fn announced(line: &[u8]) -> Option<Literal> {
    let from = line.iter().rposition(|&octet| octet == b'{')?;
    literal(line.get(from..)?)
}

fn without_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&octet| octet == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// Splits before the first space.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&octet| octet == b' ').unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core_wire::testing::every_split;

    /// One line for each thing the reader finds under a limit of `limit`.
    fn found(pieces: &[&[u8]], limit: usize) -> Vec<String> {
        let mut reader = Reader::new(limit);
        let mut input = BytesMut::new();
        let mut found = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match reader.next(&mut input) {
                    Ok(Item::NeedInput) => break,
                    Ok(Item::Permit) => found.push("permit".into()),
                    Ok(Item::Command(command)) => found.push(shown(&command)),
                    Ok(Item::Malformed { tag }) => found.push(format!("malformed {tag:?}")),
                    Err(oversize) => {
                        found.push(format!("{oversize:?}"));
                        return found;
                    }
                }
            }
        }
        found
    }

    fn shown(command: &Command) -> String {
        let arguments: Vec<_> = command.arguments.iter().map(|a| a.expose().escape_ascii().to_string()).collect();
        format!("{} {:?} [{}]", command.tag.escape_ascii(), command.verb, arguments.join("|"))
    }

    fn read(input: &[u8]) -> Vec<String> {
        every_split(input, |pieces| found(pieces, 64))
    }

    #[test]
    fn commands_have_tag_verb_and_arguments() {
        for (input, expected) in [
            (&b"a01 NOOP\r\n"[..], "a01 Noop []"),
            (b"a01 NOOP\n", "a01 Noop []"),
            (b"A-1._z   noOp  \r\n", "A-1._z Noop []"),
            (b"1 login u p\r\n", "1 Login [u|p]"),
            (b"1 LOGIN  u   p  \r\n", "1 Login [u|p]"),
            (b"1 LOGIN u\"v p{3}\\\r\n", "1 Login [u\\\"v|p{3}\\\\]"),
            (b"1 LOGIN \"\" \"a b\"\r\n", "1 Login [|a b]"),
            (b"1 LOGIN \"te\\\\\\\"st\" \"\\a{3}\"\r\n", "1 Login [te\\\\\\\"st|a{3}]"),
            (b"1 LOGIN \xff \"\xfe\"\r\n", "1 Login [\\xff|\\xfe]"),
            (b"1 AUTHENTICATE PLAIN AA==\r\n", "1 Authenticate [PLAIN|AA==]"),
            (b"1 LOGOUT a b c\r\n", "1 Logout [a|b|c]"),
        ] {
            assert_eq!(read(input), [expected], "{}", input.escape_ascii());
        }
    }

    #[test]
    fn literals_are_arguments_of_any_octets() {
        assert_eq!(read(b"1 LOGIN {3}\r\na\r\n {2}\r\nb \r\n"), ["permit", "permit", "1 Login [a\\r\\n|b ]"]);
        assert_eq!(read(b"1 LOGIN {3+}\r\n\"{1 {02+}\r\n\\\"\r\n"), ["1 Login [\\\"{1|\\\\\\\"]"]);
        assert_eq!(read(b"1 LOGIN {1+}\r\nu \"p\"\r\n"), ["1 Login [u|p]"]);
        assert_eq!(read(b"1 LOGIN u {1}\np\n"), ["permit", "1 Login [u|p]"]);
    }

    #[test]
    fn a_literal_may_be_empty() {
        assert_eq!(read(b"1 LOGIN {0}\r\n {0}\r\n\r\n2 NOOP\r\n"), ["permit", "permit", "1 Login [|]", "2 Noop []"]);
        assert_eq!(read(b"1 LOGIN {0+}\r\n p\r\n"), ["1 Login [|p]"]);
    }

    #[test]
    fn what_is_no_command_keeps_its_tag() {
        for (input, tag) in [
            (&b"\r\n"[..], "None"),
            (b" NOOP\r\n", "None"),
            (b"a01\r\n", "None"),
            (b"a+1 NOOP\r\n", "None"),
            (b"a\r1 NOOP\r\n", "None"),
            (b"123456789012345678901234567890123 NOOP\r\n", "None"),
            (b"a \r\n", "Some(b\"a\")"),
            (b"a FOO\r\n", "Some(b\"a\")"),
            (b"a NOOPS\r\n", "Some(b\"a\")"),
            (b"a NOOP\r \r\n", "Some(b\"a\")"),
            (b"a LOGIN \"u\r\n", "Some(b\"a\")"),
            (b"a LOGIN \"u\\\r\n", "Some(b\"a\")"),
            (b"a LOGIN \"u\"p\r\n", "Some(b\"a\")"),
            (b"a LOGIN u\rv\r\n", "Some(b\"a\")"),
            (b"a LOGIN {\r\n", "Some(b\"a\")"),
            (b"a LOGIN {}\r\n", "Some(b\"a\")"),
            (b"a LOGIN {+}\r\n", "Some(b\"a\")"),
            (b"a LOGIN {-1}\r\n", "Some(b\"a\")"),
            (b"a LOGIN {1} x\r\n", "Some(b\"a\")"),
            (b"a LOGIN 1 2 3 4\r\n", "Some(b\"a\")"),
            (b"a LOGIN 1 2 3 {4}\r\n", "Some(b\"a\")"),
            (b"a LOGIN {1+}\r\nuv\r\n", "Some(b\"a\")"),
            (b"a LOGIN {1+}\r\nu\"p\"\r\n", "Some(b\"a\")"),
        ] {
            let mut input = input.to_vec();
            input.extend_from_slice(b"z NOOP\r\n");
            assert_eq!(read(&input), [format!("malformed {tag}"), "z Noop []".into()], "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_tag_may_have_32_octets() {
        assert_eq!(read(b"12345678901234567890123456789012 NOOP\r\n"), ["12345678901234567890123456789012 Noop []"]);
    }

    #[test]
    fn a_literal_of_a_malformed_command_is_no_command() {
        let skipped = ["malformed Some(b\"a\")", "z Noop []"];
        assert_eq!(read(b"a FOO {8+}\r\nb NOOP\r\n\r\nz NOOP\r\n"), skipped);
        assert_eq!(read(b"a FOO {0+}\r\n\r\nz NOOP\r\n"), skipped);
        assert_eq!(read(b"a FOO ({2+}\r\n\r\n b {3+}\r\nc\r\n rest\r\nz NOOP\r\n"), skipped);
        assert_eq!(read(b"a LOGIN 1 2 3 {6+}\r\nb NOOP\r\nz NOOP\r\n"), skipped);
        assert_eq!(read(b"a LOGIN {1+}\r\nuv {4+}\r\nNOOP\r\nz NOOP\r\n"), skipped);
    }

    #[test]
    fn a_malformed_command_that_waits_for_permission_gets_none() {
        assert_eq!(read(b"a FOO {8}\r\nz NOOP\r\n"), ["malformed Some(b\"a\")", "z Noop []"]);
    }

    #[test]
    fn a_command_may_fill_the_limit_but_not_exceed_it() {
        let under = |input: &[u8]| every_split(input, |pieces| found(pieces, 16));
        assert_eq!(under(b"1 LOGIN abc d \r\n"), ["1 Login [abc|d]"]);
        assert_eq!(under(b"1 LOGIN abc de \r\n"), ["Command { tag: Some(b\"1\"), verb: Some(Login) }"]);
        assert_eq!(under(b"12345678901234567"), ["Command { tag: None, verb: None }"]);
        assert_eq!(under(b"12 AUTHENTICATE "), ["Command { tag: Some(b\"12\"), verb: Some(Authenticate) }"]);
        assert_eq!(under(b"123 AUTHENTICATE "), ["Command { tag: Some(b\"123\"), verb: Some(Authenticate) }"]);
        assert_eq!(under(b"1234 AUTHENTICATE "), ["Command { tag: Some(b\"1234\"), verb: None }"]);
    }

    #[test]
    fn literals_count_against_the_limit() {
        let under = |input: &[u8]| every_split(input, |pieces| found(pieces, 17));
        assert_eq!(under(b"1 LOGIN {1+}\r\nx\r\n"), ["1 Login [x]"]);
        let too_long = "Command { tag: Some(b\"1\"), verb: Some(Login) }";
        assert_eq!(under(b"1 LOGIN {3+}\r\nxyz"), [too_long], "no room for the line end");
        assert_eq!(under(b"1 LOGIN {3}\r\n"), ["permit"]);
        assert_eq!(under(b"1 LOGIN {4}\r\n"), [too_long], "no permission");
        assert_eq!(under(b"1 LOGIN {3}\r\nxyz \r\n"), ["permit", too_long]);
        assert_eq!(read(b"1 LOGIN {99999999999999999999999}\r\n"), [too_long]);
        assert_eq!(read(b"1 LOGIN {99999999999999999999999+}\r\n"), [too_long]);
        assert_eq!(read(b"a FOO {99999999999999999999999+}\r\n"), ["malformed Some(b\"a\")", "Malformed"]);
        assert_eq!(under(b"a FOO {5+}\r\n"), ["malformed Some(b\"a\")", "Malformed"], "without waiting for it");
        assert_eq!(under(b"a FOO {5+}\r\n12345z NOOP\r\n"), ["malformed Some(b\"a\")", "Malformed"]);
    }

    #[test]
    fn a_pipelined_command_is_measured_from_its_own_start() {
        let under = |input: &[u8]| every_split(input, |pieces| found(pieces, 16));
        let commands = b"1 NOOP\r\n2 LOGIN abc d \r\n3 LOGOUT\r\n";
        assert_eq!(under(commands), ["1 Noop []", "2 Login [abc|d]", "3 Logout []"]);
    }
}
