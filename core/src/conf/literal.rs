//! Names and values of fields as they stand in a configuration: what no message could carry is refused when it is read,
//! and not each time that it is used.

use super::error::Refusal;
use super::tree::Word;

/// Looks at the name of a field: neither empty, nor with a colon, a blank or a control character.
///
/// # Errors
/// What is wrong with it.
pub fn field_name(word: &Word) -> Result<(), Refusal> {
    let name = word.bytes();
    if name.is_empty() {
        return Err("a field must have a name".into());
    }
    if name.ends_with(b":") && name.iter().filter(|byte| **byte == b':').count() == 1 {
        return Err(format!("invalid field name \"{word}\": the colon does not belong to it").into());
    }
    match name.iter().find(|byte| **byte <= b' ' || matches!(**byte, b':' | 0x7f)) {
        None => Ok(()),
        Some(byte) => Err(format!("invalid field name \"{}\": it has {}", shown(word), described(*byte)).into()),
    }
}

/// Looks at text that becomes part of one line: a field's value, a URL. Its variables are none of its business.
///
/// # Errors
/// It has a line end or a zero byte.
pub fn one_line(word: &Word) -> Result<(), Refusal> {
    match word.bytes().iter().find(|byte| matches!(**byte, b'\r' | b'\n' | 0)) {
        None => Ok(()),
        Some(byte) => Err(format!("invalid value \"{}\": it has {}", shown(word), described(*byte)).into()),
    }
}

/// Looks at text whose line ends become blanks before it is sent.
///
/// # Errors
/// It has a zero byte.
pub fn folded(word: &Word) -> Result<(), Refusal> {
    if word.bytes().contains(&0) {
        return Err(format!("invalid value \"{}\": it has {}", shown(word), described(0)).into());
    }
    Ok(())
}

/// Looks at the name of a method, unless variables are in it.
///
/// # Errors
/// It is empty, or has what no name of a method has.
pub fn method(word: &Word) -> Result<(), Refusal> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let name = word.bytes();
    if name.is_empty() || (!name.contains(&b'$') && !name.iter().all(is_part)) {
        return Err(format!("invalid method \"{}\"", shown(word)).into());
    }
    one_line(word)
}

/// A word that fits on a line of the log.
fn shown(word: &Word) -> String {
    word.bytes().escape_ascii().to_string().replace("\\\"", "\"")
}

fn described(byte: u8) -> &'static str {
    match byte {
        b':' => "a colon",
        b' ' | b'\t' => "a blank",
        b'\r' | b'\n' => "a line end",
        _ => "a control character",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Place;

    #[test]
    fn names_and_values() {
        let word = |text: &str| Word::new(text.as_bytes(), Place { file: "f".into(), line: 1, column: 1 });
        for (text, name, value, its_method) in [
            ("X-Frame-Options", true, true, true),
            ("X_A.b", true, true, true),
            ("X-Frame-Options:", false, true, false),
            ("X:A", false, true, false),
            ("X A", false, true, false),
            ("", false, true, false),
            ("a\nb", false, false, false),
            ("a\rb", false, false, false),
            ("a\0b", false, false, false),
            ("a\tb", false, true, false),
            ("$some_variable", true, true, true),
            ("é", true, true, false),
        ] {
            assert_eq!(field_name(&word(text)).is_ok(), name, "{text:?}");
            assert_eq!(one_line(&word(text)).is_ok(), value, "{text:?}");
            assert_eq!(method(&word(text)).is_ok(), its_method, "{text:?}");
        }
    }
}
