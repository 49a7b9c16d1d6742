//! Verbs at the very beginning, which are about the whole pattern.

use super::super::ast::Newline;
use super::{LineBreaks, Parsed, Parser};

impl Parser<'_> {
    pub(super) fn start_verbs(&mut self) -> Parsed<()> {
        while self.rest().starts_with(b"(*") {
            let Some(end) = self.rest().iter().position(|byte| *byte == b')') else { return Ok(()) };
            let verb = self.rest().get(2..end).unwrap_or_default();
            match verb {
                b"UTF" | b"UTF8" => self.utf = true,
                b"UCP" => self.ucp = true,
                b"LF" => self.newline = Newline::Lf,
                b"CR" => self.newline = Newline::Cr,
                b"CRLF" => self.newline = Newline::CrLf,
                b"ANYCRLF" => self.newline = Newline::AnyCrLf,
                b"ANY" => self.newline = Newline::Any,
                b"NUL" => self.newline = Newline::Nul,
                b"BSR_ANYCRLF" => self.line_breaks = LineBreaks::AnyCrLf,
                b"BSR_UNICODE" => self.line_breaks = LineBreaks::Unicode,
                b"NOTEMPTY" => self.not_empty = true,
                b"NOTEMPTY_ATSTART" => self.not_empty_at_start = true,
                b"NO_START_OPT" => self.optimize = false,
                // How PCRE goes about it, not what it finds.
                b"NO_JIT" | b"NO_AUTO_POSSESS" | b"NO_DOTSTAR_ANCHOR" => {}
                b"CASELESS_RESTRICT" => self.options.restrict_case = true,
                b"TURKISH_CASING" => return self.refuse("(*TURKISH_CASING) is not supported"),
                _ => match verb.iter().position(|byte| *byte == b'=') {
                    // There are limits in any case.
                    Some(at) if is_limit(verb.get(..at).unwrap_or_default()) => {
                        let number = verb.get(at + 1..).unwrap_or_default();
                        let number = std::str::from_utf8(number).ok().and_then(|digits| digits.parse::<u32>().ok());
                        if number.is_none() {
                            return self.refuse("(*VERB) not recognized or malformed");
                        }
                    }
                    _ => return Ok(()),
                },
            }
            self.at += end + 1;
        }
        Ok(())
    }
}

fn is_limit(name: &[u8]) -> bool {
    matches!(name, b"LIMIT_MATCH" | b"LIMIT_DEPTH" | b"LIMIT_RECURSION" | b"LIMIT_HEAP")
}
