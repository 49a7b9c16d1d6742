//! `set`, `if`, `rewrite`, `return`, `break`: a list of instructions that runs in the order written.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::slice;

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, ConfigError, Line, Refusal, Word, literal, value};
use tidegate_core::file::pool::Pending;
use tidegate_core::file::{self, About, Asked};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::module::{Install, Module};
use tidegate_core::modules::set::{Assignment, Setter};
use tidegate_core::phase::{Gate, Phase, Step, Verdict};
use tidegate_core::script::{Regex, Template};
use tidegate_core::subject::{Plan as _, Subject};
use tidegate_http_wire::uri::{Escape, Unescape, escape_uri, unescape};

use crate::answer::{Answer, Body};
use crate::content::files;
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
            set: Set::Checked(Check::Flag),
            doc: "Rewrites are not logged.",
        },
        Directive {
            name: "uninitialized_variable_warn",
            levels: Levels::PROTOCOL.or(LEVELS),
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Flag),
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
    let goes_elsewhere = matches!(value::number(first), None | Some(301..=303 | 307 | 308));
    if let Some(url) = second.as_ref().filter(|_| goes_elsewhere) {
        literal::one_line(url)?;
    }
    match value::number(first) {
        Some(code @ 0..=999) => Ok(Written::Return(u16::try_from(code).unwrap_or(500), second)),
        _ if second.is_none() && is_url(first) => {
            literal::one_line(first).map(|()| Written::Return(302, Some(first.clone())))
        }
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
    if line.arg(1)?.bytes().is_empty() {
        return Err("empty replacement".into());
    }
    literal::one_line(line.arg(1)?)?;
    Ok(Written::Rewrite(line.arg(0)?.clone(), line.arg(1)?.clone(), flag))
}

fn parse_if(conf: &mut RewriteConf, _child: usize, line: &mut Line<'_>) -> Result<(), Refusal> {
    conf.in_server = line.level() == Levels::SERVER;
    conf.program.push(Written::If(condition_words(line.args())?));
    Ok(())
}

/// The words between the parentheses. nginx: these stand alone or at the outer words, and nothing else is cut off.
fn condition_words(args: &[Word]) -> Result<Vec<Word>, Refusal> {
    let invalid = |word: Option<&Word>| {
        Refusal(format!("invalid condition \"{}\"", word.map(ToString::to_string).unwrap_or_default()))
    };
    let mut words = args.to_vec();
    match words.first().and_then(|first| first.after("(")) {
        None => return Err(invalid(args.first())),
        Some(rest) if rest.bytes().is_empty() => drop(words.remove(0)),
        Some(rest) => words.iter_mut().take(1).for_each(|first| *first = rest.clone()),
    }
    let last = words.pop().ok_or_else(|| invalid(args.first()))?;
    let inner = last.bytes().strip_suffix(b")").ok_or_else(|| invalid(Some(&last)))?;
    if !inner.is_empty() {
        words.push(Word::new(inner, last.at().clone()));
    }
    match &*words {
        [subject] | [subject, _, _] if subject.bytes().starts_with(b"$") && subject.bytes().len() > 1 => Ok(words),
        [test, _] if matches!(test.bytes(), [b'-', _] | [b'!', b'-', _]) => Ok(words),
        _ => Err(invalid(words.first().or(args.first()))),
    }
}

impl Module<Exchange> for Rewrite {
    fn define(conf: &RewriteConf, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        for written in &conf.program {
            if let Written::Set(assignment) = written {
                let defined = assignment.define(env);
                env.errors.keep(defined);
            }
        }
        Ok(())
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
                    let regex = env.regex(pattern.bytes(), false, pattern.at())?;
                    Instruction::Rewrite {
                        regex,
                        to: Replacement::compile(to, env)?,
                        flag: if is_url && flag.is_none() { Some(Flag::Redirect) } else { *flag },
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
            plan.parts.put(Program(program));
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
    Rewrite { regex: Regex, to: Replacement, flag: Option<Flag> },
    If(Condition, Rc<Plan>),
    Break,
}

/// Instructions in order.
pub struct Program(Vec<Instruction>);

/// How far a run of instructions has come.
enum Ran<'a> {
    /// To its end.
    Through,
    /// To a verdict.
    Done(Verdict),
    /// To an `if` that asks for a file which has to be waited for.
    Waits(Pending<About>, FileCheck<'a>, &'a Rc<Plan>),
}

impl Gate<Exchange> for Program {
    fn check<'a>(&'a self, exchange: &'a Exchange) -> Step<'a> {
        let mut run = Run { exchange, left: SmallVec::from_iter([self.0.iter()]), rewritten: false };
        match run.go_on() {
            Ran::Through => Step::Now(run.verdict()),
            Ran::Done(verdict) => Step::Now(verdict),
            Ran::Waits(pending, check, inner) => Step::Later(Box::pin(run.wait(pending, check, inner))),
        }
    }
}

/// A run of instructions.
struct Run<'a> {
    exchange: &'a Exchange,
    /// What is left of the program, and above it of the `if` that it is in.
    left: SmallVec<[slice::Iter<'a, Instruction>; 2]>,
    /// The path was replaced and another location may be due.
    rewritten: bool,
}

impl<'a> Run<'a> {
    /// The verdict of a run that none of its instructions has ended.
    fn verdict(&self) -> Verdict {
        if self.rewritten { Verdict::Restart } else { Verdict::Continue }
    }

    async fn wait(mut self, pending: Pending<About>, check: FileCheck<'a>, inner: &'a Rc<Plan>) -> Verdict {
        let mut waits = (pending, check, inner);
        loop {
            let (pending, check, inner) = waits;
            match check.holds(self.exchange, pending.await) {
                Some(true) => self.enter(inner),
                Some(false) => {}
                None => return Verdict::Refuse(500),
            }
            waits = match self.go_on() {
                Ran::Through => return self.verdict(),
                Ran::Done(verdict) => return verdict,
                Ran::Waits(pending, check, inner) => (pending, check, inner),
            };
        }
    }

    /// Goes into the block of an `if` whose condition holds.
    fn enter(&mut self, inner: &'a Rc<Plan>) {
        if !matches!(self.exchange.plan().kind, Kind::Server) {
            *self.exchange.plan.borrow_mut() = inner.clone();
        }
        if let Some(program) = inner.parts.get::<Program>() {
            self.left.push(program.0.iter());
        }
    }

    fn go_on(&mut self) -> Ran<'a> {
        let exchange = self.exchange;
        while let Some(left) = self.left.last_mut() {
            let Some(instruction) = left.next() else {
                self.left.pop();
                continue;
            };
            match instruction {
                Instruction::Set(setter) => setter.run(exchange),
                Instruction::Break => {
                    exchange.target.borrow_mut().left_location |= self.rewritten;
                    return Ran::Done(Verdict::Continue);
                }
                Instruction::Return(code, text) => return Ran::Done(answer(exchange, *code, text.as_ref())),
                Instruction::If(condition, inner) => match condition.holds(exchange) {
                    Holds::Yes => self.enter(inner),
                    Holds::No => {}
                    Holds::Unknown => return Ran::Done(Verdict::Refuse(500)),
                    Holds::Waits(pending, check) => return Ran::Waits(pending, check, inner),
                },
                Instruction::Rewrite { regex, to, flag } => {
                    let path = exchange.target.borrow().path.clone();
                    match regex.matches(&path, exchange.slots()) {
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(failure) => {
                            log!(exchange.logger(), Alert, "rewrite {failure}");
                            return Ran::Done(Verdict::Refuse(500));
                        }
                    }
                    match flag {
                        Some(Flag::Redirect) => return Ran::Done(Verdict::Refuse(to.redirect(exchange, 302))),
                        Some(Flag::Permanent) => return Ran::Done(Verdict::Refuse(to.redirect(exchange, 301))),
                        _ => {}
                    }
                    if !to.replace(exchange, *flag == Some(Flag::Break)) {
                        log!(exchange.logger(), Error, "the rewritten URI has a zero length");
                        return Ran::Done(Verdict::Refuse(500));
                    }
                    match flag {
                        Some(Flag::Last) => return Ran::Done(Verdict::Restart),
                        Some(Flag::Break) => return Ran::Done(Verdict::Continue),
                        _ => self.rewritten = true,
                    }
                }
            }
        }
        Ran::Through
    }
}

/// What a rewrite puts in the place of the path. A `?` that is written, not one that a variable or the client brings,
/// begins the arguments.
struct Replacement {
    path: Template<Exchange>,
    args: Option<Template<Exchange>>,
    /// The arguments of the request follow; a `?` at the end says that they do not.
    keep_args: bool,
}

impl Replacement {
    fn compile(word: &Word, env: &Install<'_, Exchange>) -> Result<Replacement, ConfigError> {
        let (text, keep_args) = match word.bytes().strip_suffix(b"?") {
            Some(text) => (text, false),
            None => (word.bytes(), true),
        };
        let template = |text: &[u8]| env.template(&Word::new(text, word.at().clone()));
        let (path, args) = match text.iter().position(|byte| *byte == b'?') {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            None => (text, None),
        };
        Ok(Replacement { path: template(path)?, args: args.map(template).transpose()?, keep_args })
    }

    /// Rewrites the target; false when nothing would be left of the path.
    fn replace(&self, exchange: &Exchange, left_location: bool) -> bool {
        let path = self.path.value(exchange);
        if path.is_empty() {
            return false;
        }
        let mut args = Vec::new();
        if let Some(template) = &self.args {
            write(template, exchange, &mut args);
        }
        self.add_args(exchange, &mut args, b"&");
        *exchange.target.borrow_mut() =
            Target { path, args: args.into(), changed: true, left_location, ..Target::default() };
        // nginx: what was rewritten may be answered by an internal location.
        exchange.internal.set(true);
        true
    }

    /// Sends the client to the target. What is escaped without need is not, as in nginx; what would end the line is.
    fn redirect(&self, exchange: &Exchange, status: u16) -> u16 {
        let mut text = Vec::new();
        write(&self.path, exchange, &mut text);
        if let Some(template) = &self.args {
            text.push(b'?');
            write(template, exchange, &mut text);
        }
        let (plain, read) = unescape(&text, Unescape::Redirect);
        let mut url = Vec::with_capacity(text.len());
        for byte in plain.iter().chain(text.get(read..).unwrap_or_default()) {
            match byte {
                0..=b' ' | 0x7f => url.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                byte => url.push(*byte),
            }
        }
        self.add_args(exchange, &mut url, if self.args.is_some() { b"&" } else { b"?" });
        exchange.send_to(status, &url)
    }

    fn add_args(&self, exchange: &Exchange, out: &mut Vec<u8>, separator: &[u8]) {
        let old = &exchange.target.borrow().args;
        if self.keep_args && !old.is_empty() {
            if !out.is_empty() {
                out.extend_from_slice(separator);
            }
            out.extend_from_slice(old);
        }
    }
}

/// Writes text that goes out as part of a URL: groups of a path that came escaped are escaped again.
fn write(template: &Template<Exchange>, exchange: &Exchange, out: &mut Vec<u8>) {
    template.write_captures_escaped(exchange, out, |out, start| {
        if exchange.head.target.quoted {
            let text = out.split_off(start);
            escape_uri(&text, Escape::Args, out);
        }
    });
}

fn answer(exchange: &Exchange, code: u16, text: Option<&Template<Exchange>>) -> Verdict {
    if code == 0 || (code >= 400 && text.is_none()) {
        return Verdict::Refuse(code);
    }
    let text = text.map(|text| text.value(exchange)).unwrap_or_default();
    if matches!(code, 301..=303 | 307 | 308) {
        return Verdict::Refuse(if text.is_empty() { code } else { exchange.send_to(code, &text) });
    }
    // nginx: such an answer has no page of ours, even if its body is empty.
    let content_type = if code == 204 { Rc::default() } else { files::content_type(exchange, &exchange.plan()) };
    let answer = Answer::typed(code, &content_type, Body::Bytes(Bytes::from(text)));
    *exchange.answered.borrow_mut() = Some(answer);
    Verdict::Answered
}

/// What `if` asks.
enum Condition {
    True(Template<Exchange>),
    Equal(Template<Exchange>, Template<Exchange>, bool),
    Matches(Template<Exchange>, Regex, bool),
    File(Template<Exchange>, FileTest),
}

/// Whether a condition holds.
enum Holds<'a> {
    Yes,
    No,
    /// A thread is asked.
    Waits(Pending<About>, FileCheck<'a>),
    /// Nobody can say.
    Unknown,
}

impl From<bool> for Holds<'_> {
    fn from(holds: bool) -> Self {
        if holds { Holds::Yes } else { Holds::No }
    }
}

/// What is asked about a file, and which answer is wanted.
struct FileTest {
    test: Test,
    wanted: bool,
}

/// A test of the file at a path.
struct FileCheck<'a> {
    path: PathBuf,
    test: &'a FileTest,
}

impl FileCheck<'_> {
    /// `None` when nobody could look, because too much waits for the threads already.
    fn holds(&self, exchange: &Exchange, about: io::Result<About>) -> Option<bool> {
        let found = match about {
            Ok(about) => match self.test.test {
                Test::File => about.is_file(),
                Test::Directory => about.is_dir(),
                Test::Exists => true,
                Test::Executable => about.is_executable(),
            },
            Err(error) if error.raw_os_error().is_none() => return None,
            Err(error) => {
                files::log_unseen(exchange, &self.path, &error);
                false
            }
        };
        Some(found == self.test.wanted)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Test {
    File,
    Directory,
    Exists,
    Executable,
}

/// The subject of a condition. nginx: it is one variable by its whole name, whatever letters are in it (`$arg_a-b`).
fn whole(subject: &Word, env: &Install<'_, Exchange>) -> Result<Template<Exchange>, ConfigError> {
    let name = subject.bytes().strip_prefix(b"$").and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or_else(|| ConfigError::new(subject.at(), format!("unknown variable in \"{subject}\"")))?;
    Ok(Template::variable(env.variables.refer(name, subject.at())))
}

impl Condition {
    fn compile(words: &[Word], env: &mut Install<'_, Exchange>) -> Result<Condition, ConfigError> {
        let refuse =
            |word: &Word, what: &str| Err(ConfigError::new(word.at(), format!("{what} \"{word}\" in condition")));
        match words {
            [subject] if subject.bytes().starts_with(b"$") => Ok(Condition::True(whole(subject, env)?)),
            [test, path] if test.bytes().starts_with(b"-") || test.bytes().starts_with(b"!-") => {
                let (word, wanted) = test.after("!").map_or((test.clone(), true), |kind| (kind, false));
                let kind = match word.bytes() {
                    b"-f" => Test::File,
                    b"-d" => Test::Directory,
                    b"-e" => Test::Exists,
                    b"-x" => Test::Executable,
                    _ => return refuse(test, "invalid test"),
                };
                Ok(Condition::File(env.template(path)?, FileTest { test: kind, wanted }))
            }
            [subject, operator, operand] if subject.bytes().starts_with(b"$") => match operator.bytes() {
                b"=" | b"!=" => Ok(Condition::Equal(whole(subject, env)?, env.template(operand)?, operator.is("="))),
                b"~" | b"~*" | b"!~" | b"!~*" => {
                    let regex = env.regex(operand.bytes(), operator.bytes().ends_with(b"*"), operand.at())?;
                    Ok(Condition::Matches(whole(subject, env)?, regex, !operator.bytes().starts_with(b"!")))
                }
                _ => refuse(operator, "unexpected"),
            },
            [word, ..] => refuse(word, "invalid condition"),
            [] => Err(ConfigError::new(&env.at, "invalid condition")),
        }
    }

    fn holds(&self, exchange: &Exchange) -> Holds<'_> {
        match self {
            Condition::True(subject) => {
                let value = subject.value(exchange);
                (!value.is_empty() && value != b"0").into()
            }
            Condition::Equal(left, right, wanted) => {
                ((left.value(exchange) == right.value(exchange)) == *wanted).into()
            }
            Condition::Matches(subject, regex, wanted) => {
                match regex.matches(&subject.value(exchange), exchange.slots()) {
                    Ok(found) => (found == *wanted).into(),
                    Err(failure) => {
                        log!(exchange.logger(), Alert, "if {failure}");
                        Holds::Unknown
                    }
                }
            }
            Condition::File(path, test) => {
                let check = FileCheck { path: PathBuf::from(OsString::from_vec(path.value(exchange))), test };
                match file::about(&check.path) {
                    Asked::Now(about) => check.holds(exchange, about).map_or(Holds::Unknown, Holds::from),
                    Asked::Later(pending) => Holds::Waits(pending, check),
                }
            }
        }
    }
}
