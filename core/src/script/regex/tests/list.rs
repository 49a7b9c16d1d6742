//! A list of patterns finds what trying them one after the other finds.

use std::rc::Rc;

use super::super::{PatternList, Regex};
use crate::script::Slots;

/// The first that matches, without a filter.
fn tried(patterns: &[Rc<Regex>], text: &[u8]) -> Option<usize> {
    patterns.iter().position(|regex| regex.is_match(text).unwrap())
}

/// Numbers by chance, from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % limit
    }

    fn word(&mut self) -> String {
        (0..=self.below(4)).map(|_| ["a", "b", "c", "A", "/", "_"][self.below(6)]).collect()
    }

    fn pattern(&mut self) -> String {
        let (one, other, third) = (self.word(), self.word(), self.word());
        match self.below(14) {
            0 => format!("^{one}"),
            1 => format!("{one}$"),
            2 => format!("^{one}$"),
            3 => format!("{one}|{other}"),
            4 => format!("({one}|{other}){third}"),
            5 => format!("{one}.*{other}"),
            6 => format!("(?i){one}{other}"),
            7 => format!("{one}(?:{other})?{third}"),
            8 => format!("(?={one}){other}"),
            9 => format!("(?!{one}){other}"),
            10 => format!("(?:{one}){{2}}[ab]{other}"),
            11 => format!("(?<=[{one}x]){other}"),
            12 => format!("(?>{one}|{other})+{third}"),
            _ => format!("[{one}]+{other}"),
        }
    }
}

#[test]
fn the_filter_leaves_out_nothing_that_matches() {
    let mut chance = Chance(99);
    let mut found = 0;
    for _ in 0..300 {
        let count = 6 + chance.below(60);
        let patterns: Vec<Rc<Regex>> = (0..count)
            .map(|_| {
                let (pattern, caseless) = (chance.pattern(), chance.below(4) == 0);
                Rc::new(Regex::new(pattern.as_bytes(), caseless).expect(&pattern))
            })
            .collect();
        let list: PatternList<usize> = patterns.iter().cloned().enumerate().map(|(at, regex)| (regex, at)).collect();
        for _ in 0..20 {
            let text: String = (0..chance.below(6)).map(|_| chance.word()).collect();
            let expected = tried(&patterns, text.as_bytes());
            let ours = list.find(text.as_bytes(), &Slots::default()).unwrap().copied();
            assert_eq!(ours, expected, "{patterns:?} on {text:?}");
            found += usize::from(expected.is_some());
        }
    }
    assert!(found > 1_000, "{found}");
}

#[test]
fn groups_are_those_of_the_pattern_that_is_found() {
    let patterns = (0..20).map(|at| (Rc::new(Regex::new(format!("^/l{at}/(.*)$").as_bytes(), false).unwrap()), at));
    let list: PatternList<usize> = patterns.collect();
    let slots = Slots::default();
    assert_eq!(list.find(b"/l17/rest", &slots), Ok(Some(&17)));
    let mut out = Vec::new();
    assert!(slots.read_capture(1, &mut out));
    assert_eq!(out, b"rest");
}

#[test]
fn a_pattern_that_cannot_say_is_not_passed_over() {
    let mut list = PatternList::default();
    for at in 0..10 {
        list.push(Rc::new(Regex::new(format!("^/nothing{at}").as_bytes(), false).unwrap()), "nothing");
    }
    list.push(Rc::new(Regex::new(br"^/s/(?:(?!.*zz)a|a)*b$", false).unwrap()), "slow");
    list.push(Rc::new(Regex::new(b"^/s/", false).unwrap()), "behind it");
    list.prepare();
    let text = [&b"/s/"[..], &[b'a'; 30_000]].concat();
    assert!(list.find(&text, &Slots::default()).is_err());
    assert_eq!(list.find(b"/s/c", &Slots::default()), Ok(Some(&"behind it")));
}

#[test]
fn many_words_in_one_text_are_not_counted_for_ever() {
    let patterns = (1..200).map(|at| (Rc::new(Regex::new("a".repeat(at + 1).as_bytes(), false).unwrap()), at));
    let list: PatternList<usize> = patterns.collect();
    assert_eq!(list.find("a".repeat(30_000).as_bytes(), &Slots::default()), Ok(Some(&1)));
    assert_eq!(list.find("ba".repeat(10_000).as_bytes(), &Slots::default()), Ok(None));
}
