//! `"$scheme://$host"`, compiled once.

use crate::conf::{ConfigError, Word};
use crate::script::{VariableRef, Variables};
use crate::subject::Subject;

enum Part<S: 'static> {
    Literal(Box<[u8]>),
    Variable(VariableRef<S>),
    Capture(usize),
}

/// Text with variables in it.
pub struct Template<S: 'static> {
    parts: Box<[Part<S>]>,
}

impl<S: Subject> Template<S> {
    /// Compiles a word. Variables may be defined later; [`Variables::finish`] reports those that never are.
    ///
    /// # Errors
    /// `$` without a name, or `${` without its `}`.
    pub fn compile(word: &Word, variables: &Variables<S>) -> Result<Self, ConfigError> {
        Self::compile_with(word, variables, true)
    }

    /// Compiles a word in which `$1` to `$9` are not captures but refused.
    fn compile_with(word: &Word, variables: &Variables<S>, captures: bool) -> Result<Self, ConfigError> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = word.bytes();
        while let Some((byte, tail)) = rest.split_first() {
            rest = tail;
            if *byte != b'$' {
                literal.push(*byte);
                continue;
            }
            let invalid = || ConfigError::new(word.at(), "invalid variable name");
            // nginx: `${1}` is a variable of that name, which nobody can define.
            let is_capture = captures && matches!(rest.first(), Some(b'1'..=b'9'));
            let (name, tail) = match rest.strip_prefix(b"{") {
                Some(inner) => {
                    let end = inner.iter().position(|byte| *byte == b'}').ok_or_else(|| {
                        ConfigError::new(word.at(), "the closing bracket in a variable name is missing")
                    })?;
                    let (name, tail) = inner.split_at_checked(end).ok_or_else(invalid)?;
                    (name, tail.split_first().map_or(tail, |(_, tail)| tail))
                }
                None if is_capture => rest.split_at_checked(1).ok_or_else(invalid)?,
                None => {
                    rest.split_at_checked(rest.iter().take_while(|byte| is_name(**byte)).count()).ok_or_else(invalid)?
                }
            };
            if name.is_empty() || !name.iter().all(|byte| is_name(*byte)) {
                return Err(invalid());
            }
            rest = tail;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            let name = std::str::from_utf8(name).map_err(|_| invalid())?;
            match name.parse::<usize>() {
                Ok(group @ 1..=9) if is_capture => parts.push(Part::Capture(group)),
                _ => parts.push(Part::Variable(variables.refer(name, word.at()))),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Template { parts: parts.into() })
    }

    /// The value of a variable and nothing else.
    pub fn variable(variable: VariableRef<S>) -> Self {
        Template { parts: [Part::Variable(variable)].into() }
    }

    /// A template without variables.
    pub fn literal(text: &[u8]) -> Self {
        let parts = if text.is_empty() { Vec::new() } else { vec![Part::Literal(text.into())] };
        Template { parts: parts.into() }
    }

    /// The text, if no variable is in it.
    pub fn constant(&self) -> Option<&[u8]> {
        match &*self.parts {
            [] => Some(b""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the value for `subject`; absent variables are empty.
    pub fn write(&self, subject: &S, out: &mut Vec<u8>) {
        self.write_escaped(subject, out, |_, _| {});
    }

    /// Appends the value, giving every variable's text to `escape` (with where it starts; `None` if absent) to rewrite.
    pub fn write_escaped(&self, subject: &S, out: &mut Vec<u8>, escape: impl Fn(&mut Vec<u8>, Option<usize>)) {
        self.write_with(subject, out, |out, start, _| escape(out, start));
    }

    /// Appends the value, giving the text of every group of the last match to `escape`, with where it starts.
    pub fn write_captures_escaped(&self, subject: &S, out: &mut Vec<u8>, escape: impl Fn(&mut Vec<u8>, usize)) {
        self.write_with(subject, out, |out, start, captured| {
            if let (Some(start), true) = (start, captured) {
                escape(out, start);
            }
        });
    }

    fn write_with(&self, subject: &S, out: &mut Vec<u8>, escape: impl Fn(&mut Vec<u8>, Option<usize>, bool)) {
        for part in &*self.parts {
            let start = out.len();
            let found = match part {
                Part::Literal(text) => {
                    out.extend_from_slice(text);
                    continue;
                }
                Part::Capture(group) => subject.slots().read_capture(*group, out),
                Part::Variable(variable) => variable.read(subject, out),
            };
            if !found {
                out.truncate(start);
            }
            escape(out, found.then_some(start), matches!(part, Part::Capture(_)));
        }
    }

    /// The value for `subject`.
    pub fn value(&self, subject: &S) -> Vec<u8> {
        let room = |part: &Part<S>| if let Part::Literal(text) = part { text.len() } else { SHORT };
        let mut out = Vec::with_capacity(self.parts.iter().map(room).sum());
        self.write(subject, &mut out);
        out
    }
}

/// Room for the value of a variable, where it is not known.
const SHORT: usize = 32;

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
