//! The header block of a message: flat, in the order and case received.
//!
//! One shared buffer and one list of ranges. What is added later lies in a second buffer; nothing is copied when a
//! head is parsed and nothing is allocated per field.

use std::fmt;

use bytes::Bytes;

use crate::known::{Known, KnownSet};
use crate::span::Span;

/// Room in the list from the first field on: more than a browser's request usually has. The list is not kept inline,
/// because heads are moved more often than they are made.
const ROOM: usize = 16;

/// One field line.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    /// The name in the case received.
    pub name: &'a [u8],
    /// The value without surrounding spaces.
    pub value: &'a [u8],
    /// Which name it is, if it is a known one.
    pub known: Known,
    received: Option<Received<'a>>,
}

/// Where a field lies in the head that it was received in.
#[derive(Clone, Copy)]
struct Received<'a> {
    base: &'a [u8],
    name: Span,
    value: Span,
}

impl<'a> Field<'a> {
    /// Of a field that a parser has read and checked, and that nobody has changed since: its line up to the end of the
    /// value, if there is exactly `: ` between name and value, else nothing. `None` for any other field. Nobody but
    /// [`Fields`] can say this of a field.
    #[inline]
    pub(crate) fn received(&self) -> Option<&'a [u8]> {
        self.received.map(|place| place.name.joined(place.value, b": ", place.base))
    }
}

impl PartialEq for Field<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value == other.value
    }
}

impl Eq for Field<'_> {}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name.escape_ascii(), self.value.escape_ascii())
    }
}

/// A list of field lines (RFC 9110 section 5).
#[derive(Clone, Default)]
pub struct Fields {
    base: Bytes,
    own: Vec<u8>,
    entries: Vec<Entry>,
    /// The base is a head of HTTP/1, whose parser has checked every field in it.
    lines: bool,
    /// The known names that may be present: a clear bit is certain, a set one may be stale.
    seen: KnownSet,
}

/// Which buffer a part of a field lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Base,
    Own,
    /// The name is the usual spelling of the entry's `Known`.
    Spelling,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Span,
    value: Span,
    known: Known,
    name_in: Source,
    value_in: Source,
}

impl Fields {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields in order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter { fields: self, entries: self.entries.iter() }
    }

    /// How many field lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of the first field with this name.
    #[inline]
    #[must_use]
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// As [`get`](Self::get), sharing the received head instead of borrowing it; a value added later is copied.
    #[must_use]
    pub fn share(&self, known: Known) -> Option<Bytes> {
        let entry = self.entries.iter().find(|entry| entry.known == known)?;
        Some(match entry.value_in {
            Source::Base => entry.value.share(&self.base),
            Source::Own | Source::Spelling => Bytes::copy_from_slice(self.value(entry)),
        })
    }

    /// The values of all fields with this name, in order.
    #[inline]
    pub fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let entries: &[Entry] = if self.may_have(known) { &self.entries } else { &[] };
        entries.iter().filter(move |entry| entry.known == known).map(|entry| self.value(entry))
    }

    /// Whether a field with this name is present.
    #[inline]
    #[must_use]
    pub fn has(&self, known: Known) -> bool {
        self.get(known).is_some()
    }

    /// How many fields have this name.
    #[must_use]
    pub fn count(&self, known: Known) -> usize {
        self.all(known).count()
    }

    /// The value of the first field with a name, in any case.
    #[must_use]
    pub fn find<'a>(&'a self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.find_all(name).next()
    }

    /// The values of all fields with a name, in any case.
    pub fn find_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let known = Known::of(name);
        let absent = known != Known::Other && !self.may_have(known);
        let entries: &[Entry] = if absent { &[] } else { &self.entries };
        entries
            .iter()
            .filter(move |entry| match known {
                Known::Other => entry.known == Known::Other && self.name(entry).eq_ignore_ascii_case(name),
                known => entry.known == known,
            })
            .map(|entry| self.value(entry))
    }

    /// The value of the first field that `$http_<name>` names: see [`variable`](Self::variable).
    #[must_use]
    pub fn find_variable<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.variable(name).next()
    }

    /// The values of all fields that `$http_<name>`, `$sent_http_<name>` or the like names: letters in any case, and
    /// `_` in the variable for `-` in the field. nginx joins several with `, ` (`; ` for cookies).
    pub fn variable<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.entries
            .iter()
            .filter(move |entry| names_field(name.as_bytes(), self.name(entry)))
            .map(|entry| self.value(entry))
    }

    /// Whether one of the comma-separated lists under this name has `token`, in any case (RFC 9110 section 5.6.1).
    #[must_use]
    pub fn contains_token(&self, known: Known, token: &[u8]) -> bool {
        !token.is_empty()
            && self.all(known).any(|value| match memchr::memchr(b',', value) {
                None => value.trim_ascii().eq_ignore_ascii_case(token),
                Some(_) => tokens(value).any(|item| item.eq_ignore_ascii_case(token)),
            })
    }

    /// Adds a field at the end. Nothing is checked: the writer refuses what must not be sent.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let known = Known::of(name);
        let (name, value) = (self.keep(name), self.keep(value));
        self.add(Entry { name, value, known, name_in: Source::Own, value_in: Source::Own });
    }

    /// Adds a field with a known name in its usual spelling. [`Known::Other`] has none and adds nothing.
    pub fn push_known(&mut self, known: Known, value: &[u8]) {
        if known == Known::Other {
            return;
        }
        let value = self.keep(value);
        self.add(Entry { name: Span::default(), value, known, name_in: Source::Spelling, value_in: Source::Own });
    }

    /// Replaces every field with this name by one: in the place of the first, or at the end.
    pub fn set(&mut self, known: Known, value: &[u8]) {
        if known == Known::Other {
            return;
        }
        let value = self.keep(value);
        let Some(at) = self.entries.iter().position(|entry| entry.known == known) else {
            self.add(Entry { name: Span::default(), value, known, name_in: Source::Spelling, value_in: Source::Own });
            return;
        };
        if let Some(entry) = self.entries.get_mut(at) {
            entry.value = value;
            entry.value_in = Source::Own;
        }
        let mut index = 0;
        self.entries.retain(|entry| {
            index += 1;
            entry.known != known || index == at + 1
        });
    }

    /// Replaces every field with a name, in any case, by one at the end.
    pub fn set_name(&mut self, name: &[u8], value: &[u8]) {
        match Known::of(name) {
            Known::Other => {
                self.remove_name(name);
                self.push(name, value);
            }
            known => self.set(known, value),
        }
    }

    /// Removes every field with this name and tells whether there was one.
    pub fn remove(&mut self, known: Known) -> bool {
        if known == Known::Other || !self.may_have(known) {
            return false;
        }
        let before = self.entries.len();
        self.entries.retain(|entry| entry.known != known);
        self.seen.remove(known);
        self.entries.len() != before
    }

    /// Removes every field with a name, in any case, and tells whether there was one.
    pub fn remove_name(&mut self, name: &[u8]) -> bool {
        match Known::of(name) {
            Known::Other => {
                let before = self.entries.len();
                self.retain(|field| !(field.known == Known::Other && field.name.eq_ignore_ascii_case(name)));
                self.entries.len() != before
            }
            known => self.remove(known),
        }
    }

    /// Keeps the fields that `keep` approves.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| keep(self.field(entry)));
        self.entries = entries;
    }

    /// Adds a field that lies in the buffer to be given to [`set_base`](Self::set_base) or [`set_lines`](Self::set_lines).
    #[inline]
    pub(crate) fn push_parsed(&mut self, name: Span, value: Span, known: Known) {
        self.add(Entry { name, value, known, name_in: Source::Base, value_in: Source::Base });
    }

    /// Gives the buffer that the parsed fields lie in.
    pub(crate) fn set_base(&mut self, base: Bytes) {
        self.base = base;
    }

    /// As [`set_base`](Self::set_base), where each field is a line that the parser of HTTP/1 has checked: it may be written
    /// into a head as it is.
    pub(crate) fn set_lines(&mut self, base: Bytes) {
        self.base = base;
        self.lines = true;
    }

    /// The frozen head as received, from its first line on; empty for fields that no parser made.
    #[must_use]
    pub fn base(&self) -> &Bytes {
        &self.base
    }

    /// A certain no, or a maybe.
    #[inline]
    pub(crate) fn may_have(&self, known: Known) -> bool {
        self.seen.contains(known)
    }

    #[inline]
    fn add(&mut self, entry: Entry) {
        self.seen.insert(entry.known);
        if self.entries.capacity() == 0 {
            self.entries.reserve_exact(ROOM);
        }
        self.entries.push(entry);
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.own.len();
        self.own.extend_from_slice(bytes);
        Span::between(start, self.own.len())
    }

    #[inline]
    fn field(&self, entry: &Entry) -> Field<'_> {
        Field { name: self.name(entry), value: self.value(entry), known: entry.known, received: self.received(entry) }
    }

    #[inline]
    fn received(&self, entry: &Entry) -> Option<Received<'_>> {
        let untouched = self.lines && entry.name_in == Source::Base && entry.value_in == Source::Base;
        untouched.then_some(Received { base: &self.base, name: entry.name, value: entry.value })
    }

    #[inline]
    fn name(&self, entry: &Entry) -> &[u8] {
        match entry.name_in {
            Source::Base => entry.name.of(&self.base),
            Source::Own => entry.name.of(&self.own),
            Source::Spelling => entry.known.name().as_bytes(),
        }
    }

    #[inline]
    fn value(&self, entry: &Entry) -> &[u8] {
        match entry.value_in {
            Source::Base => entry.value.of(&self.base),
            Source::Own | Source::Spelling => entry.value.of(&self.own),
        }
    }
}

/// The fields of a [`Fields`] in order.
#[derive(Clone)]
pub struct Iter<'a> {
    fields: &'a Fields,
    entries: std::slice::Iter<'a, Entry>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        self.entries.next().map(|entry| self.fields.field(entry))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = Field<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(pairs: I) -> Self {
        let mut fields = Self::new();
        for (name, value) in pairs {
            fields.push(name, value);
        }
        fields
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

/// The items of a comma-separated list, without blanks around them and without empty ones (RFC 9110 section 5.6.1).
pub fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// Whether the part of a variable's name after `http_` names this field.
fn names_field(variable: &[u8], field: &[u8]) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    variable.len() == field.len()
        && variable.iter().zip(field).all(|(variable, field)| variable.to_ascii_lowercase() == plain(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fields {
        [
            ("host", "a"),
            ("X-Foo", "1"),
            ("Connection", "keep-alive, Upgrade"),
            ("x-foo", "2"),
            ("connection", " ,close"),
        ]
        .into_iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect()
    }

    #[test]
    fn order_and_case_are_kept() {
        let names: Vec<_> = sample().iter().map(|field| field.name.to_vec()).collect();
        assert_eq!(names, [&b"host"[..], b"X-Foo", b"Connection", b"x-foo", b"connection"]);
    }

    #[test]
    fn fields_are_found_by_name_id_and_variable() {
        let fields = sample();
        assert_eq!(fields.get(Known::Host), Some(&b"a"[..]));
        assert_eq!(fields.get(Known::Cookie), None);
        assert_eq!(fields.find(b"X-FOO"), Some(&b"1"[..]));
        assert_eq!(fields.find(b"HOST"), Some(&b"a"[..]));
        assert_eq!(fields.find(b"x-bar"), None);
        assert_eq!(fields.find_all(b"x-foo").count(), 2);
        assert_eq!(fields.find_variable("x_foo"), Some(&b"1"[..]));
        assert_eq!(fields.variable("connection").count(), 2);
        assert_eq!(fields.find_variable("x-foo"), None, "a dash cannot stand in a variable");
        assert_eq!(fields.count(Known::Connection), 2);
    }

    #[test]
    fn tokens_are_looked_for_in_every_line() {
        let fields = sample();
        for (token, present) in [("upgrade", true), ("CLOSE", true), ("keep-alive", true), ("keep", false), ("", false)]
        {
            assert_eq!(fields.contains_token(Known::Connection, token.as_bytes()), present, "{token}");
        }
    }

    #[test]
    fn set_replaces_all_in_the_place_of_the_first() {
        let mut fields = sample();
        fields.set(Known::Connection, b"close");
        fields.set(Known::Server, b"tidegate");
        fields.set(Known::Other, b"nothing");
        let lines: Vec<_> = fields.iter().map(|field| format!("{field:?}")).collect();
        assert_eq!(lines, ["host: a", "X-Foo: 1", "Connection: close", "x-foo: 2", "Server: tidegate"]);
        fields.set_name(b"x-foo", b"3");
        assert_eq!(fields.find_all(b"X-Foo").collect::<Vec<_>>(), [b"3"]);
    }

    #[test]
    fn removal_leaves_the_rest() {
        let mut fields = sample();
        assert!(fields.remove(Known::Connection));
        assert!(!fields.remove(Known::Connection));
        assert!(!fields.remove(Known::Other));
        assert!(fields.remove_name(b"x-FOO"));
        assert!(!fields.remove_name(b"x-foo"));
        assert_eq!(fields.len(), 1);
        fields.retain(|field| field.known != Known::Host);
        assert!(fields.is_empty() && fields.get(Known::Host).is_none());
        fields.push_known(Known::Host, b"b");
        assert_eq!(fields.get(Known::Host), Some(&b"b"[..]));
        assert!(fields.has(Known::Host));
    }

    #[test]
    fn many_fields_spill_and_stay_right() {
        let mut fields = Fields::new();
        for n in 0..100 {
            fields.push(format!("X-{n}").as_bytes(), format!("{n}").as_bytes());
        }
        assert_eq!(fields.find(b"x-99"), Some(&b"99"[..]));
        assert_eq!(fields.len(), 100);
    }
}
