//! nginx's token rules: words, quotes, escapes, `${name}`, comments, `;`, `{` and `}`.
//!
//! Owns the grammar below the directive; knows nothing of directives. Bytes that are not UTF-8 pass through.

use std::rc::Rc;

use super::error::{ConfigError, Place};
use super::tree::Word;

/// What the text is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A word, unquoted and unescaped.
    Word(Vec<u8>),
    /// `;`
    Semicolon,
    /// `{`
    Open,
    /// `}`
    Close,
}

/// What some editors write in front of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts one file into tokens.
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
    line_start: usize,
    file: Rc<str>,
}

impl<'a> Lexer<'a> {
    /// A lexer at the beginning of `text`, which is the content of `file`.
    pub fn new(text: &'a [u8], file: Rc<str>) -> Self {
        Lexer { text, at: 0, line: 1, line_start: 0, file }
    }

    /// The current position.
    pub fn place(&self) -> Place {
        let column = u32::try_from(self.at.saturating_sub(self.line_start)).unwrap_or(u32::MAX).saturating_add(1);
        Place { file: self.file.clone(), line: self.line, column }
    }

    /// True when nothing is left.
    pub fn is_at_end(&self) -> bool {
        self.peek().is_none()
    }

    /// The next token and where it starts, or `None` at the end of the text.
    ///
    /// # Errors
    /// An unfinished quote, or text glued to a closing quote. The lexer has moved past it and can go on.
    pub fn next_token(&mut self) -> Result<Option<(Token, Place)>, ConfigError> {
        // nginx: the mark belongs to the first word, which then is no directive.
        if self.at == 0 && self.text.starts_with(MARK) {
            let place = self.place();
            (self.at, self.line_start) = (MARK.len(), MARK.len());
            return Err(ConfigError::new(&place, "the file begins with a byte order mark, which must be removed"));
        }
        self.skip_blank();
        let place = self.place();
        let token = match self.peek() {
            None => return Ok(None),
            Some(b';') => self.single(Token::Semicolon),
            Some(b'{') => self.single(Token::Open),
            Some(b'}') => self.single(Token::Close),
            Some(quote @ (b'"' | b'\'')) => Token::Word(self.quoted(quote, &place)?),
            Some(_) => Token::Word(self.bare()),
        };
        Ok(Some((token, place)))
    }

    /// Goes behind the brace that ends a program in Lua, the first one having been read. Braces in its strings and
    /// comments do not count.
    ///
    /// # Errors
    /// The text ends before.
    pub fn skip_lua(&mut self, name: &Word) -> Result<(), ConfigError> {
        let mut open = 1_usize;
        while open > 0 {
            match self.bump() {
                None => {
                    let message = format!(
                        "unexpected end of file, expecting \"}}\" to close \"{name}\" of line {}",
                        name.at().line
                    );
                    return Err(ConfigError::new(&self.place(), message));
                }
                Some(b'{') => open += 1,
                Some(b'}') => open -= 1,
                Some(quote @ (b'"' | b'\'')) => self.skip_lua_string(quote),
                Some(b'-') if self.peek() == Some(b'-') => {
                    self.bump();
                    if !(self.peek() == Some(b'[') && self.skip_long_bracket()) {
                        while self.peek().is_some_and(|byte| byte != b'\n') {
                            self.bump();
                        }
                    }
                }
                Some(b'[') => {
                    self.at -= 1;
                    if !self.skip_long_bracket() {
                        self.at += 1;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn skip_lua_string(&mut self, quote: u8) {
        while let Some(byte) = self.bump() {
            match byte {
                b'\\' => drop(self.bump()),
                b'\n' => return,
                _ if byte == quote => return,
                _ => {}
            }
        }
    }

    /// Goes behind `[[..]]` or `[==[..]==]`, if one begins here.
    fn skip_long_bracket(&mut self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let level = rest.iter().skip(1).take_while(|byte| **byte == b'=').count();
        if rest.first() != Some(&b'[') || rest.get(level + 1) != Some(&b'[') {
            return false;
        }
        let end: Vec<u8> = [b"]".as_slice(), &b"=".repeat(level), b"]"].concat();
        while let Some(rest) = self.text.get(self.at..).filter(|rest| !rest.is_empty()) {
            if rest.starts_with(&end) {
                self.at += end.len();
                break;
            }
            self.bump();
        }
        true
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
            self.line_start = self.at;
        }
        Some(byte)
    }

    fn single(&mut self, token: Token) -> Token {
        self.bump();
        token
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.bump();
                }
                b'#' => while self.bump().is_some_and(|byte| byte != b'\n') {},
                _ => return,
            }
        }
    }

    /// nginx: a parenthesis may follow the quote at once, and begins a word of its own.
    fn quoted(&mut self, quote: u8, place: &Place) -> Result<Vec<u8>, ConfigError> {
        self.bump();
        let mut word = Vec::new();
        loop {
            match self.bump() {
                None => {
                    return Err(ConfigError::new(
                        place,
                        format!("unexpected end of file, expecting {:?} to close the quote", char::from(quote)),
                    ));
                }
                Some(byte) if byte == quote => break,
                Some(b'\\') => self.escape(&mut word),
                Some(byte) => word.push(byte),
            }
        }
        match self.peek() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => {}
            Some(glued) => {
                return Err(ConfigError::new(
                    &self.place(),
                    format!("unexpected \"{}\"", char::from(glued).escape_default()),
                ));
            }
        }
        Ok(word)
    }

    fn bare(&mut self) -> Vec<u8> {
        let mut word = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                b'{' if word.last() != Some(&b'$') => break,
                b'\\' => {
                    self.bump();
                    self.escape(&mut word);
                }
                b'{' => {
                    // `${name}`: the braces belong to the word
                    while let Some(byte) = self.bump() {
                        word.push(byte);
                        if byte == b'}' || matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n' | b';')) {
                            break;
                        }
                    }
                }
                _ => {
                    self.bump();
                    word.push(byte);
                }
            }
        }
        word
    }

    /// nginx: only quotes, the backslash, `\t`, `\r` and `\n` are escapes; any other backslash stays.
    fn escape(&mut self, word: &mut Vec<u8>) {
        match self.bump() {
            Some(byte @ (b'"' | b'\'' | b'\\')) => word.push(byte),
            Some(b't') => word.push(b'\t'),
            Some(b'r') => word.push(b'\r'),
            Some(b'n') => word.push(b'\n'),
            Some(byte) => word.extend([b'\\', byte]),
            None => word.push(b'\\'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text.as_bytes(), "f".into());
        let mut out = Vec::new();
        loop {
            match lexer.next_token() {
                Ok(None) => return out,
                Ok(Some((Token::Word(word), _))) => out.push(String::from_utf8(word).unwrap()),
                Ok(Some((token, _))) => out.push(format!("{token:?}")),
                Err(error) => out.push(format!("! {error}")),
            }
        }
    }

    #[test]
    fn words_quotes_escapes_and_comments() {
        for (text, expected) in [
            ("a b;", vec!["a", "b", "Semicolon"]),
            ("a{b;}", vec!["a", "Open", "b", "Semicolon", "Close"]),
            ("a # c { ;\n b;", vec!["a", "b", "Semicolon"]),
            ("a#b;", vec!["a#b", "Semicolon"]),
            (r#"a "b c;{}" 'd"e';"#, vec!["a", "b c;{}", "d\"e", "Semicolon"]),
            (r#"a "\"\\\t\w";"#, vec!["a", "\"\\\t\\w", "Semicolon"]),
            (r"a \d+\.\;;", vec!["a", r"\d+\.\;", "Semicolon"]),
            ("a ${b}c $d{", vec!["a", "${b}c", "$d", "Open"]),
            ("a \"\";", vec!["a", "", "Semicolon"]),
            ("if ($a = \"b\") {", vec!["if", "($a", "=", "b", ")", "Open"]),
            ("if ($a = \"\"){", vec!["if", "($a", "=", "", ")", "Open"]),
            ("if ( $a = '') {", vec!["if", "(", "$a", "=", "", ")", "Open"]),
            ("a \"b\"c;", vec!["a", "! unexpected \"c\" in f:1", "c", "Semicolon"]),
        ] {
            assert_eq!(lex(text), expected, "{text}");
        }
    }

    #[test]
    fn an_open_quote_names_the_line_it_starts_on() {
        assert_eq!(
            lex("a;\n b \"c\n\n"),
            ["a", "Semicolon", "b", "! unexpected end of file, expecting '\"' to close the quote in f:2"]
        );
    }
}
