//! `set`, `if`, `rewrite`, `return`, `break`: a list of instructions that runs in the order written.

use std::rc::Rc;

use bytes::Bytes;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{ConfigError, Line, Refusal, Word, value};
use tidegate_core::inherit;
use tidegate_core::module::{Install, Module};
use tidegate_core::modules::set::{Assignment, Setter};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::{Regex, Template};
use tidegate_core::subject::{Plan as _, Subject};
use tidegate_http_wire::Known;
use tidegate_http_wire::uri::{Escape, escape_uri};

use crate::answer::{Answer, Body};
use crate::exchange::{Exchange, Target};
use crate::plan::{Kind, Plan};

/// An instruction as it is written.
#[derive(Clone)]
enum Written {
    Set(Assignment),
    Return(u16, Option<Word>),
    Rewrite(Word, Word, Option<Flag>),
    /// The condition; the blocks themselves are the plan's, in the same order.
    If(Vec<Word>),
    Break,
}

/// The last argument of `rewrite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Last,
    Break,
    Redirect,
    Permanent,
}

/// The settings of one block. As in nginx they run where they stand and are not inherited.
#[derive(Default)]
pub struct RewriteConf {
    program: Vec<Written>,
    in_server: bool,
}

inherit!(RewriteConf {} own { program, in_server });

/// `set`, `if`, `rewrite`, `return`, `break`
pub struct Rewrite;

const LEVELS: Levels = Levels::SERVER.or(Levels::SERVER_IF).or(Levels::LOCATION).or(Levels::LOCATION_IF);

const fn row(
    name: &'static str,
    arity: Arity,
    set: fn(&mut RewriteConf, &mut Line<'_>) -> Result<(), Refusal>,
    doc: &'static str,
) -> Directive<RewriteConf> {
    Directive { name, levels: LEVELS, arity, set: Set::With(set), doc }
}

impl Feature for Rewrite {
    type Conf = RewriteConf;
    const NAME: &'static str = "rewrite";
    const DIRECTIVES: &'static [Directive<RewriteConf>] = &[
        row(
            "set",
            Arity::Exactly(2),
            |conf, line| conf.push(line, |line| Assignment::parse(line).map(Written::Set)),
            "Assigns a value to a variable.",
        ),
        row(
            "return",
            Arity::Between(1, 2),
            |conf, line| conf.push(line, parse_return),
            "Ends with a status, a text or a redirect.",
        ),
        row(
            "rewrite",
            Arity::Between(2, 3),
            |conf, line| conf.push(line, parse_rewrite),
            "Replaces the path where a pattern matches it.",
        ),
        row(
            "break",
            Arity::Exactly(0),
            |conf, line| conf.push(line, |_| Ok(Written::Break)),
            "Ends the instructions of this block.",
        ),
        Directive {
            name: "if",
            levels: Levels::SERVER,
            arity: Arity::AtLeast(1),
            set: Set::BlockWith(Levels::SERVER_IF, parse_if),
            doc: "Instructions and settings under a condition.",
        },
        Directive {
            name: "if",
            levels: Levels::LOCATION,
            arity: Arity::AtLeast(1),
            set: Set::BlockWith(Levels::LOCATION_IF, parse_if),
            doc: "Instructions and settings under a condition.",
        },
        Directive {
            name: "rewrite_log",
            levels: Levels::PROTOCOL.or(LEVELS),
            arity: Arity::Exactly(1),
            set: Set::Accepted,
            doc: "Rewrites are not logged.",
        },
        Directive {
            name: "uninitialized_variable_warn",
            levels: Levels::PROTOCOL.or(LEVELS),
            arity: Arity::Exactly(1),
            set: Set::Accepted,
            doc: "Variables that were never set are empty, without a warning.",
        },
    ];
}

impl RewriteConf {
    fn push(
        &mut self,
        line: &mut Line<'_>,
        parse: impl FnOnce(&Line<'_>) -> Result<Written, Refusal>,
    ) -> Result<(), Refusal> {
        self.in_server = line.level() == Levels::SERVER || line.level() == Levels::SERVER_IF;
        self.program.push(parse(line)?);
        Ok(())
    }
}

fn parse_return(line: &Line<'_>) -> Result<Written, Refusal> {
    let first = line.arg(0)?;
    let second = line.args().get(1).cloned();
    let is_url =
        |word: &Word| [&b"http://"[..], b"https://", b"$scheme"].iter().any(|prefix| word.bytes().starts_with(prefix));
    match value::number(first) {
        Some(code @ 0..=999) => Ok(Written::Return(u16::try_from(code).unwrap_or(500), second)),
        _ if second.is_none() && is_url(first) => Ok(Written::Return(302, Some(first.clone()))),
        _ => Err(format!("invalid return code \"{first}\"").into()),
    }
}

fn parse_rewrite(line: &Line<'_>) -> Result<Written, Refusal> {
    let flag = match line.args().get(2) {
        None => None,
        Some(word) => Some(match word.bytes() {
            b"last" => Flag::Last,
            b"break" => Flag::Break,
            b"redirect" => Flag::Redirect,
            b"permanent" => Flag::Permanent,
            _ => return Err(format!("invalid parameter \"{word}\"").into()),
        }),
    };
    Ok(Written::Rewrite(line.arg(0)?.clone(), line.arg(1)?.clone(), flag))
}

fn parse_if(conf: &mut RewriteConf, _child: usize, line: &mut Line<'_>) -> Result<(), Refusal> {
    conf.in_server = line.level() == Levels::SERVER;
    conf.program.push(Written::If(condition_words(line.args())?));
    Ok(())
}

/// The words between the parentheses.
fn condition_words(args: &[Word]) -> Result<Vec<Word>, Refusal> {
    let invalid =
        || Refusal(format!("invalid condition \"{}\"", args.first().map(ToString::to_string).unwrap_or_default()));
    let mut words = args.to_vec();
    let first = words.first_mut().ok_or_else(invalid)?;
    *first = first.after("(").ok_or_else(invalid)?;
    let last = words.last_mut().ok_or_else(invalid)?;
    let inner = last.bytes().strip_suffix(b")").ok_or_else(invalid)?;
    *last = Word::new(inner, last.at().clone());
    words.retain(|word| !word.bytes().is_empty());
    if words.is_empty() || words.len() > 3 { Err(invalid()) } else { Ok(words) }
}

impl Module<Exchange> for Rewrite {
    fn define(conf: &RewriteConf, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        conf.program.iter().try_for_each(|written| match written {
            Written::Set(assignment) => assignment.define(env).map(drop),
            _ => Ok(()),
        })
    }

    fn install(conf: &RewriteConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        if conf.program.is_empty() {
            return Ok(());
        }
        let mut conditions = plan.conditions.iter();
        let mut program = Vec::new();
        for written in &conf.program {
            program.push(match written {
                Written::Set(assignment) => Instruction::Set(assignment.compile(env)?),
                Written::Return(code, text) => {
                    Instruction::Return(*code, text.as_ref().map(|text| env.template(text)).transpose()?)
                }
                Written::Break => Instruction::Break,
                Written::Rewrite(pattern, to, flag) => {
                    let target = to.bytes();
                    let is_url =
                        [&b"http://"[..], b"https://", b"$scheme"].iter().any(|prefix| target.starts_with(prefix));
                    let (to, keep_args) = match target.strip_suffix(b"?") {
                        Some(to) => (Word::new(to, pattern.at().clone()), false),
                        None => (to.clone(), true),
                    };
                    let regex = env.regex(pattern.bytes(), false, pattern.at())?;
                    Instruction::Rewrite {
                        regex,
                        to: env.template(&to)?,
                        flag: if is_url && flag.is_none() { Some(Flag::Redirect) } else { *flag },
                        keep_args,
                    }
                }
                Written::If(words) => {
                    let condition = Condition::compile(words, env)?;
                    match conditions.next() {
                        Some(inner) => Instruction::If(condition, inner.clone()),
                        None => continue,
                    }
                }
            });
        }
        if matches!(plan.kind, Kind::If) {
            // Run by the instruction of the block around it.
            plan.inner_program = Some(Rc::new(Program(program)));
            return Ok(());
        }
        let phase = if conf.in_server { Phase::ServerRewrite } else { Phase::Rewrite };
        plan.gate(phase, Box::new(Program(program)));
        Ok(())
    }
}

enum Instruction {
    Set(Setter<Exchange>),
    Return(u16, Option<Template<Exchange>>),
    Rewrite { regex: Regex, to: Template<Exchange>, flag: Option<Flag>, keep_args: bool },
    If(Condition, Rc<Plan>),
    Break,
}

/// Instructions in order.
pub struct Program(Vec<Instruction>);

/// How a run of instructions ended.
enum Ran {
    /// At its end.
    Through { rewritten: bool },
    /// At a `break`, or a rewrite that says so.
    Broken,
    /// With a verdict.
    Done(Verdict),
}

impl Gate<Exchange> for Program {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        Step::Now(match self.run(exchange) {
            Ran::Through { rewritten: true } => Verdict::Restart,
            Ran::Through { rewritten: false } | Ran::Broken => Verdict::Continue,
            Ran::Done(verdict) => verdict,
        })
    }
}

impl Program {
    fn run(&self, exchange: &Exchange) -> Ran {
        let mut rewritten = false;
        for instruction in &self.0 {
            match instruction {
                Instruction::Set(setter) => setter.run(exchange),
                Instruction::Break => return Ran::Broken,
                Instruction::Return(code, text) => return Ran::Done(answer(exchange, *code, text.as_ref())),
                Instruction::If(condition, inner) => {
                    if condition.holds(exchange) {
                        if !matches!(exchange.plan().kind, Kind::Server) {
                            *exchange.plan.borrow_mut() = inner.clone();
                        }
                        match inner.inner_program.as_ref().map(|program| program.run(exchange)) {
                            Some(Ran::Through { rewritten: inner }) => rewritten |= inner,
                            Some(Ran::Broken) => return Ran::Broken,
                            Some(done) => return done,
                            None => {}
                        }
                    }
                }
                Instruction::Rewrite { regex, to, flag, keep_args } => {
                    let path = exchange.target.borrow().path.clone();
                    if !regex.matches(&path, exchange.slots()) {
                        continue;
                    }
                    match flag {
                        Some(Flag::Redirect) => return redirect(exchange, 302, to, *keep_args),
                        Some(Flag::Permanent) => return redirect(exchange, 301, to, *keep_args),
                        _ => replace(exchange, to, *keep_args, *flag == Some(Flag::Break)),
                    }
                    match flag {
                        Some(Flag::Last) => return Ran::Done(Verdict::Restart),
                        Some(Flag::Break) => return Ran::Broken,
                        _ => rewritten = true,
                    }
                }
            }
        }
        Ran::Through { rewritten }
    }
}

/// The new target of a rewrite, with the arguments of the old one behind those of the new.
fn rewritten(exchange: &Exchange, to: &Template<Exchange>, keep_args: bool) -> (Vec<u8>, Vec<u8>) {
    let text = to.value(exchange);
    let (path, mut args) = match text.iter().position(|byte| *byte == b'?') {
        Some(at) => (text.get(..at).unwrap_or_default().to_vec(), text.get(at + 1..).unwrap_or_default().to_vec()),
        None => (text, Vec::new()),
    };
    let old = exchange.target.borrow();
    if keep_args && !old.args.is_empty() {
        if !args.is_empty() {
            args.push(b'&');
        }
        args.extend_from_slice(&old.args);
    }
    (path, args)
}

fn replace(exchange: &Exchange, to: &Template<Exchange>, keep_args: bool, left_location: bool) {
    let (path, args) = rewritten(exchange, to, keep_args);
    *exchange.target.borrow_mut() = Target { path, args: args.into(), changed: true, left_location };
}

fn redirect(exchange: &Exchange, code: u16, to: &Template<Exchange>, keep_args: bool) -> Ran {
    let (path, args) = rewritten(exchange, to, keep_args);
    let mut location = Vec::new();
    escape_uri(&path, Escape::Uri, &mut location);
    if !args.is_empty() {
        location.push(b'?');
        location.extend_from_slice(&args);
    }
    let mut answer = Answer::page(code, exchange.plan().settings.server_tokens);
    answer.fields.push_known(Known::Location, &location);
    *exchange.answered.borrow_mut() = Some(answer);
    Ran::Done(Verdict::Answered)
}

fn answer(exchange: &Exchange, code: u16, text: Option<&Template<Exchange>>) -> Verdict {
    if code == 0 || text.is_none() {
        return Verdict::Refuse(code);
    }
    let text = text.map(|text| text.value(exchange)).unwrap_or_default();
    let answer = if matches!(code, 301..=303 | 307 | 308) {
        let mut answer = Answer::page(code, exchange.plan().settings.server_tokens);
        answer.fields.push_known(Known::Location, &text);
        answer
    } else {
        let content_type = exchange.plan().files.content_type(exchange);
        Answer::typed(code, &content_type, Body::Bytes(Bytes::from(text)))
    };
    *exchange.answered.borrow_mut() = Some(answer);
    Verdict::Answered
}

/// What `if` asks.
enum Condition {
    True(Template<Exchange>),
    Equal(Template<Exchange>, Template<Exchange>, bool),
    Matches(Template<Exchange>, Regex, bool),
    File(Template<Exchange>, Test, bool),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Test {
    File,
    Directory,
    Exists,
    Executable,
}

impl Condition {
    fn compile(words: &[Word], env: &mut Install<'_, Exchange>) -> Result<Condition, ConfigError> {
        let refuse =
            |word: &Word, what: &str| Err(ConfigError::new(word.at(), format!("{what} \"{word}\" in condition")));
        match words {
            [subject] if subject.bytes().starts_with(b"$") => Ok(Condition::True(env.template(subject)?)),
            [test, path] if test.bytes().starts_with(b"-") || test.bytes().starts_with(b"!-") => {
                let (kind, wanted) = test.after("!").map_or((test.clone(), true), |kind| (kind, false));
                let kind = match kind.bytes() {
                    b"-f" => Test::File,
                    b"-d" => Test::Directory,
                    b"-e" => Test::Exists,
                    b"-x" => Test::Executable,
                    _ => return refuse(test, "invalid test"),
                };
                Ok(Condition::File(env.template(path)?, kind, wanted))
            }
            [subject, operator, operand] if subject.bytes().starts_with(b"$") => match operator.bytes() {
                b"=" | b"!=" => Ok(Condition::Equal(env.template(subject)?, env.template(operand)?, operator.is("="))),
                b"~" | b"~*" | b"!~" | b"!~*" => {
                    let regex = env.regex(operand.bytes(), operator.bytes().ends_with(b"*"), operand.at())?;
                    Ok(Condition::Matches(env.template(subject)?, regex, !operator.bytes().starts_with(b"!")))
                }
                _ => refuse(operator, "unexpected"),
            },
            [word, ..] => refuse(word, "invalid condition"),
            [] => Err(ConfigError::new(&env.at, "invalid condition")),
        }
    }

    fn holds(&self, exchange: &Exchange) -> bool {
        match self {
            Condition::True(subject) => {
                let value = subject.value(exchange);
                !value.is_empty() && value != b"0"
            }
            Condition::Equal(left, right, wanted) => (left.value(exchange) == right.value(exchange)) == *wanted,
            Condition::Matches(subject, regex, wanted) => {
                regex.matches(&subject.value(exchange), exchange.slots()) == *wanted
            }
            Condition::File(path, test, wanted) => {
                use std::os::unix::ffi::OsStringExt;
                use std::os::unix::fs::PermissionsExt;
                let path = std::path::PathBuf::from(std::ffi::OsString::from_vec(path.value(exchange)));
                let found = std::fs::metadata(path).is_ok_and(|meta| match test {
                    Test::File => meta.is_file(),
                    Test::Directory => meta.is_dir(),
                    Test::Exists => true,
                    Test::Executable => meta.permissions().mode() & 0o111 != 0,
                });
                found == *wanted
            }
        }
    }
}
