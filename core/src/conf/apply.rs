//! Applies a tree of words to typed tables: the only author of "unknown directive", "not allowed here" and the like.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::check::{self, Check};
use super::directive::{Arity, Feature, Levels, Set};
use super::error::{ConfigError, Errors, Place, Refusal};
use super::known::{Known, nearest};
use super::others::{self, Owner};
use super::setting::{Inherit, Setting};
use super::tree::{Node, Word};
use super::value;

/// Where relative names are resolved, and what is known about nginx's own directives.
pub struct Setup {
    /// The `-p` prefix: relative paths in directives are below it.
    pub prefix: PathBuf,
    /// The configuration file's directory: relative certificate files are below it, as in nginx.
    pub conf_dir: PathBuf,
    /// nginx's directives.
    pub known: Known,
}

impl Setup {
    /// A path of the configuration, made absolute below the prefix.
    pub fn path(&self, word: &Word) -> PathBuf {
        self.prefix.join(as_path(word))
    }

    /// A path of the configuration, made absolute below the configuration file's directory.
    pub fn conf_path(&self, word: &Word) -> PathBuf {
        self.conf_dir.join(as_path(word))
    }
}

fn as_path(word: &Word) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(word.bytes()))
}

/// One directive as its setter sees it.
pub struct Line<'a> {
    node: &'a Node,
    around: &'a [Word],
    level: Levels,
    /// The same directive stands in the same block before.
    repeats: bool,
    setup: &'a Setup,
    errors: &'a mut Errors,
}

impl<'a> Line<'a> {
    /// The arguments.
    pub fn args(&self) -> &'a [Word] {
        &self.node.args
    }

    /// The argument at `index`, counted from zero. The arity of the table makes the ones it promises present.
    pub fn arg(&self, index: usize) -> Result<&'a Word, Refusal> {
        self.node.args.get(index).ok_or_else(|| Refusal("invalid number of arguments".into()))
    }

    /// The lines between the braces.
    pub fn body(&self) -> &'a [Node] {
        self.node.body.as_deref().unwrap_or_default()
    }

    /// The kind of block the directive stands in.
    pub fn level(&self) -> Levels {
        self.level
    }

    /// The arguments of the block around it.
    pub fn around(&self) -> &'a [Word] {
        self.around
    }

    /// Where the directive stands.
    pub fn at(&self) -> &'a Place {
        self.node.name.at()
    }

    /// The directive's name.
    pub fn name(&self) -> &'a Word {
        &self.node.name
    }

    /// Where names are resolved.
    pub fn setup(&self) -> &'a Setup {
        self.setup
    }

    /// Reports a mistake in one of the lines of the body without giving up on the others.
    pub fn report(&mut self, at: &Place, message: impl Into<String>) {
        self.errors.push(ConfigError::new(at, message));
    }

    /// True when the same directive stands in the same block before.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Says that a word has variables in it. nginx: they must be there, whether or not anything uses the directive.
    pub fn mention(&mut self, word: &Word) {
        self.errors.mention(word);
    }

    /// Reports something allowed but probably not meant.
    pub fn warn(&mut self, message: impl Into<String>) {
        self.errors.warn(ConfigError::new(self.node.name.at(), message));
    }

    /// Reports the same, once in each file.
    pub fn warn_once(&mut self, message: impl Into<String>) {
        self.errors.warn_once(ConfigError::new(self.node.name.at(), message));
    }

    /// The choice that the first argument names, whatever its case.
    ///
    /// # Errors
    /// `invalid value "x"`, naming what would be right.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Refusal> {
        let word = self.arg(0)?;
        choices.iter().find(|(name, _)| word.is_like(name)).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            Refusal(format!(
                "invalid value \"{word}\" in \"{}\" directive, it must be {}",
                self.node.name,
                names.join(" or ")
            ))
        })
    }
}

trait AnyConf: Any {
    fn inherit_from(&self, outer: &dyn AnyConf) -> Rc<dyn AnyConf>;
    /// What a block that does not mention the feature has of it: what can be inherited.
    fn inherited(&self) -> Rc<dyn AnyConf>;
    fn as_any(self: Rc<Self>) -> Rc<dyn Any>;
    fn as_any_ref(&self) -> &dyn Any;
}

/// A block's settings of one feature.
struct Held<C>(std::cell::RefCell<C>);

impl<C: Default + Inherit + 'static> AnyConf for Held<C> {
    fn inherit_from(&self, outer: &dyn AnyConf) -> Rc<dyn AnyConf> {
        let mut own = self.0.take();
        if let Some(outer) = outer.as_any_ref().downcast_ref::<Held<C>>() {
            own.inherit(&outer.0.borrow());
        }
        Rc::new(Held(std::cell::RefCell::new(own)))
    }

    fn inherited(&self) -> Rc<dyn AnyConf> {
        Held::<C>(std::cell::RefCell::default()).inherit_from(self)
    }

    fn as_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }

    fn as_any_ref(&self) -> &dyn Any {
        self
    }
}

/// The settings of one block, by their type: features with the same settings are one feature whose table stands in
/// several places, so that a balancing method can be added to `upstream` from outside. What nobody mentioned takes no room.
#[derive(Default)]
pub struct Confs {
    by_type: HashMap<TypeId, Rc<dyn AnyConf>>,
}

impl Confs {
    /// Looks at a feature's settings in this block; defaults if neither this block nor an outer one mentions it.
    pub fn with<F: Feature, R>(&self, look: impl FnOnce(&F::Conf) -> R) -> R {
        let held = self.by_type.get(&TypeId::of::<F::Conf>()).map(|conf| conf.clone().as_any());
        match held.and_then(|any| any.downcast::<Held<F::Conf>>().ok()) {
            Some(held) => look(&held.0.borrow()),
            None => look(&F::Conf::default()),
        }
    }

    fn slot<F: Feature>(&mut self) -> Option<Rc<Held<F::Conf>>> {
        let conf = self
            .by_type
            .entry(TypeId::of::<F::Conf>())
            .or_insert_with(|| Rc::new(Held::<F::Conf>(std::cell::RefCell::default())));
        conf.clone().as_any().downcast().ok()
    }

    fn inherit(&mut self, outer: &Confs) {
        for (feature, theirs) in &outer.by_type {
            let merged = match self.by_type.get(feature) {
                Some(own) => own.inherit_from(&**theirs),
                None => theirs.inherited(),
            };
            self.by_type.insert(*feature, merged);
        }
    }
}

/// A block of the configuration: its settings and its child blocks.
pub struct Block {
    /// The directive that opened it.
    pub name: Word,
    /// Its arguments.
    pub args: Vec<Word>,
    /// What kind of block it is.
    pub level: Levels,
    /// Its settings.
    pub confs: Confs,
    /// The blocks in it, in order.
    pub children: Vec<Block>,
    refused: Vec<Box<[u8]>>,
}

impl Block {
    /// The child blocks opened by a directive of this name, in order.
    pub fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Block> + 'a {
        self.children.iter().filter(move |child| child.name.is(name))
    }

    /// True when a directive of this name stood in the block, or in one around it, and was refused: that what it would
    /// have given is missing is no further mistake.
    pub fn had(&self, name: &str) -> bool {
        self.refused.iter().any(|refused| **refused == *name.as_bytes())
    }

    /// Where the block begins.
    pub fn at(&self) -> &Place {
        self.name.at()
    }

    /// Completes every inner block from its outer one, from the outside in.
    pub fn inherit(&mut self) {
        for child in &mut self.children {
            child.confs.inherit(&self.confs);
            child.refused.extend_from_slice(&self.refused);
            child.inherit();
        }
    }
}

/// One row of a table without its types: for lookup, documentation and proposals.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The feature it belongs to.
    pub feature: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Where it may stand.
    pub levels: Levels,
    /// How many arguments it takes.
    pub arity: Arity,
    /// Whether it has a body.
    pub block: bool,
    /// Whether it is read and checked but has no effect.
    pub accepted: bool,
    /// One line of documentation.
    pub doc: &'static str,
}

/// What applying a row asks for next.
enum Then {
    Done,
    Open(Levels),
}

trait Erased {
    fn rows(&self) -> Vec<Row>;
    fn apply(&self, row: usize, confs: &mut Confs, child: usize, line: &mut Line<'_>) -> Result<Then, Refusal>;
}

struct Of<F>(PhantomData<F>);

impl<F: Feature> Erased for Of<F> {
    fn rows(&self) -> Vec<Row> {
        let row = |d: &super::Directive<F::Conf>| Row {
            feature: F::NAME,
            name: d.name,
            levels: d.levels,
            arity: d.arity,
            block: d.set.is_block(),
            accepted: d.set.is_without_effect(),
            doc: d.doc,
        };
        F::DIRECTIVES.iter().map(row).collect()
    }

    fn apply(&self, row: usize, confs: &mut Confs, child: usize, line: &mut Line<'_>) -> Result<Then, Refusal> {
        let (Some(directive), Some(held)) = (F::DIRECTIVES.get(row), confs.slot::<F>()) else { return Ok(Then::Done) };
        let conf = &mut *held.0.borrow_mut();
        let name = directive.name;
        match &directive.set {
            Set::Flag(field) => assign(field(conf), check::flag(line)?, name)?,
            Set::Number(field) => assign(field(conf), scalar(line, name, "number", value::number)?, name)?,
            Set::Size(field) => assign(field(conf), scalar(line, name, "size", value::size)?, name)?,
            Set::Offset(field) => assign(field(conf), scalar(line, name, "size", value::offset)?, name)?,
            Set::Time(field) => assign(field(conf), scalar(line, name, "time", value::time)?, name)?,
            Set::Word(field) => assign(field(conf), line.arg(0)?.clone(), name)?,
            Set::With(set) | Set::Body(set) | Set::Noted(set) => set(conf, line)?,
            Set::Template(field) => {
                assign(field(conf), line.arg(0)?.clone(), name)?;
                line.mention(line.arg(0)?);
            }
            Set::Block(level) => return Ok(Then::Open(*level)),
            Set::BlockWith(level, set) => {
                set(conf, child, line)?;
                return Ok(Then::Open(*level));
            }
            Set::Accepted => {}
            Set::Checked(check) => look(check, line)?,
            Set::Later(check) => {
                look(check, line)?;
                line.warn(format!("directive \"{name}\" is known to nginx, but not supported yet and has no effect"));
            }
            Set::Unheeded(check) => {
                look(check, line)?;
                line.warn_once(format!("\"{name}\" is not obeyed: {}", in_a_sentence(directive.doc)));
            }
        }
        Ok(Then::Done)
    }
}

fn look(check: &Check, line: &mut Line<'_>) -> Result<(), Refusal> {
    if check.comes_once() && line.repeats {
        return Err("is duplicate".into());
    }
    check.look(line)?;
    if check.has_variables() {
        line.args().iter().for_each(|word| line.mention(word));
    }
    Ok(())
}

/// A line of documentation as the end of a sentence.
fn in_a_sentence(doc: &str) -> String {
    let doc = doc.trim_end_matches('.');
    let mut letters = doc.chars();
    let is_name = doc.split(' ').next().is_some_and(|word| word.chars().skip(1).any(|c| !c.is_lowercase()));
    match letters.next() {
        Some(first) if !is_name => first.to_lowercase().chain(letters).collect(),
        _ => doc.to_owned(),
    }
}

fn assign<T: Clone>(setting: &mut Setting<T>, value: T, name: &str) -> Result<(), Refusal> {
    setting.set(value).map_err(|_| Refusal(format!("\"{name}\" directive is duplicate")))
}

fn scalar<T>(line: &Line<'_>, name: &str, kind: &str, parse: fn(&Word) -> Option<T>) -> Result<T, Refusal> {
    let word = line.arg(0)?;
    parse(word).ok_or_else(|| Refusal(format!("\"{name}\" directive invalid value: \"{word}\" is not a {kind}")))
}

/// The directives of one top-level area: the tables of all its features.
pub struct Tables {
    area: &'static str,
    features: Vec<Box<dyn Erased>>,
    by_name: HashMap<&'static str, Vec<(usize, usize, Row)>>,
}

impl Tables {
    /// Empty tables for `core`, `http`, `stream` or `mail`.
    pub fn new(area: &'static str) -> Self {
        Tables { area, features: Vec::new(), by_name: HashMap::new() }
    }

    /// Adds a feature's directives.
    pub fn add<F: Feature>(&mut self) {
        let feature = Of::<F>(PhantomData);
        for (index, row) in feature.rows().into_iter().enumerate() {
            self.by_name.entry(row.name).or_default().push((self.features.len(), index, row));
        }
        self.features.push(Box::new(feature));
    }

    /// The area's name.
    pub fn area(&self) -> &'static str {
        self.area
    }

    /// All rows, feature by feature.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.features.iter().flat_map(|feature| feature.rows())
    }

    /// Applies `nodes`, the body of a block of kind `level`, and everything below; mistakes go to `errors`.
    pub fn apply(
        &self,
        name: &Word,
        args: &[Word],
        level: Levels,
        nodes: &[Node],
        setup: &Setup,
        errors: &mut Errors,
    ) -> Block {
        let mut block = Block {
            name: name.clone(),
            args: args.to_vec(),
            level,
            confs: Confs::default(),
            children: Vec::new(),
            refused: Vec::new(),
        };
        let mut seen = HashSet::new();
        for node in nodes {
            let repeats = !seen.insert(node.name.bytes());
            if let Err(error) = self.apply_one(&mut block, node, repeats, setup, errors) {
                errors.push(error);
                errors.excuse(node);
                if node.has_brace() || node.body.iter().flatten().any(Node::has_brace) {
                    errors.excuse_closing();
                }
                block.refused.push(node.name.bytes().into());
            }
        }
        block
    }

    fn apply_one(
        &self,
        block: &mut Block,
        node: &Node,
        repeats: bool,
        setup: &Setup,
        errors: &mut Errors,
    ) -> Result<(), ConfigError> {
        let fail = |message: String| ConfigError::new(node.name.at(), message);
        let (feature, index, row) = self.find(node, block.level, setup).map_err(fail)?;
        if row.block && node.body.is_none() {
            return Err(fail(format!("directive \"{}\" has no opening \"{{\"", row.name)));
        }
        if !row.block && node.body.is_some() {
            errors.excuse_closing();
            return Err(fail(format!("directive \"{}\" is not terminated by \";\"", row.name)));
        }
        if !row.arity.accepts(node.args.len()) {
            return Err(fail(format!(
                "invalid number of arguments in \"{}\" directive, it takes {} and has {}",
                row.name,
                row.arity,
                node.args.len()
            )));
        }
        let Some(feature) = self.features.get(feature) else { return Ok(()) };
        let mut line = Line { node, around: &block.args, level: block.level, repeats, setup, errors };
        let then =
            feature.apply(index, &mut block.confs, block.children.len(), &mut line).map_err(|Refusal(text)| {
                // nginx's setters say "is duplicate" or "invalid value" and the parser puts the directive's name in front.
                if text == "is duplicate" || text == "invalid value" {
                    fail(format!("\"{}\" directive {text}", row.name))
                } else {
                    fail(text)
                }
            })?;
        if let Then::Open(level) = then {
            let child =
                self.apply(&node.name, &node.args, level, node.body.as_deref().unwrap_or_default(), setup, errors);
            block.children.push(child);
        }
        Ok(())
    }

    fn find(&self, node: &Node, level: Levels, setup: &Setup) -> Result<(usize, usize, Row), String> {
        let name = node.name.text();
        match self.by_name.get(&*name) {
            Some(rows) => rows.iter().find(|(_, _, row)| row.levels.allows(level)).copied().ok_or_else(|| {
                let mut allowed: Vec<String> =
                    rows.iter().flat_map(|(_, _, row)| row.levels.names(self.area)).collect();
                allowed.dedup();
                format!("\"{name}\" directive is not allowed here, its place is {}", allowed.join(", "))
            }),
            None if setup.known.contains(self.area, &name) => Err(match others::owner(&name) {
                Some(owner @ Owner::Optional(_)) => {
                    format!("directive \"{name}\" is known to nginx, but not supported yet: {owner}")
                }
                Some(owner @ Owner::Gone(_)) => format!("unknown directive \"{name}\": {owner}"),
                _ => format!("directive \"{name}\" is known to nginx, but not supported yet"),
            }),
            None if let Some(owner) = others::owner(&name).filter(|_| setup.known.areas(&name).is_empty()) => {
                Err(format!("unknown directive \"{name}\": {owner}"))
            }
            None => {
                let fits = |rows: &[(usize, usize, Row)]| rows.iter().any(|(_, _, row)| row.levels.allows(level));
                let here = self.by_name.iter().filter(|(_, rows)| fits(rows)).map(|(name, _)| *name);
                let elsewhere: Vec<&str> = (setup.known.areas(&name).into_iter())
                    .map(|area| if area == "core" { "main or events" } else { area })
                    .collect();
                match nearest(&name, here).or_else(|| nearest(&name, self.by_name.keys().copied())) {
                    _ if !elsewhere.is_empty() => Err(format!(
                        "\"{name}\" directive is not allowed here, its place is in {}",
                        elsewhere.join(", ")
                    )),
                    Some(near) => Err(format!("unknown directive \"{name}\", did you mean \"{near}\"?")),
                    None => Err(format!("unknown directive \"{name}\"")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Directive;

    #[derive(Default)]
    struct Conf {
        shared: Setting<Word>,
        own: Setting<Word>,
    }
    crate::inherit!(Conf { shared } own { own });

    struct Sample;
    impl Feature for Sample {
        type Conf = Conf;
        const NAME: &'static str = "sample";
        const DIRECTIVES: &'static [Directive<Conf>] = &[
            Directive {
                name: "shared",
                levels: Levels::PROTOCOL,
                arity: Arity::Exactly(1),
                set: Set::Word(|conf| &mut conf.shared),
                doc: "",
            },
            Directive {
                name: "own",
                levels: Levels::PROTOCOL,
                arity: Arity::Exactly(1),
                set: Set::Word(|conf| &mut conf.own),
                doc: "",
            },
            Directive {
                name: "server",
                levels: Levels::PROTOCOL,
                arity: Arity::Exactly(0),
                set: Set::Block(Levels::SERVER),
                doc: "",
            },
        ];
    }

    #[test]
    fn a_block_that_says_nothing_inherits_what_can_be_inherited() {
        let at = Place { file: "f".into(), line: 1, column: 1 };
        let word = |text: &str| Word::new(text.as_bytes(), at.clone());
        let node = |name: &str, arg: Option<&str>| Node {
            name: word(name),
            args: arg.map(word).into_iter().collect(),
            body: arg.is_none().then(Vec::new),
        };
        let nodes = [node("shared", Some("a")), node("own", Some("b")), node("server", None)];
        let setup = Setup { prefix: "/".into(), conf_dir: "/".into(), known: Known::default() };
        let (mut tables, mut errors) = (Tables::new("sample"), Errors::default());
        tables.add::<Sample>();
        let mut block = tables.apply(&word("sample"), &[], Levels::PROTOCOL, &nodes, &setup, &mut errors);
        assert!(errors.is_empty());
        block.inherit();
        let seen = |block: &Block| block.confs.with::<Sample, _>(|conf| (conf.shared.is_set(), conf.own.is_set()));
        assert_eq!((seen(&block), seen(&block.children[0])), ((true, true), (true, false)));
    }
}
