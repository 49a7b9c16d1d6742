//! The configuration as a tree of directives, includes expanded, every word with its place.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::error::{CLOSING, ConfigError, Errors, OPENING, Place};
use super::lexer::{Lexer, Token};
use super::others;
use crate::log::Shown;

/// `include` may nest this deep; a file that includes itself ends here.
const INCLUDE_DEPTH: usize = 64;

/// A word of the configuration: its bytes and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    bytes: Rc<[u8]>,
    at: Place,
}

impl Word {
    /// A word that stands at a place.
    pub fn new(bytes: impl Into<Rc<[u8]>>, at: Place) -> Self {
        Word { bytes: bytes.into(), at }
    }

    /// The word's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The word as text; bytes that are not UTF-8 are replaced, which no directive name or number contains. Paths, names
    /// and values are [`bytes`](Word::bytes).
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// Where the word stands.
    pub fn at(&self) -> &Place {
        &self.at
    }

    /// True when the word is exactly `text`.
    pub fn is(&self, text: &str) -> bool {
        *self.bytes == *text.as_bytes()
    }

    /// True when the word is `text`, whatever its case.
    pub fn is_like(&self, text: &str) -> bool {
        self.bytes.eq_ignore_ascii_case(text.as_bytes())
    }

    /// What follows `prefix`, if the word begins with it.
    pub fn after(&self, prefix: &str) -> Option<Word> {
        let rest = self.bytes.strip_prefix(prefix.as_bytes())?;
        Some(Word { bytes: rest.into(), at: self.at.clone() })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// One directive with its arguments and, for a block directive, its body.
#[derive(Clone, Debug)]
pub struct Node {
    /// The directive's name.
    pub name: Word,
    /// Its arguments.
    pub args: Vec<Word>,
    /// What stands between its braces.
    pub body: Option<Vec<Node>>,
}

impl Node {
    /// True when a brace is part of the name, which is what is left of a word that a brace without quotes has cut.
    pub fn has_brace(&self) -> bool {
        self.name.bytes().iter().any(|byte| matches!(byte, b'{' | b'}'))
    }
}

/// All files of a configuration.
#[derive(Debug, Default)]
pub struct Tree {
    /// The top-level directives.
    pub nodes: Vec<Node>,
    /// Every file read, with its content, in the order first read: what `-T` prints.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Tree {
    /// Reads the configuration file, and `globals` (the `-g` option) before it, expanding includes.
    ///
    /// Relative includes are resolved against the configuration file's own directory, as nginx does. Mistakes go to
    /// `errors`, and reading continues behind each of them where that makes sense.
    pub fn read(file: &Path, globals: Option<&str>, errors: &mut Errors) -> Tree {
        let mut reader = Reader { base: file.parent().unwrap_or(Path::new("/")).to_owned(), files: Vec::new(), errors };
        let mut nodes = Vec::new();
        if let Some(globals) = globals {
            nodes.extend(reader.parse(globals.as_bytes(), "command line".into(), 0));
        }
        nodes.extend(reader.file(file, None, 0));
        Tree { nodes, files: reader.files }
    }
}

struct Reader<'e> {
    base: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
    errors: &'e mut Errors,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, included_at: Option<&Place>, depth: usize) -> Vec<Node> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("open() \"{}\" failed ({})", path.display(), crate::log::os_error(&error));
                self.errors.push(ConfigError { at: included_at.cloned(), message, missing: None });
                self.errors.excuse_any();
                return Vec::new();
            }
        };
        // A file comes before those that it includes, as `-T` prints them.
        if !self.files.iter().any(|(seen, _)| seen == path) {
            self.files.push((path.to_owned(), text.clone()));
        }
        self.parse(&text, path.to_string_lossy().into(), depth)
    }

    fn parse(&mut self, text: &[u8], file: Rc<str>, depth: usize) -> Vec<Node> {
        let mut lexer = Lexer::new(text, file);
        self.block(&mut lexer, None, depth)
    }

    /// Directives up to the closing brace of `opened`, or to the end of the file when nothing was opened in it.
    fn block(&mut self, lexer: &mut Lexer<'_>, opened: Option<&Word>, depth: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        loop {
            match lexer.next_token() {
                Err(error) => {
                    self.errors.push(error);
                    self.errors.excuse_any();
                    // A quote that is open to the end has taken in what would have ended the directive.
                    if lexer.is_at_end() {
                        words.clear();
                    }
                }
                Ok(Some((Token::Word(bytes), at))) => words.push(Word::new(bytes, at)),
                Ok(Some((Token::Semicolon, at))) => match take_directive(&mut words) {
                    None => self.errors.push(ConfigError::new(&at, "unexpected \";\"")),
                    Some((name, args)) if name.is("include") && args.len() == 1 => {
                        nodes.extend(self.include(&args, depth));
                    }
                    Some((name, args)) => nodes.push(Node { name, args, body: None }),
                },
                Ok(Some((Token::Open, at))) => match take_directive(&mut words) {
                    None => {
                        self.errors.push(ConfigError::new(&at, "unexpected \"{\""));
                        self.block(lexer, Some(&Word::new(*b"{", at)), depth);
                    }
                    Some((name, args)) if others::has_lua_body(name.bytes()) => {
                        if let Err(error) = lexer.skip_lua(&name) {
                            self.errors.push(error);
                        }
                        nodes.push(Node { name, args, body: Some(Vec::new()) });
                    }
                    Some((name, args)) => {
                        let body = Some(self.block(lexer, Some(&name), depth));
                        nodes.push(Node { name, args, body });
                    }
                },
                Ok(Some((Token::Close, at))) => {
                    if self.unterminated(&mut words, &at, "\"}\"") {
                        // The brace may belong to one that was forgotten, and then another closes what this one has closed.
                        self.errors.excuse_name(OPENING);
                    }
                    if opened.is_some() {
                        return nodes;
                    }
                    self.errors.push(ConfigError::missing(&at, "unexpected \"}\"", OPENING));
                }
                Ok(None) => {
                    let at = lexer.place();
                    self.unterminated(&mut words, &at, "end of file, expecting \";\" or \"}\"");
                    if let Some(name) = opened {
                        let message = format!(
                            "unexpected end of file, expecting \"}}\" to close \"{name}\" of line {}",
                            name.at().line
                        );
                        self.errors.push(ConfigError::missing(&at, message, CLOSING));
                    }
                    return nodes;
                }
            }
        }
    }

    /// Tells of words that nothing ends, if there are any.
    fn unterminated(&mut self, words: &mut Vec<Word>, at: &Place, found: &str) -> bool {
        let cut = take_directive(words);
        if let Some((name, _)) = &cut {
            let message =
                format!("unexpected {found}: directive \"{name}\" of line {} is not terminated", name.at().line);
            self.errors.push(ConfigError::new(at, message));
        }
        cut.is_some()
    }

    fn include(&mut self, args: &[Word], depth: usize) -> Vec<Node> {
        let Some(pattern) = args.first() else { return Vec::new() };
        if depth >= INCLUDE_DEPTH {
            self.errors
                .push(ConfigError::new(pattern.at(), format!("includes are nested more than {INCLUDE_DEPTH} deep")));
            return Vec::new();
        }
        let path = self.base.join(OsStr::from_bytes(pattern.bytes()));
        if !path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'[')) {
            return self.file(&path, Some(pattern.at()), depth + 1);
        }
        let text = path.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
        match text.and_then(|text| glob::glob(text).map_err(|error| error.to_string())) {
            Err(error) => {
                let shown = Shown(path.as_os_str().as_bytes());
                self.errors
                    .push(ConfigError::new(pattern.at(), format!("invalid include pattern \"{shown}\": {error}")));
                Vec::new()
            }
            Ok(paths) => {
                paths.filter_map(Result::ok).flat_map(|path| self.file(&path, Some(pattern.at()), depth + 1)).collect()
            }
        }
    }
}

fn take_directive(words: &mut Vec<Word>) -> Option<(Word, Vec<Word>)> {
    let mut words = std::mem::take(words).into_iter();
    Some((words.next()?, words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<Node>, Vec<String>) {
        let mut errors = Errors::default();
        let mut reader = Reader { base: PathBuf::from("/"), files: Vec::new(), errors: &mut errors };
        let nodes = reader.parse(text.as_bytes(), "f".into(), 1);
        (nodes, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn blocks_nest_and_words_know_their_place() {
        let (nodes, errors) = parse("a 1;\nb x {\n  c d;\n}");
        assert!(errors.is_empty());
        let inner = &nodes[1].body.as_ref().unwrap()[0];
        assert_eq!((inner.name.at().line, inner.args[0].at().column), (3, 5));
    }

    #[test]
    fn structural_mistakes_are_all_found() {
        for (text, expected) in [
            ("a 1\n}", vec!["unexpected \"}\": directive \"a\" of line 1 is not terminated in f:2"]),
            ("a {\n b;\n", vec!["unexpected end of file, expecting \"}\" to close \"a\" of line 1 in f:3"]),
            (";", vec!["unexpected \";\" in f:1"]),
            ("}", vec!["unexpected \"}\" in f:1"]),
            ("a {\n b }\n}", vec!["unexpected \"}\": directive \"b\" of line 2 is not terminated in f:2"]),
            ("a {\n b 'c; }", vec!["unexpected end of file, expecting '\\'' to close the quote in f:2"]),
            ("a \"b;", vec!["unexpected end of file, expecting '\"' to close the quote in f:1"]),
            (
                "a 1",
                vec![
                    "unexpected end of file, expecting \";\" or \"}\": directive \"a\" of line 1 is not terminated in f:1",
                ],
            ),
        ] {
            assert_eq!(parse(text).1, expected, "{text}");
        }
    }

    #[test]
    fn the_path_of_an_include_stays_bytes() {
        let folder = std::env::temp_dir().join(format!("tidegate-include-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let include = |name: &[u8]| {
            let mut errors = Errors::default();
            let mut reader = Reader { base: folder.clone(), files: Vec::new(), errors: &mut errors };
            let nodes = reader.parse(&[b"include ", name, b";"].concat(), "f".into(), 1);
            let found = nodes.first().map(|node| node.name.text().into_owned());
            found.ok_or_else(|| errors.iter().map(ToString::to_string).collect::<String>())
        };
        for (name, directive) in
            [(&b"a\xff"[..], "first"), (b"a\xfe", "second"), ("a\u{e9}".as_bytes(), "third"), (b"plain", "fourth")]
        {
            std::fs::write(folder.join(OsStr::from_bytes(name)), format!("{directive};")).unwrap();
            assert_eq!(include(name).as_deref(), Ok(directive), "{}", name.escape_ascii());
        }
        assert!(include(b"a\xfd").is_err_and(|error| error.contains("open() ")));
        assert!(include(b"a\xfd*").is_err_and(|error| error.contains("a\\xFD*\": it is not UTF-8")));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_missing_include_names_the_line_that_asked() {
        let (_, errors) = parse("\ninclude /nonexistent/file.conf;");
        assert_eq!(errors, ["open() \"/nonexistent/file.conf\" failed (2: No such file or directory) in f:2"]);
    }
}
