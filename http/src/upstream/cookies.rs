//! `proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`: cookies of replies as the client should see them.

use tidegate_core::conf::{ConfigError, Line, Refusal, Word, literal};
use tidegate_core::inherit;
use tidegate_core::module::Install;
use tidegate_core::script::regex::Matches;
use tidegate_core::script::{Regex, Template};

use crate::exchange::Exchange;

/// The settings of one block; `None` in a list is `off`.
#[derive(Default)]
pub struct CookiesConf {
    domains: Vec<Option<(Word, Word)>>,
    paths: Vec<Option<(Word, Word)>>,
    flags: Vec<Option<(Word, Vec<Word>)>>,
}

inherit!(CookiesConf { domains, paths, flags });

impl CookiesConf {
    /// Reads `proxy_cookie_domain`.
    ///
    /// # Errors
    /// One argument that is not `off`.
    pub fn domain(&mut self, line: &mut Line<'_>) -> Result<(), Refusal> {
        let written = pair(line)?;
        add(&mut self.domains, written)
    }

    /// Reads `proxy_cookie_path`.
    ///
    /// # Errors
    /// One argument that is not `off`.
    pub fn path(&mut self, line: &mut Line<'_>) -> Result<(), Refusal> {
        let written = pair(line)?;
        add(&mut self.paths, written)
    }

    /// Reads `proxy_cookie_flags`.
    ///
    /// # Errors
    /// One argument that is not `off`.
    pub fn flags(&mut self, line: &mut Line<'_>) -> Result<(), Refusal> {
        let (cookie, flags) = line.args().split_first().ok_or("invalid number of arguments")?;
        if flags.is_empty() {
            if !cookie.is("off") {
                return Err(format!("invalid parameter \"{cookie}\"").into());
            }
            return add(&mut self.flags, None);
        }
        mention_text(cookie, line);
        for flag in flags {
            line.mention(flag);
            // nginx: it is taken, and told of whenever a cookie would get it.
            if !flag.bytes().contains(&b'$') && Flag::parse(flag.bytes()).is_none() {
                line.warn(format!("invalid proxy_cookie_flags flag \"{flag}\", ignored"));
            }
        }
        add(&mut self.flags, Some((cookie.clone(), flags.to_vec())))
    }

    /// Makes the groups of all patterns known.
    pub fn define(&self, env: &mut Install<'_, Exchange>) {
        let pairs = self.domains.iter().chain(&self.paths).flatten().map(|(from, _)| from);
        pairs.chain(self.flags.iter().flatten().map(|(cookie, _)| cookie)).for_each(|word| define_groups(word, env));
    }

    /// The settings in force.
    ///
    /// # Errors
    /// A bad pattern or template.
    pub fn build(&self, env: &mut Install<'_, Exchange>) -> Result<Cookies, ConfigError> {
        let mut cookies = Cookies::default();
        if let Some(domains) = self.domains.iter().cloned().collect::<Option<Vec<_>>>() {
            for (from, to) in domains {
                let bare = |word: &Word| word.after(".").unwrap_or_else(|| word.clone());
                let subject = if from.bytes().starts_with(b"~") { from } else { bare(&from) };
                cookies.domains.push((Pattern::compile(&subject, true, env)?, env.template(&bare(&to))?));
            }
        }
        if let Some(paths) = self.paths.iter().cloned().collect::<Option<Vec<_>>>() {
            for (from, to) in paths {
                cookies.paths.push((Pattern::compile(&from, false, env)?, env.template(&to)?));
            }
        }
        if let Some(flags) = self.flags.iter().cloned().collect::<Option<Vec<_>>>() {
            for (cookie, flags) in flags {
                let flags = flags.iter().map(|flag| env.template(flag)).collect::<Result<_, _>>()?;
                cookies.flags.push((Pattern::compile(&cookie, true, env)?, flags));
            }
        }
        Ok(cookies)
    }
}

/// Adds to a list in which `off` must be alone.
fn add<T>(list: &mut Vec<Option<T>>, written: Option<T>) -> Result<(), Refusal> {
    if list.iter().any(Option::is_none) || (written.is_none() && !list.is_empty()) {
        return Err("is duplicate".into());
    }
    list.push(written);
    Ok(())
}

/// What a part of a reply is compared with if it is a pattern, behind `~`, and whether that has no case.
pub fn pattern_in(word: &Word) -> Option<(Word, bool)> {
    let pattern = word.after("~")?;
    Some(pattern.after("*").map_or((pattern, false), |pattern| (pattern, true)))
}

/// Names the variables of what a part of a reply is compared with, if it is text.
pub fn mention_text(word: &Word, line: &mut Line<'_>) {
    if pattern_in(word).is_none() {
        line.mention(word);
    }
}

/// Makes the groups of a pattern known, whether or not any reply will be compared with it.
pub fn define_groups(word: &Word, env: &mut Install<'_, Exchange>) {
    if let Some((pattern, ignore_case)) = pattern_in(word) {
        let regex = env.regex(pattern.bytes(), ignore_case, word.at());
        env.errors.keep(regex);
    }
}

fn pair(line: &mut Line<'_>) -> Result<Option<(Word, Word)>, Refusal> {
    match line.args() {
        [word] if word.is("off") => Ok(None),
        [from, to] => {
            literal::one_line(to)?;
            mention_text(from, line);
            line.mention(to);
            Ok(Some((from.clone(), to.clone())))
        }
        _ => Err(format!("invalid parameter \"{}\"", line.arg(0)?).into()),
    }
}

enum Pattern {
    Text(Template<Exchange>),
    Regex(Regex),
}

impl Pattern {
    fn compile(word: &Word, ignore_case: bool, env: &mut Install<'_, Exchange>) -> Result<Pattern, ConfigError> {
        let Some((pattern, no_case)) = pattern_in(word) else { return Ok(Pattern::Text(env.template(word)?)) };
        let regex = env.regex(pattern.bytes(), ignore_case || no_case, word.at())?;
        Ok(Pattern::Regex(regex))
    }

    /// True when the pattern is all of `text`, in any case, or occurs in it.
    fn is(&self, exchange: &Exchange, text: &[u8]) -> Matches<bool> {
        match self {
            Pattern::Text(template) => Ok(template.value(exchange).eq_ignore_ascii_case(text)),
            Pattern::Regex(regex) => regex.matches(text, &exchange.slots),
        }
    }
}

/// What is done to cookies.
#[derive(Default)]
pub struct Cookies {
    domains: Vec<(Pattern, Template<Exchange>)>,
    paths: Vec<(Pattern, Template<Exchange>)>,
    flags: Vec<(Pattern, Vec<Template<Exchange>>)>,
}

/// What `proxy_cookie_flags` sets or removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    /// This attribute, with this value.
    Add(&'static str, Option<&'static str>),
    /// Not this attribute.
    Remove(&'static str),
}

impl Flag {
    fn parse(text: &[u8]) -> Option<Flag> {
        Some(match &*text.to_ascii_lowercase() {
            b"secure" => Flag::Add("Secure", None),
            b"nosecure" => Flag::Remove("Secure"),
            b"httponly" => Flag::Add("HttpOnly", None),
            b"nohttponly" => Flag::Remove("HttpOnly"),
            b"samesite=strict" => Flag::Add("SameSite", Some("Strict")),
            b"samesite=lax" => Flag::Add("SameSite", Some("Lax")),
            b"samesite=none" => Flag::Add("SameSite", Some("None")),
            b"nosamesite" => Flag::Remove("SameSite"),
            _ => return None,
        })
    }
}

/// A cookie as its parts: name and value first, then the attributes.
struct Parts(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Parts {
    fn parse(cookie: &[u8]) -> Parts {
        let part = |part: &[u8]| match part.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                let (name, value) = part.split_at_checked(at).unwrap_or((part, b""));
                (name.trim_ascii().to_vec(), Some(value.get(1..).unwrap_or_default().trim_ascii().to_vec()))
            }
            None => (part.trim_ascii().to_vec(), None),
        };
        Parts(cookie.split(|byte| *byte == b';').map(part).collect())
    }

    /// The values of the attributes of this name.
    fn values(&mut self, name: &str) -> impl Iterator<Item = &mut Vec<u8>> {
        let wanted = move |own: &[u8]| own.eq_ignore_ascii_case(name.as_bytes());
        self.0.iter_mut().skip(1).filter(move |(own, _)| wanted(own)).filter_map(|(_, value)| value.as_mut())
    }

    fn apply(&mut self, flag: Flag) {
        let (Flag::Add(name, _) | Flag::Remove(name)) = flag;
        let mut first = true;
        self.0.retain(|(own, _)| std::mem::take(&mut first) || !own.eq_ignore_ascii_case(name.as_bytes()));
        if let Flag::Add(name, value) = flag {
            self.0.push((name.into(), value.map(Into::into)));
        }
    }

    fn join(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in self.0.iter().filter(|(name, value)| !name.is_empty() || value.is_some()) {
            if !out.is_empty() {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(name);
            if let Some(value) = value {
                out.push(b'=');
                out.extend_from_slice(value);
            }
        }
        out
    }
}

impl Cookies {
    /// True when cookies are left alone.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.paths.is_empty() && self.flags.is_empty()
    }

    /// A `Set-Cookie` as the client should see it; `None` leaves it as it is.
    ///
    /// # Errors
    /// A pattern could not say.
    pub fn rewrite(&self, exchange: &Exchange, cookie: &[u8]) -> Matches<Option<Vec<u8>>> {
        if cookie.is_empty() {
            return Ok(None);
        }
        let mut parts = Parts::parse(cookie);
        let mut changed = false;
        for value in parts.values("domain") {
            changed |= first(&self.domains, |(from, to)| rewrite_domain(exchange, from, to, value))?.is_some();
        }
        for value in parts.values("path") {
            changed |= first(&self.paths, |(from, to)| rewrite_path(exchange, from, to, value))?.is_some();
        }
        let name = parts.0.first().map(|(name, _)| name.clone()).unwrap_or_default();
        if let Some((_, flags)) = first(&self.flags, |(pattern, _)| pattern.is(exchange, &name))? {
            for flag in flags.iter().filter_map(|flag| Flag::parse(&flag.value(exchange))) {
                parts.apply(flag);
                changed = true;
            }
        }
        Ok(changed.then(|| parts.join()))
    }
}

/// The first for which something holds.
fn first<T>(items: &[T], mut holds: impl FnMut(&T) -> Matches<bool>) -> Matches<Option<&T>> {
    for item in items {
        if holds(item)? {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// The dot that a domain may begin with is not part of what is compared, and stays.
fn rewrite_domain(exchange: &Exchange, from: &Pattern, to: &Template<Exchange>, value: &mut Vec<u8>) -> Matches<bool> {
    let dot = usize::from(value.first() == Some(&b'.'));
    let rest = value.get(dot..).unwrap_or_default();
    let compared = if matches!(from, Pattern::Regex(_)) { &**value } else { rest };
    if !from.is(exchange, compared)? {
        return Ok(false);
    }
    let keeps_dot = dot == 1 && matches!(from, Pattern::Text(_));
    *value = [if keeps_dot { &b"."[..] } else { b"" }, &to.value(exchange)].concat();
    Ok(true)
}

fn rewrite_path(exchange: &Exchange, from: &Pattern, to: &Template<Exchange>, value: &mut Vec<u8>) -> Matches<bool> {
    match from {
        Pattern::Text(prefix) => match value.strip_prefix(&*prefix.value(exchange)) {
            Some(rest) => *value = [&*to.value(exchange), rest].concat(),
            None => return Ok(false),
        },
        Pattern::Regex(regex) if regex.matches(value, &exchange.slots)? => *value = to.value(exchange),
        Pattern::Regex(_) => return Ok(false),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_take_the_place_of_those_that_are_there() {
        for (cookie, flag, expected) in [
            ("a=b", "secure", "a=b; Secure"),
            ("secure=b;SECURE ; Path=/", "secure", "secure=b; Path=/; Secure"),
            ("a=b; SameSite=Lax", "samesite=none", "a=b; SameSite=None"),
            ("a=b; HttpOnly; x", "nohttponly", "a=b; x"),
            ("a=b=c", "nosecure", "a=b=c"),
        ] {
            let mut parts = Parts::parse(cookie.as_bytes());
            parts.apply(Flag::parse(flag.as_bytes()).unwrap());
            assert_eq!(String::from_utf8(parts.join()).unwrap(), expected);
        }
    }
}
