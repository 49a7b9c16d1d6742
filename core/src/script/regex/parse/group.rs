//! What begins with a parenthesis.

use super::super::ast::{Condition, Look, Node, Target, Verb};
use super::{DEPTH, Options, Parsed, Parser};

/// The version of PCRE2 that `(?(VERSION>=10.4)` is about.
const VERSION: (u32, u32) = (10, 46);

impl Parser<'_> {
    /// A group, a verb, or options; and whether it may be repeated. Options are no item.
    pub(super) fn parenthesis(&mut self) -> Parsed<(Option<Node>, bool)> {
        let from = self.at;
        self.at += 1;
        if self.peek() == Some(b'*') && self.rest().get(1).is_some_and(|byte| *byte != b')') {
            return self.starred(from);
        }
        if self.peek() != Some(b'?') {
            if self.options.no_auto_capture {
                return Ok((Some(self.inside(from, None)?), true));
            }
            return Ok((Some(self.numbered(from, None)?), true));
        }
        self.at += 1;
        let Some(byte) = self.peek() else { return self.refuse_at(from, "missing closing parenthesis") };
        let look = |behind, negative, retried| Look { behind, negative, retried, at: from };
        match byte {
            b':' => {
                self.at += 1;
                Ok((Some(self.inside(from, None)?), true))
            }
            b'|' => {
                self.at += 1;
                Ok((Some(self.inside(from, Some(self.groups))?), true))
            }
            b'>' => {
                self.at += 1;
                Ok((Some(Node::Atomic(Box::new(self.inside(from, None)?))), true))
            }
            b'=' => self.assertion(1, look(false, false, false)),
            b'!' => self.assertion(1, look(false, true, false)),
            b'*' => self.assertion(1, look(false, false, true)),
            b'<' => match self.rest().get(1) {
                Some(b'=') => self.assertion(2, look(true, false, false)),
                Some(b'!') => self.assertion(2, look(true, true, false)),
                Some(b'*') => self.assertion(2, look(true, false, true)),
                _ => {
                    self.at += 1;
                    self.named(from, b'>')
                }
            },
            b'\'' => {
                self.at += 1;
                self.named(from, b'\'')
            }
            b'P' => self.python(from),
            b'&' => {
                self.at += 1;
                Ok((Some(Node::Call(Target::Name(self.name(b')')?, from))), true))
            }
            b'R' => {
                self.at += 1;
                if !self.take(b")") {
                    return self.refuse("(?R (recursive pattern call) must be followed by a closing parenthesis");
                }
                Ok((Some(Node::Call(Target::Number(0, from))), true))
            }
            b'0'..=b'9' => self.call(from),
            b'+' | b'-' if self.rest().get(1).is_some_and(u8::is_ascii_digit) => self.call(from),
            b'+' => self.refuse("digit expected after (?+ or (?-"),
            b'(' => self.conditional(from),
            b'C' => {
                self.callout(from)?;
                Ok((None, false))
            }
            b'[' => self.refuse_at(from, "extended classes (?[...]) are not supported"),
            _ => self.options(from),
        }
    }

    /// What is left of a group whose opening has been read; options that it sets end with it.
    fn inside(&mut self, from: usize, reset: Option<u32>) -> Parsed<Node> {
        let outer = self.options;
        self.depth += 1;
        if self.depth > DEPTH {
            return self.refuse_at(from, "parentheses are too deeply nested");
        }
        let node = self.branches(reset)?;
        self.depth -= 1;
        self.options = outer;
        if !self.take(b")") {
            return self.refuse("missing closing parenthesis");
        }
        Ok(node)
    }

    fn numbered(&mut self, from: usize, name: Option<Vec<u8>>) -> Parsed<Node> {
        if self.groups >= super::numbers::MOST_GROUPS {
            return self.refuse_at(from, "too many capturing groups (maximum 65535)");
        }
        self.groups += 1;
        self.most_groups = self.most_groups.max(self.groups);
        let number = self.groups;
        if let Some(name) = name {
            let same_name = self.names.iter().filter(|(known, _)| *known == name);
            let is_known = same_name.clone().any(|(_, group)| *group == number);
            if !is_known {
                if same_name.count() > 0 && !self.options.duplicate_names {
                    return self.refuse("two named groups have the same name (PCRE2_DUPNAMES not set)");
                }
                if self.names.iter().any(|(_, group)| *group == number) {
                    return self.refuse("different names for groups of the same number are not allowed");
                }
                self.names.push((name, number));
            }
        }
        Ok(Node::Group(number, Box::new(self.inside(from, None)?)))
    }

    fn named(&mut self, from: usize, end: u8) -> Parsed<(Option<Node>, bool)> {
        let name = self.name(end)?;
        Ok((Some(self.numbered(from, Some(name))?), true))
    }

    /// `(?P<name>..)`, `(?P=name)`, `(?P>name)`
    fn python(&mut self, from: usize) -> Parsed<(Option<Node>, bool)> {
        self.at += 1;
        match self.peek() {
            Some(b'<') => {
                self.at += 1;
                self.named(from, b'>')
            }
            Some(b'=') => {
                self.at += 1;
                let name = self.name(b')')?;
                Ok((Some(self.back(Target::Name(name, from))), true))
            }
            Some(b'>') => {
                self.at += 1;
                Ok((Some(Node::Call(Target::Name(self.name(b')')?, from))), true))
            }
            _ => self.refuse("unrecognized character after (?P"),
        }
    }

    fn call(&mut self, from: usize) -> Parsed<(Option<Node>, bool)> {
        let Some(number) = self.group_number()? else { return self.refuse("digit expected after (?+ or (?-") };
        if !self.take(b")") {
            return self.refuse("missing closing parenthesis");
        }
        Ok((Some(Node::Call(Target::Number(number, from))), true))
    }

    /// An assertion whose kind is written in `skip` bytes.
    fn assertion(&mut self, skip: usize, look: Look) -> Parsed<(Option<Node>, bool)> {
        self.at += skip;
        let around = (self.looking, self.looking_back, self.retrying);
        (self.looking, self.looking_back, self.retrying) = (true, look.behind, self.retrying || look.retried);
        let inner = self.inside(look.at, None)?;
        (self.looking, self.looking_back, self.retrying) = around;
        Ok((Some(Node::Look(look, Box::new(inner))), true))
    }

    /// `(?i)`, `(?i-s)`, `(?^x)` for the rest of the group, `(?i:..)` for one of its own.
    fn options(&mut self, from: usize) -> Parsed<(Option<Node>, bool)> {
        let outer = self.options;
        let mut wanted = outer;
        let mut hyphen = !self.take(b"^");
        if !hyphen {
            wanted = Options {
                duplicate_names: outer.duplicate_names,
                ungreedy: outer.ungreedy,
                ascii: outer.ascii,
                ..Options::default()
            };
        }
        let mut value = true;
        loop {
            let at = self.at;
            let Some(letter) = self.peek() else { return self.refuse_at(from, "missing closing parenthesis") };
            self.at += 1;
            match letter {
                b')' | b':' => break,
                b'-' if hyphen => (hyphen, value) = (false, false),
                b'-' => return self.refuse_at(at, "invalid hyphen in option setting"),
                b'i' => wanted.caseless = value,
                b'm' => wanted.multiline = value,
                b's' => wanted.dot_all = value,
                b'n' => wanted.no_auto_capture = value,
                b'J' => wanted.duplicate_names = value,
                b'U' => wanted.ungreedy = value,
                b'r' => wanted.restrict_case = value,
                b'x' => {
                    let more = self.take(b"x");
                    (wanted.extended, wanted.extended_more) = (value, value && more);
                }
                b'a' => {
                    let which: &[usize] = match self.peek() {
                        Some(b'D') => &[0],
                        Some(b'S') => &[1],
                        Some(b'W') => &[2],
                        Some(b'P') => &[3, 4],
                        Some(b'T') => &[4],
                        _ => &[0, 1, 2, 3, 4],
                    };
                    if which.len() < 5 {
                        self.at += 1;
                    }
                    for at in which {
                        if let Some(option) = wanted.ascii.get_mut(*at) {
                            *option = value;
                        }
                    }
                }
                _ => return self.refuse_at(at, "unrecognized character after (? or (?-"),
            }
        }
        self.options = wanted;
        if self.pattern.get(self.at - 1) == Some(&b')') {
            return Ok((None, false));
        }
        let node = self.inside(from, None)?;
        self.options = outer;
        Ok((Some(node), true))
    }

    /// `(?C)`, `(?C1)`, `(?C"text")`: points where a program could look on. There is none that does.
    fn callout(&mut self, from: usize) -> Parsed<()> {
        self.at += 1;
        let ends = match self.peek() {
            Some(open @ (b'`' | b'\'' | b'"' | b'^' | b'%' | b'#' | b'$')) => Some(open),
            Some(b'{') => Some(b'}'),
            _ => None,
        };
        let Some(end) = ends else {
            self.number(255, "number after (?C is greater than 255")?;
            if !self.take(b")") {
                return self.refuse("closing parenthesis for (?C expected");
            }
            return Ok(());
        };
        self.at += 1;
        loop {
            match self.rest() {
                [one, two, ..] if *one == end && *two == end => self.at += 2,
                [one, b')', ..] if *one == end => {
                    self.at += 2;
                    return Ok(());
                }
                [one, _, ..] if *one == end => return self.refuse("closing parenthesis for (?C expected"),
                [_, _, ..] => self.at += 1,
                _ => return self.refuse_at(from, "missing terminating delimiter for callout with string argument"),
            }
        }
    }

    /// `(?(condition)yes|no)`
    fn conditional(&mut self, from: usize) -> Parsed<(Option<Node>, bool)> {
        if self.looking_back {
            return self.refuse_at(from, "conditional groups are not supported in lookbehind assertion");
        }
        let outer = self.options;
        self.at += 1;
        let condition = match self.peek() {
            Some(b'?' | b'*') => {
                self.at -= 1;
                self.asserted(from)?
            }
            _ => self.asked(from)?,
        };
        self.depth += 1;
        if self.depth > DEPTH {
            return self.refuse_at(from, "parentheses are too deeply nested");
        }
        let mut branches = self.branch_list(None)?.into_iter();
        self.depth -= 1;
        self.options = outer;
        if !self.take(b")") {
            return self.refuse("missing closing parenthesis");
        }
        let (yes, no) = (branches.next().unwrap_or(Node::Empty), branches.next());
        if branches.next().is_some() {
            return self.refuse_at(from, "conditional subpattern contains more than two branches");
        }
        if condition.1 && no.is_some() {
            return self.refuse_at(from, "DEFINE subpattern contains more than one branch");
        }
        let no = no.unwrap_or(Node::Empty);
        Ok((Some(Node::If(Box::new(condition.0), Box::new(yes), Box::new(no))), true))
    }

    /// A condition that is an assertion, with a callout before it perhaps.
    fn asserted(&mut self, from: usize) -> Parsed<(Condition, bool)> {
        if self.rest().starts_with(b"(?C") {
            self.at += 2;
            self.callout(from)?;
        }
        let is_one = [&b"(?="[..], b"(?!", b"(?<=", b"(?<!", b"(*"].iter().any(|kind| self.rest().starts_with(kind));
        let at = self.at;
        if is_one
            && let (Some(Node::Look(look, inner)), _) = self.parenthesis()?
            && !look.retried
        {
            return Ok((Condition::Look(look, *inner), false));
        }
        self.refuse_at(at, "atomic assertion expected after (?( or (?(?C)")
    }

    /// A condition that is a name or a number; `true` with `DEFINE`.
    fn asked(&mut self, from: usize) -> Parsed<(Condition, bool)> {
        let at = self.at;
        let closing = "missing closing parenthesis for condition";
        if let Some(number) = self.group_number()? {
            if number == 0 {
                return self.refuse_at(at, "reference to non-existent group");
            }
            if !self.take(b")") {
                return self.refuse(closing);
            }
            return Ok((Condition::Matched(Target::Number(number, from)), false));
        }
        if self.rest().starts_with(b"VERSION") && self.rest().get(7).is_some_and(|byte| *byte != b')') {
            return Ok((self.version()?, false));
        }
        let (end, is_inside) = match self.rest() {
            [b'R', b'&', ..] => {
                self.at += 2;
                (b')', true)
            }
            [b'<', ..] => {
                self.at += 1;
                (b'>', false)
            }
            [b'\'', ..] => {
                self.at += 1;
                (b'\'', false)
            }
            _ => (b')', false),
        };
        let name = self.name(end)?;
        if end != b')' && !self.take(b")") {
            return self.refuse(closing);
        }
        if is_inside {
            return Ok((Condition::Inside(Some(Target::Name(name, from))), false));
        }
        if end == b')' && name == b"DEFINE" {
            return Ok((Condition::Known(false), true));
        }
        Ok((Condition::Matched(Target::Name(name, from)), false))
    }

    /// `VERSION>=10.4)`
    fn version(&mut self) -> Parsed<Condition> {
        let malformed = "(?(VERSION condition syntax error or missing closing parenthesis";
        self.at += 7;
        let at_least = self.take(b">");
        if !self.take(b"=") {
            return self.refuse(malformed);
        }
        let Some(major) = self.number(1000, malformed)? else { return self.refuse(malformed) };
        let mut minor = 0;
        if self.take(b".") {
            let digits: Vec<u32> = self
                .rest()
                .iter()
                .take(2)
                .take_while(|byte| byte.is_ascii_digit())
                .map(|byte| u32::from(byte - b'0'))
                .collect();
            self.at += digits.len();
            minor = match *digits {
                [tens] => tens * 10,
                [tens, ones] => tens * 10 + ones,
                _ => return self.refuse(malformed),
            };
        }
        if !self.take(b")") {
            return self.refuse(malformed);
        }
        let wanted = (major, minor);
        Ok(Condition::Known(if at_least { VERSION >= wanted } else { VERSION == wanted }))
    }

    /// `(*VERB)` and `(*assertion:..)`
    fn starred(&mut self, from: usize) -> Parsed<(Option<Node>, bool)> {
        self.at += 1;
        let length = self.rest().iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        let name = self.rest().get(..length).unwrap_or_default().to_vec();
        self.at += length;
        if name.first().is_some_and(u8::is_ascii_lowercase) {
            if !self.take(b":") {
                return self.refuse("(*alpha_assertion) not recognized");
            }
            let look = |behind, negative, retried| Look { behind, negative, retried, at: from };
            return match &*name {
                b"pla" | b"positive_lookahead" => self.assertion(0, look(false, false, false)),
                b"nla" | b"negative_lookahead" => self.assertion(0, look(false, true, false)),
                b"plb" | b"positive_lookbehind" => self.assertion(0, look(true, false, false)),
                b"nlb" | b"negative_lookbehind" => self.assertion(0, look(true, true, false)),
                b"napla" | b"non_atomic_positive_lookahead" => self.assertion(0, look(false, false, true)),
                b"naplb" | b"non_atomic_positive_lookbehind" => self.assertion(0, look(true, false, true)),
                b"atomic" => Ok((Some(Node::Atomic(Box::new(self.inside(from, None)?))), true)),
                b"sr" | b"script_run" | b"asr" | b"atomic_script_run" => {
                    self.refuse_at(from, "script runs are not supported")
                }
                b"scs" | b"scan_substring" => self.refuse_at(from, "(*scan_substring:) is not supported"),
                _ => self.refuse("(*alpha_assertion) not recognized"),
            };
        }
        let mut has_name = false;
        if self.take(b":") {
            let Some(end) = self.rest().iter().position(|byte| *byte == b')') else {
                return self.refuse_at(from, "missing closing parenthesis");
            };
            has_name = end > 0;
            self.at += end;
        }
        if !self.take(b")") {
            return self.refuse("(*VERB) not recognized or malformed");
        }
        let verb = match &*name {
            b"ACCEPT" | b"COMMIT" | b"PRUNE" | b"SKIP" if self.retrying => {
                let name = String::from_utf8_lossy(&name).into_owned();
                return self.refuse_at(from, format!("(*{name}) is not supported in a non-atomic assertion"));
            }
            b"ACCEPT" | b"COMMIT" | b"PRUNE" | b"SKIP" if self.looking_back => {
                let name = String::from_utf8_lossy(&name).into_owned();
                return self.refuse_at(from, format!("(*{name}) is not supported in lookbehind assertion"));
            }
            b"ACCEPT" => Verb::Accept,
            b"F" | b"FAIL" => Verb::Fail,
            b"COMMIT" if self.optimize => {
                return self.refuse_at(from, "(*COMMIT) is not supported without (*NO_START_OPT) at the beginning");
            }
            b"COMMIT" => Verb::Commit,
            b"PRUNE" => Verb::Prune,
            b"SKIP" if !has_name => Verb::Skip,
            b"SKIP" => return self.refuse_at(from, "(*SKIP:NAME) is not supported"),
            b"THEN" => return self.refuse_at(from, "(*THEN) is not supported"),
            b"" | b"MARK" if has_name => return Ok((None, false)),
            b"" | b"MARK" => return self.refuse("(*MARK) must have an argument"),
            _ => return self.refuse_at(from, "(*VERB) not recognized or malformed"),
        };
        self.accepts |= verb == Verb::Accept;
        self.steers |= verb != Verb::Fail;
        Ok((Some(Node::Verb(verb)), verb == Verb::Accept))
    }
}
