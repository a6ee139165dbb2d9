//! Operators, ready to run.

use std::net::IpAddr;
use std::sync::Mutex;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::lang::macros::Macro;
use crate::lang::operators::OperatorText;
use crate::pattern::literals::{self, Required, commonness};
use crate::pattern::{Groups, Pattern};
use crate::text::bytes::ByteSet;
use crate::text::decode::hex_digit;

/// An operator with all it needs.
#[derive(Debug)]
pub enum Operator {
    /// `unconditionalMatch`, and the rules of `SecAction`.
    Always,
    /// `noMatch`, and what needs a network this engine does not have.
    Never,
    /// `rx`.
    Rx(Box<Pattern>, Required),
    /// `rx` with marks, and the pattern they last came to.
    Template(Macro, Mutex<Option<(Vec<u8>, Option<Pattern>)>>),
    /// `pm`, `pmFromFile`.
    Phrases(Box<Phrases>),
    /// Comparisons of text.
    Text(TextTest, Macro),
    /// Comparisons of numbers.
    Number(NumberTest, Macro),
    /// `validateByteRange`: the bytes that are allowed.
    ByteRange(ByteSet),
    /// `validateUrlEncoding`.
    UrlEncoding,
    /// `validateUtf8Encoding`.
    Utf8Encoding,
    /// `ipMatch`, `ipMatchFromFile`.
    Addresses(Vec<(IpAddr, u8)>),
    /// `detectSQLi`.
    Sqli,
    /// `detectXSS`.
    Xss,
}

/// Phrases that are looked for without regard to capitals.
#[derive(Debug)]
pub struct Phrases {
    automaton: AhoCorasick,
    folded: Vec<Vec<u8>>,
}

/// Comparisons of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TextTest {
    BeginsWith,
    Contains,
    ContainsWord,
    EndsWith,
    Equals,
    Within,
}

/// Comparisons of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NumberTest {
    Equal,
    GreaterOrEqual,
    Greater,
    LessOrEqual,
    Less,
}

/// What an operator has found.
#[derive(Debug, Default)]
pub struct Found {
    /// The places of the match and its groups, where they were asked for.
    pub groups: Groups,
    /// A text of the operator's own, as libinjection's fingerprint.
    pub note: Option<Vec<u8>>,
}

/// What compiling an operator can want from outside.
pub trait Files {
    /// The content of a file that rules in `source` name.
    fn read(&self, source: &str, path: &str) -> Result<Vec<u8>, String>;
}

impl Operator {
    /// Makes an operator ready. `source` is the file whose rules name it. The
    /// second value is a warning: it never matches, and why.
    pub fn new(
        text: &OperatorText,
        source: &str,
        files: &dyn Files,
    ) -> Result<(Operator, Option<String>), String> {
        let value = || text.value.clone();
        let operator = match text.name.as_str() {
            "rx" | "rxglobal" => return Ok((rx(text)?, None)),
            "pm" => Operator::Phrases(Box::new(Phrases::new(phrases_of_line(&text.argument))?)),
            "pmfromfile" | "pmf" => {
                Operator::Phrases(Box::new(Phrases::new(phrases_of_files(text, source, files)?)?))
            }
            "beginswith" => Operator::Text(TextTest::BeginsWith, value()),
            "contains" | "strmatch" => Operator::Text(TextTest::Contains, value()),
            "containsword" => Operator::Text(TextTest::ContainsWord, value()),
            "endswith" => Operator::Text(TextTest::EndsWith, value()),
            "streq" => Operator::Text(TextTest::Equals, value()),
            "within" => Operator::Text(TextTest::Within, value()),
            "eq" => Operator::Number(NumberTest::Equal, value()),
            "ge" => Operator::Number(NumberTest::GreaterOrEqual, value()),
            "gt" => Operator::Number(NumberTest::Greater, value()),
            "le" => Operator::Number(NumberTest::LessOrEqual, value()),
            "lt" => Operator::Number(NumberTest::Less, value()),
            "validatebyterange" => Operator::ByteRange(byte_range(&text.argument)?),
            "validateurlencoding" => Operator::UrlEncoding,
            "validateutf8encoding" => Operator::Utf8Encoding,
            "ipmatch" => Operator::Addresses(addresses(text.argument.split(','))?),
            "ipmatchfromfile" | "ipmatchf" => {
                let content = files.read(source, &text.argument)?;
                let content = String::from_utf8_lossy(&content).into_owned();
                Operator::Addresses(addresses(
                    content.lines().filter(|line| !line.trim_start().starts_with('#')),
                )?)
            }
            "detectsqli" => Operator::Sqli,
            "detectxss" => Operator::Xss,
            "unconditionalmatch" => Operator::Always,
            "nomatch" => Operator::Never,
            "rbl" | "geolookup" | "gsblookup" => {
                let warning =
                    format!("@{} needs what this engine does not have: it never matches", text.name);
                return Ok((Operator::Never, Some(warning)));
            }
            other => return Err(format!("the operator @{other} is not supported")),
        };
        Ok((operator, None))
    }

    /// Looks at a text. `expand` fills in the marks of an argument; groups are
    /// looked for where `capture` says so.
    pub fn test(
        &self,
        text: &[u8],
        capture: bool,
        expand: &mut dyn FnMut(&Macro) -> Vec<u8>,
    ) -> Option<Found> {
        let plain = |matched: bool| matched.then(Found::default);
        match self {
            Operator::Always => plain(true),
            Operator::Never => None,
            Operator::Rx(pattern, _) if capture => {
                pattern.groups(text).map(|groups| Found { groups, note: None })
            }
            Operator::Rx(pattern, _) => plain(pattern.is_match(text)),
            Operator::Template(value, last) => template(&expand(value), last, text, capture),
            Operator::Phrases(phrases) => {
                let found = phrases.automaton.find(text)?;
                Some(Found { groups: vec![Some((found.start(), found.end()))], note: None })
            }
            Operator::Text(test, value) => match value.constant() {
                Some(value) => plain(test.holds(text, value)),
                None => plain(test.holds(text, &expand(value))),
            },
            Operator::Number(test, value) => plain(match value.constant() {
                Some(value) => test.holds(number(text), number(value)),
                None => test.holds(number(text), number(&expand(value))),
            }),
            Operator::ByteRange(allowed) => {
                plain(ByteSet::present_in(text).intersects(&allowed.complement()))
            }
            Operator::UrlEncoding => plain(!is_url_encoded(text)),
            Operator::Utf8Encoding => plain(std::str::from_utf8(text).is_err()),
            Operator::Addresses(networks) => {
                let address: IpAddr = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
                plain(networks.iter().any(|network| contains(network, address)))
            }
            Operator::Sqli if is_one_word(text) => None,
            Operator::Sqli => {
                let result = libinjectionrs::detect_sqli(text);
                result.is_injection().then(|| Found {
                    groups: Vec::new(),
                    note: result.fingerprint.map(|fingerprint| fingerprint.as_str().as_bytes().to_vec()),
                })
            }
            Operator::Xss => plain(libinjectionrs::detect_xss(text).is_injection()),
        }
    }

    /// The argument whose marks have to be filled in before a test.
    pub fn template(&self) -> Option<&Macro> {
        match self {
            Operator::Text(_, value) | Operator::Number(_, value) | Operator::Template(value, _) => {
                value.constant().is_none().then_some(value)
            }
            _ => None,
        }
    }

    /// Whether a test costs so much that one is better remembered, and depends on
    /// the text alone.
    #[inline]
    pub fn is_dear(&self) -> bool {
        matches!(self, Operator::Rx(..) | Operator::Phrases(_) | Operator::Sqli | Operator::Xss)
    }

    /// What must stand in a text that matches. None where nothing can be said
    /// without looking at it.
    pub fn required(&self) -> Option<Required> {
        let sets = |set: ByteSet| Required { literals: None, sets: vec![set] };
        Some(match self {
            Operator::Rx(_, required) => required.clone(),
            Operator::Phrases(phrases) => phrases.required(),
            Operator::Text(TextTest::Within, _) | Operator::Template(..) => return None,
            Operator::Text(_, value) => {
                let value = value.constant().filter(|value| !value.is_empty())?.to_ascii_lowercase();
                let rarest = value.iter().copied().min_by_key(|&byte| commonness(byte))?;
                let literals = (value.len() >= 2).then(|| vec![value.clone()]);
                Required { literals, sets: vec![ByteSet::of(&[rarest])] }
            }
            Operator::ByteRange(allowed) => sets(allowed.complement().folded()),
            // One word or number is no injection, and neither is a text that
            // neither opens a tag nor gives an attribute a value.
            Operator::Sqli => sets(ByteSet::EMPTY.with_range(b'a', b'z').with_range(b'0', b'9').complement()),
            Operator::Xss => sets(ByteSet::of(b"<=")),
            _ => return None,
        })
    }
}

fn rx(text: &OperatorText) -> Result<Operator, String> {
    if text.value.constant().is_none() {
        return Ok(Operator::Template(text.value.clone(), Mutex::new(None)));
    }
    let source = text.argument.as_bytes();
    let pattern = Pattern::new(source).map_err(|error| format!("the pattern cannot be compiled: {error}"))?;
    let required = Pattern::structure(source).map(|hir| literals::required(&hir)).unwrap_or_default();
    Ok(Operator::Rx(Box::new(pattern), required))
}

/// Looks at a text with a pattern whose marks are filled in. One that is no
/// pattern matches nothing.
fn template(
    source: &[u8],
    last: &Mutex<Option<(Vec<u8>, Option<Pattern>)>>,
    text: &[u8],
    capture: bool,
) -> Option<Found> {
    let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if last.as_ref().is_none_or(|(known, _)| known != source) {
        *last = Some((source.to_vec(), Pattern::new(source).ok()));
    }
    let pattern = last.as_ref()?.1.as_ref()?;
    match capture {
        true => pattern.groups(text).map(|groups| Found { groups, note: None }),
        false => pattern.is_match(text).then(Found::default),
    }
}

impl Phrases {
    fn new(phrases: Vec<Vec<u8>>) -> Result<Phrases, String> {
        if phrases.is_empty() {
            return Err("there are no phrases".into());
        }
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&phrases)
            .map_err(|error| error.to_string())?;
        let folded = phrases.iter().map(|phrase| phrase.to_ascii_lowercase()).collect();
        Ok(Phrases { automaton, folded })
    }

    fn required(&self) -> Required {
        if self.folded.iter().all(|phrase| phrase.len() >= 2) {
            return Required { literals: Some(self.folded.clone()), sets: Vec::new() };
        }
        let mut set = ByteSet::EMPTY;
        for phrase in &self.folded {
            set.insert(phrase.iter().copied().min_by_key(|&byte| commonness(byte)).unwrap_or_default());
        }
        Required { literals: None, sets: vec![set] }
    }
}

/// Phrases parted by spaces; `|41 42|` are bytes.
fn phrases_of_line(line: &str) -> Vec<Vec<u8>> {
    let mut phrases = vec![Vec::new()];
    let mut in_bytes = false;
    let mut digits = Vec::new();
    for &byte in line.as_bytes() {
        let phrase = phrases.last_mut().expect("there is always one");
        match byte {
            b'|' => {
                in_bytes = !in_bytes;
                digits.clear();
            }
            b' ' if in_bytes => {}
            _ if in_bytes => {
                digits.push(byte);
                if let [high, low] = digits[..] {
                    phrase.push(hex_digit(high).unwrap_or(0) << 4 | hex_digit(low).unwrap_or(0));
                    digits.clear();
                }
            }
            b' ' => phrases.push(Vec::new()),
            _ => phrase.push(byte),
        }
    }
    phrases.retain(|phrase| !phrase.is_empty());
    phrases
}

fn phrases_of_files(text: &OperatorText, source: &str, files: &dyn Files) -> Result<Vec<Vec<u8>>, String> {
    let mut phrases = Vec::new();
    for path in text.argument.split_ascii_whitespace() {
        let content = files.read(source, path)?;
        let lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        phrases.extend(lines.filter(|line| !line.is_empty() && line[0] != b'#').map(<[u8]>::to_vec));
    }
    Ok(phrases)
}

fn byte_range(text: &str) -> Result<ByteSet, String> {
    let byte =
        |text: &str| text.trim().parse::<u8>().map_err(|_| format!("{text:?} is no byte, from 0 to 255"));
    let mut set = ByteSet::EMPTY;
    for part in text.split(',') {
        set = match part.split_once('-') {
            Some((from, to)) => set.with_range(byte(from)?, byte(to)?),
            None => set.with_range(byte(part)?, byte(part)?),
        };
    }
    Ok(set)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<(IpAddr, u8)>, String> {
    let network = |text: &str| {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(full), |bits| bits.parse().ok().filter(|bits| *bits <= full))?;
        Some((address, bits))
    };
    texts
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| network(text).ok_or_else(|| format!("{text:?} is no address or network")))
        .collect()
}

fn contains(network: &(IpAddr, u8), address: IpAddr) -> bool {
    match (network.0, address.to_canonical()) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(network.1);
            u64::from(u32::from(net)) >> shift == u64::from(u32::from(address)) >> shift
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => {
            let difference = u128::from(net) ^ u128::from(address);
            difference.leading_zeros() >= u32::from(network.1)
        }
        _ => false,
    }
}

impl TextTest {
    fn holds(self, text: &[u8], value: &[u8]) -> bool {
        match self {
            TextTest::BeginsWith => text.starts_with(value),
            TextTest::EndsWith => text.ends_with(value),
            TextTest::Equals => text == value,
            TextTest::Contains => position(text, value).is_some(),
            TextTest::Within => text.is_empty() || position(value, text).is_some(),
            TextTest::ContainsWord => {
                let is_word = |byte: Option<&u8>| {
                    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
                };
                let mut from = 0;
                while let Some(at) = position(&text[from..], value).map(|at| from + at) {
                    let before = at.checked_sub(1).and_then(|before| text.get(before));
                    if !is_word(before) && !is_word(text.get(at + value.len())) {
                        return true;
                    }
                    from = at + 1;
                }
                false
            }
        }
    }
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

impl NumberTest {
    fn holds(self, left: i64, right: i64) -> bool {
        match self {
            NumberTest::Equal => left == right,
            NumberTest::GreaterOrEqual => left >= right,
            NumberTest::Greater => left > right,
            NumberTest::LessOrEqual => left <= right,
            NumberTest::Less => left < right,
        }
    }
}

/// The number a text begins with, 0 where it begins with none.
pub fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if negative { -value } else { value }
}

/// Whether libinjection sees one word in a text and nothing else, which is no
/// injection. It parts words at dots where what stands before is a word of SQL;
/// a few of its words have dots themselves.
fn is_one_word(text: &[u8]) -> bool {
    use libinjectionrs::sqli::{TokenType, sqli_data};
    const WITH_DOTS: [&[u8]; 5] = [b"ctxsys", b"dbms_", b"sys", b"user_lock", b"utl_"];
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let starts = |begin: &[u8]| text.get(..begin.len()).is_some_and(|text| text.eq_ignore_ascii_case(begin));
    if !text.first().is_some_and(u8::is_ascii_alphabetic) || !text.iter().all(is_word) {
        return false;
    }
    let first = text.split(|&byte| byte == b'.').next().unwrap_or_default();
    let is_plain = |word| {
        std::str::from_utf8(word).is_ok_and(|word| sqli_data::lookup_word(word) == TokenType::Bareword)
    };
    first.len() == text.len() || (is_plain(first) && !WITH_DOTS.into_iter().any(starts))
}

fn is_url_encoded(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(offset) = text[at..].iter().position(|&byte| byte == b'%') {
        let digits = &text[at + offset + 1..];
        if digits.len() < 2 || hex_digit(digits[0]).is_none() || hex_digit(digits[1]).is_none() {
            return false;
        }
        at += offset + 3;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Names;

    struct NoFiles;

    impl Files for NoFiles {
        fn read(&self, _: &str, path: &str) -> Result<Vec<u8>, String> {
            match path {
                "words.data" => Ok(b"# note\nalpha\n\nBeta gamma\n".to_vec()),
                _ => Err(format!("{path} is not there")),
            }
        }
    }

    fn operator(text: &str) -> Result<Operator, String> {
        let text = crate::lang::operators::parse(text, &mut Names::default())?;
        Operator::new(&text, "test.conf", &NoFiles).map(|(operator, _)| operator)
    }

    fn matches(operator_text: &str, text: &[u8]) -> bool {
        operator(operator_text).unwrap().test(text, false, &mut |_| b"5".to_vec()).is_some()
    }

    #[test]
    fn operators_hold_where_the_manual_says_so() {
        let cases: &[(&str, &[u8], bool)] = &[
            ("@pm eval |41 42|c system", b"xABCx", true),
            ("@pm eval exec", b"EXECUTE", true),
            ("@pmFromFile words.data", b"my beta GAMMA ray", true),
            ("@pmFromFile words.data", b"note", false),
            ("@within GET HEAD", b"HEAD", true),
            ("@within GET HEAD", b"POST", false),
            ("@beginsWith ab", b"abc", true),
            ("@endsWith bc", b"abc", true),
            ("@streq abc", b"abcd", false),
            ("@containsWord php", b"use php!", true),
            ("@containsWord php", b"phpinfo", false),
            ("@eq 10", b"10 apples", true),
            ("@ge %{tx.x}", b"4", false),
            ("@lt %{tx.x}", b"4", true),
            ("@validateByteRange 32-126", b"a\nb", true),
            ("@validateByteRange 9,10,13,32-126", b"a\nb", false),
            ("@validateUrlEncoding", b"%4", true),
            ("@validateUrlEncoding", b"%41", false),
            ("@validateUtf8Encoding", b"\xc0\xaf", true),
            ("@ipMatch 10.0.0.0/8,::1", b"10.2.3.4", true),
            ("@ipMatch 10.0.0.0/8,::1", b"11.2.3.4", false),
            ("@detectSQLi", b"1' OR '1'='1", true),
            ("@detectSQLi", b"hello world", false),
            ("@detectXSS", b"<script>alert(1)</script>", true),
            ("@unconditionalMatch", b"", true),
        ];
        for (operator, text, expected) in cases {
            assert_eq!(matches(operator, text), *expected, "{operator} on {text:?}");
        }
    }

    /// The short way must not differ from the long one.
    #[test]
    fn one_word_is_never_an_injection() {
        let parts = [
            "json",
            "select",
            "a_1",
            "union",
            "or",
            "sys",
            "utl_inaddr",
            "x",
            "0x41",
            "e",
            "1",
            ".",
            "..",
            "_",
        ];
        for first in parts {
            for second in parts {
                for third in parts {
                    for text in [format!("{first}.{second}.{third}"), format!("{first}{second}_{third}")] {
                        let short = is_one_word(text.as_bytes());
                        let long = libinjectionrs::detect_sqli(text.as_bytes()).is_injection();
                        assert!(!(short && long), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        assert_eq!(operator("@inspectFile x").unwrap_err(), "the operator @inspectfile is not supported");
        assert_eq!(operator("@pmFromFile gone.data").unwrap_err(), "gone.data is not there");
        assert!(operator("@rx a(").unwrap_err().contains("unclosed group"));
    }
}
