//! What Unicode says about characters: properties, and letters that differ only in case.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::set::{CharSet, LAST};

/// A name of a property without what does not count in it.
pub fn loose(name: &[u8]) -> String {
    name.iter()
        .filter(|byte| !matches!(byte, b'_' | b'-' | b' ' | 9..=13))
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect()
}

/// The characters with a property, whose name is [`loose`]; `None` for one that is not known.
pub fn property(name: &str) -> Option<CharSet> {
    let union = |names: &[&str]| {
        names.iter().try_fold(CharSet::default(), |mut all, name| {
            all.add_all(&class(name)?);
            Some(all)
        })
    };
    Some(match name {
        "any" => CharSet::all(true),
        "l&" | "lc" => union(&["lu", "ll", "lt"])?,
        "xan" => union(&["l", "n"])?,
        "xsp" | "xps" => space()?,
        "xwd" => word()?,
        "xuc" => {
            let mut set = CharSet::of([0x24, 0x40, 0x60]);
            set.add_range(0xa0, 0xd7ff);
            set.add_range(0xe000, LAST);
            set
        }
        _ => match name.split_once([':', '=']) {
            Some(("script" | "sc", script)) => class(&format!("sc={script}"))?,
            Some(("scriptextensions" | "scx", script)) => class(&format!("scx={script}"))?,
            Some(_) => return None,
            // A script by its name alone counts characters that it shares with others.
            None => class(&format!("scx={name}")).or_else(|| class(name))?,
        },
    })
}

/// `\d` by Unicode.
pub fn digit() -> Option<CharSet> {
    class("nd")
}

/// `\s` by Unicode.
pub fn space() -> Option<CharSet> {
    let mut set = class("z")?;
    set.add_range(9, 13);
    set.add(0x85);
    Some(set)
}

/// `\w` by Unicode.
pub fn word() -> Option<CharSet> {
    ["l", "n", "mn", "pc"].iter().try_fold(CharSet::default(), |mut all, name| {
        all.add_all(&class(name)?);
        Some(all)
    })
}

fn class(name: &str) -> Option<CharSet> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'=') {
        return None;
    }
    let hir = regex_syntax::parse(&format!("\\p{{{name}}}")).ok()?;
    let mut set = CharSet::default();
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            set.add_ranges(class.iter().map(|range| (u32::from(range.start()), u32::from(range.end()))));
        }
        HirKind::Literal(literal) => {
            std::str::from_utf8(&literal.0).ok()?.chars().for_each(|one| set.add(u32::from(one)));
        }
        _ => return None,
    }
    Some(set)
}

/// The characters of a range, and those that differ from them only in case.
pub fn folded(first: u32, last: u32) -> CharSet {
    let mut set = CharSet::range(first, last);
    let ends = |number: u32| char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut class = ClassUnicode::new([ClassUnicodeRange::new(ends(first), ends(last))]);
    if class.try_case_fold_simple().is_ok() {
        set.add_ranges(class.iter().map(|range| (u32::from(range.start()), u32::from(range.end()))));
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_by_name() {
        for (name, member, stranger) in [
            ("L", u32::from('é'), u32::from('1')),
            ("Lu", u32::from('É'), u32::from('é')),
            ("L&", u32::from('a'), u32::from('ª')),
            ("Greek", u32::from('α'), u32::from('a')),
            ("sc:Greek", u32::from('α'), u32::from('a')),
            ("Xan", u32::from('1'), u32::from('_')),
            ("Xwd", u32::from('_'), u32::from('-')),
            ("Any", 0, LAST + 1),
            ("upper case", u32::from('É'), u32::from('é')),
            ("Xps", 0x85, u32::from('a')),
        ] {
            let set = property(&loose(name.as_bytes())).expect(name);
            assert!(set.has(member) && !set.has(stranger), "{name}");
        }
        for name in ["", "nonsense", "bc:al", "L}"] {
            assert!(property(&loose(name.as_bytes())).is_none(), "{name}");
        }
    }
}
