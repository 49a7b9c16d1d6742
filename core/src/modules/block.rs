//! What blocks that make a variable of another value share: `map`, `geo`, `split_clients`.

use std::rc::Rc;

use crate::conf::{ConfigError, Line, Node, Refusal, Word};
use crate::module::Install;
use crate::script::Template;
use crate::subject::Subject;

/// Such a block as it is written.
#[derive(Clone)]
pub struct WrittenBlock {
    /// What the value is looked up by, if it is named.
    pub source: Option<Word>,
    /// The name of the variable, without its `$`.
    pub variable: Word,
    /// What stands between the braces.
    pub lines: Rc<[Node]>,
}

impl WrittenBlock {
    /// Reads the line that begins a block: the variable last, and before it what it is looked up by.
    ///
    /// # Errors
    /// It names no variable.
    pub fn parse(line: &Line<'_>) -> Result<WrittenBlock, Refusal> {
        let (word, source) = match line.args() {
            [source, variable] => (variable, Some(source.clone())),
            _ => (line.arg(0)?, None),
        };
        Ok(WrittenBlock { source, variable: variable(word)?, lines: line.body().into() })
    }

    /// What the value is looked up by; nothing where that is not named.
    ///
    /// # Errors
    /// It is no template.
    pub fn key<S: Subject>(&self, env: &Install<'_, S>) -> Result<Template<S>, ConfigError> {
        self.source.as_ref().map_or_else(|| Ok(Template::literal(b"")), |source| env.template(source))
    }

    /// True when a line says nothing but this.
    pub fn says(&self, name: &str) -> bool {
        self.lines.iter().any(|line| line.args.is_empty() && line.name.is(name))
    }
}

/// A variable's name behind its `$`.
///
/// # Errors
/// There is none.
pub fn variable(word: &Word) -> Result<Word, Refusal> {
    let name = word.after("$").filter(|name| !name.bytes().is_empty());
    name.ok_or_else(|| format!("invalid variable name \"{word}\"").into())
}
