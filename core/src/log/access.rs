//! `access_log` and `log_format`, for every protocol that has subjects.

use super::file::Buffering;
use super::syslog;
use super::target::Target;
use crate::conf::directive::{Arity, Directive, Feature, Levels, Set};
use crate::conf::{Check, ConfigError, Refusal, Word, value};
use crate::inherit;
use crate::module::{Install, Module};
use crate::script::Template;
use crate::subject::{Plan, Sink, Subject};

/// How variables are escaped in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// `"`, `\` and anything outside of printable ASCII as `\xXX`; absent values as `-`.
    Default,
    /// As in a JSON string.
    Json,
    /// Not at all.
    None,
}

/// A `log_format`.
#[derive(Clone)]
struct Format {
    name: Word,
    escape: Escape,
    parts: Vec<Word>,
}

/// An `access_log` line.
#[derive(Clone)]
struct Destination {
    path: Word,
    syslog: Option<syslog::Parameters>,
    format: Option<Word>,
    buffer: Option<u64>,
    flush: Option<std::time::Duration>,
    condition: Option<Word>,
}

impl Format {
    /// The parts as one word.
    fn text(&self) -> Word {
        let bytes: Vec<u8> = self.parts.iter().flat_map(|part| part.bytes().iter().copied()).collect();
        Word::new(bytes, self.parts.first().unwrap_or(&self.name).at().clone())
    }
}

/// The settings of one block.
#[derive(Default)]
pub struct AccessLogConf {
    formats: Vec<Format>,
    // `None` in the list is `off`.
    destinations: Vec<Option<Destination>>,
}

inherit!(AccessLogConf { formats, destinations });

/// `access_log`, `log_format`
pub struct AccessLogs;

impl Feature for AccessLogs {
    type Conf = AccessLogConf;
    const NAME: &'static str = "access_log";
    const DIRECTIVES: &'static [Directive<AccessLogConf>] = &[
        Directive {
            name: "log_format",
            levels: Levels::PROTOCOL,
            arity: Arity::AtLeast(2),
            set: Set::With(log_format),
            doc: "Names a format for access logs.",
        },
        Directive {
            name: "access_log",
            levels: Levels::PROTOCOL
                .or(Levels::SERVER)
                .or(Levels::LOCATION)
                .or(Levels::LOCATION_IF)
                .or(Levels::LIMIT_EXCEPT),
            arity: Arity::AtLeast(1),
            set: Set::With(access_log),
            doc: "Where finished exchanges or sessions are logged, and in which format.",
        },
        Directive {
            name: "open_log_file_cache",
            levels: Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION),
            arity: Arity::Between(1, 4),
            set: Set::Checked(Check::Parameters(&[
                ("max=", value::number),
                ("inactive=", value::seconds),
                ("valid=", value::seconds),
                ("min_uses=", value::number),
            ])),
            doc: "Log paths without variables stay open anyway; there is nothing to cache.",
        },
    ];
}

fn log_format(conf: &mut AccessLogConf, line: &mut crate::conf::Line<'_>) -> Result<(), Refusal> {
    let name = line.arg(0)?;
    if conf.formats.iter().any(|format| format.name.bytes() == name.bytes()) {
        return Err(format!("duplicate \"log_format\" name \"{name}\"").into());
    }
    let mut parts = line.args().get(1..).unwrap_or_default();
    let escape = match parts.first().and_then(|word| word.after("escape=")) {
        None => Escape::Default,
        Some(kind) => {
            parts = parts.get(1..).unwrap_or_default();
            match kind.bytes() {
                b"default" => Escape::Default,
                b"json" => Escape::Json,
                b"none" => Escape::None,
                _ => return Err(format!("unknown log format escaping \"{kind}\"").into()),
            }
        }
    };
    conf.formats.push(Format { name: name.clone(), escape, parts: parts.to_vec() });
    Ok(())
}

fn access_log(conf: &mut AccessLogConf, line: &mut crate::conf::Line<'_>) -> Result<(), Refusal> {
    let path = line.arg(0)?;
    if path.is("off") {
        if let Some(word) = line.args().get(1) {
            return Err(format!("invalid parameter \"{word}\"").into());
        }
        conf.destinations.push(None);
        return Ok(());
    }
    let syslog = path.after("syslog:").map(|parameters| syslog::Parameters::parse(&parameters)).transpose()?;
    if syslog.is_none() && path.bytes().contains(&b'$') {
        return Err("access log paths with variables are not supported yet".into());
    }
    let mut destination =
        Destination { path: path.clone(), syslog, format: None, buffer: None, flush: None, condition: None };
    for (index, word) in line.args().iter().enumerate().skip(1) {
        let invalid = || Refusal(format!("invalid parameter \"{word}\""));
        // nginx: the second word is a format's name, whatever it looks like.
        if index == 1 {
            destination.format = Some(word.clone());
        } else if let Some(size) = word.after("buffer=") {
            destination.buffer = Some(
                value::size(&size).filter(|size| *size > 0).ok_or_else(|| format!("invalid buffer size \"{size}\""))?,
            );
        } else if let Some(time) = word.after("flush=") {
            destination.flush = Some(
                value::time(&time)
                    .filter(|time| !time.is_zero())
                    .ok_or_else(|| format!("invalid flush time \"{time}\""))?,
            );
        } else if let Some(condition) = word.after("if=") {
            destination.condition = Some(condition);
        } else if word.bytes().starts_with(b"gzip") {
            return Err("compressed access logs are not supported yet".into());
        } else {
            return Err(invalid());
        }
    }
    if destination.flush.is_some() && destination.buffer.is_none() {
        return Err(format!("no buffer is defined for access_log \"{path}\"").into());
    }
    if destination.buffer.is_some() && destination.syslog.is_some() {
        return Err("logs to syslog cannot be buffered".into());
    }
    conf.destinations.push(Some(destination));
    Ok(())
}

impl<S: Subject> Module<S> for AccessLogs {
    /// Looks at formats that no log may use.
    fn define(conf: &AccessLogConf, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        for format in &conf.formats {
            if S::default_log_format().is_some_and(|(known, _)| format.name.is(known)) {
                let message = format!("duplicate \"log_format\" name \"{}\"", format.name);
                env.errors.push(ConfigError::new(format.name.at(), message));
            }
            let template = env.template(&format.text()).map(drop);
            env.errors.keep(template);
        }
        Ok(())
    }

    fn install(conf: &AccessLogConf, plan: &mut S::Plan, env: &mut Install<'_, S>) -> Result<(), ConfigError> {
        if conf.destinations.iter().any(Option::is_none) {
            return Ok(());
        }
        for destination in conf.destinations.iter().flatten() {
            let (escape, template) = format::<S>(conf, destination, env)?;
            let condition = destination.condition.as_ref().map(|word| env.template(word)).transpose()?;
            let target = target(destination, env)?;
            plan.sink(Box::new(AccessLog { template, escape, condition, target }));
        }
        Ok(())
    }
}

fn target<S: Subject>(destination: &Destination, env: &Install<'_, S>) -> Result<Target, ConfigError> {
    let Destination { path, syslog, buffer, flush, .. } = destination;
    if let Some(parameters) = syslog {
        return Ok(Target::Syslog(env.logs.syslog(parameters)));
    }
    if path.is("") {
        // nginx: the standard error stream, where nothing is held back.
        return Ok(Target::File(env.logs.file(None)));
    }
    let file = env.logs.file_at(&env.setup.path(path), path.at());
    let capacity = buffer.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if let Some(capacity) = capacity
        && !file.buffered(Buffering { capacity, flush: *flush })
    {
        let message = format!("access_log \"{path}\" already defined with conflicting parameters");
        return Err(ConfigError::new(path.at(), message));
    }
    Ok(Target::File(file))
}

fn format<S: Subject>(
    conf: &AccessLogConf,
    destination: &Destination,
    env: &Install<'_, S>,
) -> Result<(Escape, Template<S>), ConfigError> {
    let at = destination.path.at();
    let named = |name: &[u8]| conf.formats.iter().find(|format| format.name.bytes() == name);
    let default = S::default_log_format();
    match (&destination.format, default) {
        (Some(name), _) if named(name.bytes()).is_some() => {
            let format = named(name.bytes()).ok_or_else(|| ConfigError::new(at, "unknown log format"))?;
            Ok((format.escape, env.template(&format.text())?))
        }
        (None, Some((_, text))) => Ok((Escape::Default, env.template(&Word::new(text.as_bytes(), at.clone()))?)),
        (Some(name), Some((known, text))) if name.is(known) => {
            Ok((Escape::Default, env.template(&Word::new(text.as_bytes(), at.clone()))?))
        }
        (Some(name), _) => Err(ConfigError::missing(name.at(), format!("unknown log format \"{name}\""), name.bytes())),
        (None, None) => Err(ConfigError::new(at, "log format is not specified")),
    }
}

struct AccessLog<S: 'static> {
    template: Template<S>,
    escape: Escape,
    condition: Option<Template<S>>,
    target: Target,
}

impl<S: Subject> Sink<S> for AccessLog<S> {
    fn finished(&self, subject: &S) {
        if let Some(condition) = &self.condition {
            let value = condition.value(subject);
            if value.is_empty() || value == b"0" {
                return;
            }
        }
        let mut line = Vec::with_capacity(256);
        self.template.write_escaped(subject, &mut line, |out, start| escape(self.escape, out, start));
        line.push(b'\n');
        self.target.line(&line);
    }
}

fn escape(kind: Escape, out: &mut Vec<u8>, start: Option<usize>) {
    let Some(start) = start else {
        if kind == Escape::Default {
            out.push(b'-');
        }
        return;
    };
    let special = |byte: u8| match kind {
        Escape::None => false,
        Escape::Default => byte == b'"' || byte == b'\\' || !(0x20..0x7f).contains(&byte),
        Escape::Json => byte == b'"' || byte == b'\\' || byte < 0x20,
    };
    if !out.iter().skip(start).any(|byte| special(*byte)) {
        return;
    }
    for byte in out.split_off(start) {
        match byte {
            _ if !special(byte) => out.push(byte),
            b'"' | b'\\' if kind == Escape::Json => out.extend([b'\\', byte]),
            b'\n' if kind == Escape::Json => out.extend(b"\\n"),
            b'\r' if kind == Escape::Json => out.extend(b"\\r"),
            b'\t' if kind == Escape::Json => out.extend(b"\\t"),
            8 if kind == Escape::Json => out.extend(b"\\b"),
            12 if kind == Escape::Json => out.extend(b"\\f"),
            _ if kind == Escape::Json => out.extend(format!("\\u{byte:04X}").bytes()),
            _ => out.extend(format!("\\x{byte:02X}").bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping() {
        for (kind, text, expected) in [
            (Escape::Default, &b"a\"b\\c\x01\xff"[..], &b"a\\x22b\\x5Cc\\x01\\xFF"[..]),
            (Escape::Json, b"a\"b\\c\x01\n\xff", b"a\\\"b\\\\c\\u0001\\n\xff"),
            (Escape::None, b"a\"\n", b"a\"\n"),
        ] {
            let mut out = b"x".to_vec();
            out.extend_from_slice(text);
            escape(kind, &mut out, Some(1));
            assert_eq!(&out[1..], expected);
        }
        let mut out = Vec::new();
        escape(Escape::Default, &mut out, None);
        assert_eq!(out, b"-");
    }
}
