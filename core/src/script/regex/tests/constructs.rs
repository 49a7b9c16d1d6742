//! A row for every construct of PCRE2's syntax: what it finds, as PCRE2 says, or that it is refused, by name.

use super::super::Regex;
use super::oracle::{Both, Outcome};

/// A construct that is offered: patterns, and texts on which both have to find the same.
const OFFERED: &[(&str, &[&str], &[&[u8]])] = &[
    ("quoting", &[r"\.\*", r"\Qa.b\E+c", r"\Qa.b", r"a\Q\E+", r"\E\Ea", r"[\Qa-]\E]+", r"\<a\>", r"\é"], &[b".*", b"a.bbc", b"a.b", b"aa", b"-]a", b"<a>", "é".as_bytes()]),
    ("\\a \\e \\f \\n \\r \\t", &[r"\a\e\f\n\r\t", r"[\a\e\f\n\r\t]+"], &[b"\x07\x1b\x0c\n\r\t", b"x"]),
    ("\\cx", &[r"\cA", r"\ca\cz", r"\c[", r"\c?", r"[\cA-\cC]"], &[b"\x01", b"\x01\x1a", b"\x1b", b"\x7f", b"\x02"]),
    ("octal", &[r"\012", r"\0", r"\07", r"\0123", r"\12", r"\101", r"\o{101}", r"\o{ 101 }", r"[\12\101]", r"\377"], &[b"\n", b"\0", b"\x07", b"\n3", b"A", b"\xff"]),
    ("hexadecimal", &[r"\x41", r"\x4", r"\x{41}", r"\x{ 41 }", r"[\x41-\x43]", r"\xe9", r"\x{e9}"], &[b"A", b"\x04", b"B", b"\xe9", "é".as_bytes()]),
    ("code points", &[r"(*UTF)\N{U+41}", r"(*UTF)\x{e9}", r"(*UTF)\x{20ac}", r"(*UTF8)[\x{e0}-\x{ff}]+", r"(*UTF)\o{351}", r"(*UTF)\351"], &[b"A", "é".as_bytes(), "€".as_bytes(), b"\xe9"]),
    (".", &[".", "(?s).", r"\N", r"(?s)\N", r"\N{2}", r"^.{3}$"], &[b"\n", b"a", b"\r", b"\xff", b"ab", b"a\nb", b"\nab"]),
    ("\\C", &[r"\C", r"^\C\C$"], &[b"\n", "é".as_bytes()]),
    ("\\d \\w \\s", &[r"\d+", r"\D+", r"\w+", r"\W+", r"^\s+$", r"\S+", r"[\d_]+", r"[^\W]+", r"[\D]", r"[\S\n]"], &[b"12", b"a_1", b" \t\n\x0b\x0c\r", b"\x85\xa0", b"\xe9", b"-"]),
    ("\\h \\v", &[r"\h+", r"\H+", r"\v+", r"\V+", r"^\h$", r"[\h]", r"[^\h]", r"[\v]", r"[\H]", r"[\V]"], &[b" ", b"\t", b"\xa0", b"a", b"f", b"\n", b"\x0b", b"\x0c", b"\r", b"\x85", b"v"]),
    ("\\R", &[r"^\R$", r"a\R\n", r"\R+", r"(*BSR_ANYCRLF)\R", r"(*BSR_UNICODE)\R"], &[b"\r\n", b"\n", b"\r", b"\x0b", b"\x85", b"a\r\n", b"a\r\n\n"]),
    ("\\X", &[r"^\X$", r"^\X\n"], &[b"\r\n", b"a", b"\xe9", b"\n"]),
    ("\\p", &[r"\p{L}", r"\pL+", r"\PL", r"\p{^L}", r"\P{^L}", r"\p{Lu}", r"(?i)\p{Lu}", r"\p{L&}", r"\p{N}", r"\p{Nd}", r"\p{P}", r"\p{Xan}+", r"\p{Xwd}+", r"\p{Xsp}", r"\p{Xps}", r"\p{Xuc}", r"\p{Any}", r"\p{Latin}", r"\p{Script=Latin}", r"\p{sc:Greek}", r"[\p{L}\d]+", r"[^\p{L}]", r"\p{ l u }", r"(*UTF)\p{Greek}", r"(*UTF)\p{L}+", r"(*UTF)\p{scx:Greek}", r"\p{Alphabetic}"], &[b"a", b"A", b"1", b"_", b"-", b"\xe9", b"\xc9", b"\xa0", b"\xb2", "éÉα".as_bytes(), b"$"]),
    ("(*UCP)", &[r"(*UCP)\w+", r"(*UCP)\d", r"(*UCP)\s", r"(*UCP)\bx", r"(*UCP)(?i)\xe9", r"(*UCP)[[:alpha:]]", r"(*UCP)[[:punct:]]", r"(*UTF)(*UCP)\w+", r"(*UTF)(*UCP)\d", r"(*UTF)(*UCP)(?aD)\d", r"(*UTF)(*UCP)(?a)\w"], &[b"\xe9", b"\xc9", b"\xa0", b"\xe9x", b"a_1", "é٣".as_bytes(), "é".as_bytes(), b"$"]),
    ("(*UTF)", &["(*UTF)^.$", "(*UTF8)^..$", "(*UTF)(?i)É", "(*UTF)[^é]", "(*UTF)é+", "(*UTF)(?i)k", "(*UTF)(?ri)k", "(*UTF)[α-ω]{2}", "(*UTF)(.)\\1", "(*UTF)(?i)(é)\\1", "(*UTF)(?<=é)a", "(*UTF)\\bé"], &["é".as_bytes(), "éa".as_bytes(), "éé".as_bytes(), "éÉ".as_bytes(), "αβ".as_bytes(), "\u{212a}".as_bytes(), b"\xe9", b"\xff", b""]),
    ("classes", &["[]a]+", "[^]a]+", r"[a\]b]+", "[a-]+", "[-a]+", "[a-c-e]+", "[+--]+", r"[\d-]+", "[a&&b]+", "[+--b]+", "[a||b]+", "[[]", "[[a]", "[a[:b]", "[[.a]", "[:a:b]+", r"[\b]", r"[\g]", r"[\k]", "(?i)[a-c]+", "(?i)[^a]+", "[^\\x00-\\xff]", "(?xx)[a b]+", "[\\s\\S]+", "[a\\-z]+", "[\\.]", "[.]", "[$^]+", "[^^]"], &[b"]a", b"bc", b"-", b"a-", b"e", b"+,-", b"1-", b"a&b", b"[", b"[:", b":ab", b"\x08", b"gk", b"ABC", b"a b", b".", b"$^", b"|", b""]),
    ("POSIX classes", &["[[:alpha:]]+", "[[:^alpha:]]+", "[[:digit:]]{2}", "[[:alnum:][:punct:]]+", "[[:space:]]", "[[:word:]]+", "[[:blank:]]", "[[:cntrl:]]", "[[:graph:]]+", "[[:print:]]+", "[[:xdigit:]]+", "[[:ascii:]]+", "(?i)[[:upper:]]+", "[[:lower:]]+", "(?i)[[:^lower:]]"], &[b"abC", b"12", b"a-1", b"\x0b", b" ", b"\t", b"\x7f", b"\xe9", b"fF", b"_", b""]),
    ("word edges", &[r"\bb", r"\Bb", "[[:<:]]b", "b[[:>:]]", r"a\b"], &[b"a b", b"ab", b"b", b"a.b", b"\xe9b"]),
    ("anchors", &["^a", "a$", r"a\Z", r"a\z", r"\Aa", r"\Ga", "(?m)^a", "(?m)a$", "(?m)^$", "^$", "$", "a$b", "(?m)a$\nb", r"\.php$", "^", "(?m)^"], &[b"a", b"a\n", b"a\n\n", b"b\na", b"a\nb", b"\n", b"", b"x.php", b"x.php\n", b"x.php\nx", b"ab\n"]),
    ("newlines", &["(*LF)a$", "(*CR)a$", "(*CRLF)a$", "(*ANYCRLF)a$", "(*ANY)a$", "(*NUL)a$", "(*CR)^.+$", "(*CRLF)^.+$", "(*ANYCRLF)(?m)^b", "(*ANYCRLF).+", "(*ANY).+", "(*CRLF).+", "(*CRLF)(?m)^.*$"], &[b"a\n", b"a\r", b"a\r\n", b"a\x0b", b"a\0", b"a\r\nb", b"a\nb", b"a\rb"]),
    ("\\K", &[r"a\Kb", r"(a\K)b", r"(?:a|\Kb)+"], &[b"ab", b"aab", b"ba"]),
    ("quantifiers", &["a*", "a+b", "a?b", "a{2}", "a{2,}", "a{1,2}", "a{,2}b", "a{ 1 , 2 }b", "a{0}b", "a{b}", "a{,}", "a{1", "a{1,x}", "{a", "a{}", "(?:ab){2}", "(ab)*c", "a{2,3}?a"], &[b"aaa", b"aab", b"ab", b"b", b"a{b}", b"a{,}", b"a{1", b"a{1,x}", b"{a", b"a{}", b"abab", b"ababc"]),
    ("lazy and possessive", &["a*?b", "a+?", "a??b", "a{1,3}?", "a*+b", "a++a", "a?+a", "a{1,2}+a", "(?:ab?)*+b", "(?U)a+", "(?U)a+?", "(a|ab)?+c"], &[b"aaab", b"aaa", b"ab", b"abc", b"abab"]),
    ("empty iterations", &["(a*)*", "(a*)+", "(a|b*)*c", "(?:a?)*?b", "(a*?)*b", "(|a)+", "(a|)+b", "((a?)+)*c", "(?:(a)|b|)*c", "(a*){2,}b", "(a*){0,3}b", "()*a", "(?:\\b|a)*b"], &[b"aab", b"abc", b"", b"aaa", b"bac"]),
    ("groups", &["(a)(b)?", "(?:a)(b)", "(?<n>a)", "(?'n'a)", "(?P<n>a)", "((a)|b)+", "(?:(a)|b)*", "(a(b(c)))", "(?n)(a)(?<n>b)", "(?|(a)|(b)(c))(d)", "(?|(?<n>a)|(?<n>b))", "(?J)(?<n>a)|(?<n>b)"], &[b"ab", b"a", b"ba", b"aba", b"abc", b"ad", b"bcd"]),
    ("atomic groups", &["(?>a+)b", "(?>a|ab)c", "(*atomic:a+)a", "(?>(a)|b)+c", "(?>.*)x", "a(?>b|)c"], &[b"aab", b"abc", b"aaa", b"abac", b"ac"]),
    ("options", &["(?i)ab", "a(?i)b", "(a(?i)b)c", "(?i:a)b", "a(?i)b|c", "(?i)a(?-i)b", "(?s-m).", "(?im)^b", "(?^)a", "(?i)(?^:a)", "(?x) a b # c\n d", "(?xx)a [b c]", "(?x)a\\ b", "(?x)a (?#x) +", "(?-i)a", "()(?i)()a", "(?im-sx:A)"], &[b"ab", b"aB", b"AB", b"abc", b"aBC", b"C", b"\n", b"a\nB", b"abd", b"a b", b"aa"]),
    ("comments", &["a(?#comment)b", "a(?#)+b", "(?#(a)b"], &[b"ab", b"aab", b"b"]),
    ("assertions", &["a(?=b)", "a(?!b)", "(?<=a)b", "(?<!a)b", "(?=(a))a", "(?!(a))b\\1?", "(?=a)*b", "(?<=a|bc)d", "(?<=a{1,3})b", "(?<=^|/)a", "(*pla:b)b", "(*positive_lookahead:b)b", "(*nla:b)a", "(*plb:a)b", "(*nlb:a)b", "(?<=(a))b", "(?<=(?=b))b", "(?<=\\R)a", "(?<=(?:a|b)c)d", "^/(?!api)", "(?=.*b)(?=.*a)."], &[b"ab", b"aa", b"b", b"ad", b"bcd", b"aab", b"/a", b"\r\na", b"acd", b"/api", b"/web", b""]),
    ("assertions that are not atomic", &["(?*(a+))\\1b", "(*napla:(a+))\\1b", "(?<*(a|b))c", "(*naplb:a)b"], &[b"aaab", b"bc", b"ab"]),
    ("back-references", &[r"(a)\1", r"(a|b)\g1", r"(a|b)\g{1}", r"(a)(b)\g{-1}", r"(a)\g-1", r"(?<n>a)\k<n>", r"(?<n>a)\k'n'", r"(?<n>a)\k{n}", r"(?<n>a)\g{n}", r"(?<n>a)(?P=n)", r"(?i)(a)\1", r"(a)|\1b", r"(?:\1b|(a))+", r"(a\1?){3}", r"\g{+1}(a)|b", r"(?J)(?:(?<n>a)|(?<n>b))\k<n>", r"(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)\10"], &[b"aa", b"ab", b"abb", b"bb", b"aA", b"aaa", b"aab", b"abcdefghijj", b"b"]),
    ("subroutines", &["(a|b)(?1)", "(a(?1)?b)", r"\((?:[^()]|(?R))*\)", "(?<n>a|b)(?&n)", "(?P<n>a)(?P>n)", r"(a|b)\g<1>", r"(a|b)\g'1'", r"(?<n>a)\g<n>", "(a)(?-1)", "(?+1)(a|b)", r"(a)\g<-1>", "a(?0)?b", "(?:(a|ab)(?1)c)", "((a)|b)(?1)\\2", "(?(DEFINE)(?<x>a+))(?&x)b", "^(?:(a)|b)(?1)$", "(?1)(?:(b)){0}"], &[b"ab", b"aa", b"aabb", b"(a(b)c)", b"((", b"aab", b"aac", b"abac", b"ba", b"b"]),
    ("conditions", &["(a)?(?(1)b|c)", "(?<n>a)?(?(<n>)b|c)", "(?<n>a)?(?('n')b|c)", "(?<n>a)?(?(n)b|c)", "(a)?(?(-1)b|c)", "(?(+1)b|c)(a)?", "(?(?=a)ab|c)", "(?(?!a)b|ac)", "(?(?<=a)b|c)", "(?(?<!a)b|c)", "(a(?(R)b|c)(?1)?)", "(a(?(R1)b|c)(?1)?)", "(?<n>a(?(R&n)b|c)(?&n)?)", "(?(DEFINE)(a))b", "(?(VERSION>=10.0)a|b)", "(?(VERSION=8.0)a|b)", "(a)?(?(1)b)", "(?(?=(a))a\\1|b)", "(?<R>a)?(?(R)b|c)", "(?(*pla:a)ab|c)"], &[b"ab", b"c", b"b", b"ac", b"acab", b"aa", b"a", b"acb"]),
    ("verbs", &["a(*F)|b", "a(*FAIL)|ab", "a(*ACCEPT)b", "(a(*ACCEPT)b)c", "(?:(a(*ACCEPT)b)c|d)", "(?=a(*ACCEPT)b)a", "a+(*PRUNE)b", "aaa(*SKIP)b|a", "a(*SKIP)(*F)|.", "(*NO_START_OPT)a(*COMMIT)b|ac", "a(*MARK:name)b", "a(*:name)b", "(a(*ACCEPT)?b)"], &[b"ab", b"a", b"b", b"aab", b"aaaab", b"ac", b"xac", b"aac"]),
    ("start", &["(*NO_JIT)a", "(*NO_AUTO_POSSESS)a+b", "(*NO_START_OPT)a", "(*NO_DOTSTAR_ANCHOR).*a", "(*LIMIT_MATCH=1000000)a", "(*LIMIT_DEPTH=1000)(*LIMIT_HEAP=1000)a", "(*NOTEMPTY)a*", "(*NOTEMPTY_ATSTART)a*", "(*NOTEMPTY)a*|b"], &[b"a", b"aab", b"", b"b", b"xa"]),
    ("callouts", &["a(?C)b", "a(?C12)b", "a(?C'text')b", "a(?C{te}}xt})b", "(?(?C1)(?=a)ab|c)"], &[b"ab", b"c"]),
    ("bytes", &["é", "[é]", "(?i)É", "^..$", "\\xc3\\xa9"], &["é".as_bytes(), "É".as_bytes(), b"\xe9", b"\xc3"]),
    ("alternatives", &["a|b|", "|a", "(?:a|ab)(?:c|bcd)", "^(?:gif|jpg|jpeg|png|css|js)$", "(?:gif|jpg|jpeg|png|css|js|)x", "a||b", "(a|b|c|d|e|f)(g|h|i|j|k)"], &[b"a", b"b", b"", b"abcd", b"jpeg", b"jpegs", b"x", b"ag", b"fk"]),
];

/// A pattern that is refused, and what is said.
const REFUSED: &[(&str, &str)] = &[
    (r"(*THEN)a|b", "(*THEN) is not supported"),
    (r"a(*COMMIT)b", "(*COMMIT) is not supported without (*NO_START_OPT)"),
    (r"(*MARK:x)a(*SKIP:x)b", "(*SKIP:NAME) is not supported"),
    (r"(*UTF)\X", "\\X is not supported with (*UTF)"),
    (r"(*UTF)\C", "\\C is not supported with (*UTF)"),
    (r"(?<=a(*ACCEPT)b)c", "(*ACCEPT) is not supported in lookbehind assertion"),
    (r"(*sr:a)", "script runs are not supported"),
    (r"(*asr:a)", "script runs are not supported"),
    (r"(*script_run:a)", "script runs are not supported"),
    (r"(*atomic_script_run:a)", "script runs are not supported"),
    (r"(a)(*scs:(1)a)", "(*scan_substring:) is not supported"),
    (r"(?[[a]+[b]])", "extended classes (?[...]) are not supported"),
    (r"(*TURKISH_CASING)(*UTF)i", "(*TURKISH_CASING) is not supported"),
    (r"(*UCP)[[:graph:]]", "not supported with (*UCP)"),
    (r"\p{bc:al}", "unknown property \"bc:al\""),
    (r"(?<=a(?(?=b)c))d", "conditional groups are not supported in lookbehind"),
    ("(*UTF)(?<\u{e9}>a)", "a group's name beyond ASCII is not supported"),
];

/// Patterns that PCRE2 refuses, too, and where.
const WRONG: &[(&str, usize)] = &[
    ("(a", 2),
    ("a)", 1),
    ("[a", 2),
    ("*a", 0),
    ("a**", 2),
    ("^*", 1),
    (r"\b+", 2),
    ("a\\", 2),
    (r"\x{zz}", 3),
    (r"\x", 2),
    (r"\o8", 2),
    (r"\cé", 2),
    (r"\400", 0),
    (r"\x{100}", 0),
    (r"\y", 0),
    (r"\u0041", 0),
    (r"\L", 0),
    (r"\N{name}", 0),
    (r"\p{Nonsense}", 0),
    (r"\1", 0),
    (r"(a)\2", 3),
    (r"\g{2}", 0),
    (r"\k<n>", 0),
    (r"(?<n>a)(?<n>b)", 12),
    (r"(?<1>a)", 3),
    (r"(?1)", 0),
    (r"(?&n)", 0),
    (r"(?P!a)", 3),
    (r"(?Z)", 2),
    (r"(?<=a+)b", 0),
    (r"(?<=\X)b", 4),
    (r"(?=a\K)", 4),
    ("[b-a]", 3),
    (r"[\d-z]", 4),
    (r"[a-\d]", 3),
    ("[[:nonsense:]]", 1),
    ("[:alpha:]", 0),
    ("[[.a.]]", 1),
    (r"[\R]", 1),
    (r"[\B]", 1),
    ("a{3,2}", 1),
    ("a{65536}", 1),
    ("(?(1)a|b|c)(d)", 0),
    ("(?(2)a)", 0),
    ("(?(?a)b)", 2),
    ("(*NONSENSE)a", 0),
    ("(*nonsense:a)", 11),
    ("(?#", 0),
    ("(?C256)", 5),
    ("(*UTF)\\x{d800}", 6),
];

#[test]
fn what_is_offered_finds_what_pcre2_finds() {
    let mut rows = 0;
    for (construct, patterns, texts) in OFFERED {
        for pattern in *patterns {
            for caseless in [false, true] {
                let both = Both::new(pattern, caseless);
                assert!(both.is_valid(), "{construct}: PCRE2 refuses /{pattern}/: {}", both.complaint());
                assert_eq!(both.refusal(), None, "{construct}");
                for text in *texts {
                    let (ours, theirs) = (both.ours(text), both.theirs(text));
                    assert_eq!(ours, theirs, "{construct}: /{pattern}/ on \"{}\"", text.escape_ascii());
                    rows += usize::from(theirs != Outcome::None);
                }
            }
        }
    }
    assert!(rows > 1_000, "{rows}");
}

#[test]
fn what_is_not_offered_is_named() {
    for (pattern, message) in REFUSED {
        assert!(Both::new(pattern, false).is_valid(), "PCRE2 refuses /{pattern}/");
        let error = Regex::new(pattern.as_bytes(), false).unwrap_err();
        assert!(error.contains(message) && error.contains(" at offset "), "/{pattern}/: {error}");
    }
}

#[test]
fn mistakes_are_found_where_they_are() {
    let mut wrong = Vec::new();
    for (pattern, offset) in WRONG {
        let both = Both::new(pattern, false);
        assert!(!both.is_valid(), "PCRE2 takes /{pattern}/");
        let error = both.refusal().unwrap_or_default().to_owned();
        if !error.ends_with(&format!(" at offset {offset}")) {
            wrong.push(format!("/{pattern}/, {offset}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The bytes of a pattern are its bytes: Latin-1 stays Latin-1. PCRE2's crate takes no such patterns.
#[test]
fn bytes_of_a_pattern_stay_bytes() {
    for (pattern, text, expected) in [
        (&b"^/caf\xe9$"[..], &b"/caf\xe9"[..], true),
        (b"^/caf\xe9$", "/café".as_bytes(), false),
        (b"[\xe0-\xff]", b"\xe9", true),
        (b"[^\xe9]", b"\xe9", false),
        (b"\\Q\xff\xfe\\E", b"\xff\xfe", true),
        (b"\xe9+$", b"\xe9\xe9\n", true),
        (b"(?i)\xe9", b"\xc9", false),
        (b"^/.+x$", b"/\xff\xfex", true),
        (b"\\\xe9", b"\xe9", true),
    ] {
        let regex = Regex::new(pattern, false).unwrap();
        assert_eq!(regex.is_match(text), Ok(expected), "{regex:?} on \"{}\"", text.escape_ascii());
    }
    let error = Regex::new(b"(*UTF)\xe9", false).unwrap_err();
    assert!(error.contains("not valid UTF-8 at offset 6"), "{error}");
}
