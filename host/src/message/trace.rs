//! W3C trace context: `traceparent` and `tracestate`.
//!
//! The gateway records no spans of its own, so a valid context goes on as it
//! came, its parent id included: a new one would name a span nobody ever
//! reports and cut the caller's tree in two (Trace Context §4.3 leaves that to a
//! participant that does not record). An invalid context is removed whole. One
//! that is missing is made only where the configuration says so.

use std::cell::Cell;

use super::fields::{Fields, Name};

/// Bytes of `tracestate` that are passed on; the standard asks for 512 at least.
const STATE_BYTES_MAX: usize = 1024;
/// Entries of `tracestate`, by the standard.
const STATE_ENTRIES_MAX: usize = 32;

/// A trace context: the ids in lower-case hex, and the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 32],
    parent_id: [u8; 16],
    flags: u8,
}

/// What is done for a request without a valid context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceOrigin {
    /// Nothing: whoever records spans begins the trace. The default.
    #[default]
    PassOnly,
    /// Begin a trace, sampled in so many of a million requests.
    Generate {
        /// Requests in a million whose `sampled` flag is set.
        sampled_per_million: u32,
    },
}

/// The boot file's `trace` section.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceConfig {
    /// Whether requests without a valid context get one. Default no.
    pub generate: bool,
    /// Of the contexts made, how many in a hundred are marked as sampled. Default 0.
    pub sampled_percent: f64,
}

impl TraceConfig {
    /// What is done for a request without a valid context; the message names
    /// the field that is out of range.
    pub fn origin(&self) -> Result<TraceOrigin, String> {
        if !(0.0..=100.0).contains(&self.sampled_percent) {
            return Err(format!("trace.sampled_percent: {} is not between 0 and 100", self.sampled_percent));
        }
        if !self.generate {
            return Ok(TraceOrigin::PassOnly);
        }
        let sampled_per_million = (self.sampled_percent * 10_000.0).round() as u32;
        Ok(TraceOrigin::Generate { sampled_per_million })
    }
}

impl TraceContext {
    /// Parses a `traceparent` value. Later versions are read as far as version
    /// 00 goes, as the standard says.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(55)?;
        let version = hex_byte(&head[..2])?;
        let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
        let ends = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest[0] == b'-' };
        if version == 0xff || !dashes || !ends {
            return None;
        }
        let trace_id: [u8; 32] = head[3..35].try_into().ok()?;
        let parent_id: [u8; 16] = head[36..52].try_into().ok()?;
        let is_id = |id: &[u8]| id.iter().all(|byte| is_hex(*byte)) && id.iter().any(|byte| *byte != b'0');
        if !is_id(&trace_id) || !is_id(&parent_id) {
            return None;
        }
        Some(Self { trace_id, parent_id, flags: hex_byte(&head[53..55])? })
    }

    /// A new trace.
    #[must_use]
    pub fn generate(ids: &IdSource, sampled_per_million: u32) -> Self {
        let mut trace_id = [0; 32];
        let mut parent_id = [0; 16];
        // Never all zero: the last digit is set apart from that.
        write_hex(ids.next_u64(), &mut trace_id[..16]);
        write_hex(ids.next_u64() | 1, &mut trace_id[16..]);
        write_hex(ids.next_u64() | 1, &mut parent_id);
        let sampled = ids.next_u64() % 1_000_000 < u64::from(sampled_per_million);
        Self { trace_id, parent_id, flags: sampled.into() }
    }

    /// The trace id, 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        // Hex digits by construction.
        std::str::from_utf8(&self.trace_id).unwrap_or_default()
    }

    /// Whether the caller says the trace is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The `traceparent` value, version 00.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(&self.trace_id);
        text[36..52].copy_from_slice(&self.parent_id);
        text[53] = hex_digit(self.flags >> 4);
        text[54] = hex_digit(self.flags & 0xf);
        text
    }
}

/// Brings a request's trace context in order before it goes on, and returns it
/// for the log. A request without any is untouched at the cost of one look.
pub fn pass_on(fields: &mut Fields, origin: TraceOrigin, ids: &IdSource) -> Option<TraceContext> {
    let mut parents = fields.values(Name::Traceparent);
    let (first, second) = (parents.next(), parents.next());
    let found = first.filter(|_| second.is_none()).and_then(TraceContext::parse);
    let is_version_0 = first.is_some_and(|value| value.starts_with(b"00"));
    let had_parent = first.is_some();
    drop(parents);
    if let Some(context) = found {
        if !is_version_0 {
            fields.set(b"traceparent", &context.to_bytes());
        }
        if !is_state_valid(fields) {
            fields.remove_known(Name::Tracestate);
        }
        return Some(context);
    }
    if had_parent {
        fields.remove_known(Name::Traceparent);
    }
    // A state without its parent means nothing.
    if fields.value(Name::Tracestate).is_some() {
        fields.remove_known(Name::Tracestate);
    }
    let TraceOrigin::Generate { sampled_per_million } = origin else { return None };
    let context = TraceContext::generate(ids, sampled_per_million);
    fields.append(b"traceparent", &context.to_bytes());
    Some(context)
}

fn is_state_valid(fields: &Fields) -> bool {
    let mut bytes = 0;
    let mut entries = 0;
    for value in fields.values(Name::Tracestate) {
        bytes += value.len();
        if bytes > STATE_BYTES_MAX {
            return false;
        }
        for entry in value.split(|byte| *byte == b',') {
            let entry = entry.trim_ascii();
            if entry.is_empty() {
                continue;
            }
            entries += 1;
            if entries > STATE_ENTRIES_MAX || !is_entry_valid(entry) {
                return false;
            }
        }
    }
    true
}

fn is_entry_valid(entry: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', entry) else { return false };
    let (key, value) = (&entry[..equals], &entry[equals + 1..]);
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    let is_value_byte = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'=';
    (1..=256).contains(&key.len())
        && key.iter().all(is_key_byte)
        && (1..=256).contains(&value.len())
        && value.iter().all(is_value_byte)
}

/// Random numbers for ids: quick, different on every worker and start, and no secret.
#[derive(Debug)]
pub struct IdSource {
    state: Cell<u64>,
}

impl IdSource {
    /// Seeded by the system.
    #[must_use]
    pub fn new() -> Self {
        let mut seed = [0; 8];
        if getrandom::fill(&mut seed).is_err() {
            // Without entropy the ids still differ between processes and workers.
            let place = std::ptr::from_ref(&seed) as u64;
            return Self::seeded(place ^ u64::from(std::process::id()) << 32);
        }
        Self::seeded(u64::from_ne_bytes(seed))
    }

    /// Seeded by hand, for tests.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { state: Cell::new(seed) }
    }

    /// The next 64 bits (SplitMix64).
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A request id: 32 hex digits.
    #[must_use]
    pub fn request_id(&self) -> [u8; 32] {
        let mut text = [0; 32];
        write_hex(self.next_u64(), &mut text[..16]);
        write_hex(self.next_u64(), &mut text[16..]);
        text
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

fn write_hex(value: u64, out: &mut [u8]) {
    for (index, digit) in out.iter_mut().enumerate() {
        *digit = hex_digit((value >> (60 - 4 * index)) as u8 & 0xf);
    }
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value & 0xf)]
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let value = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    Some(value(digits[0])? << 4 | value(digits[1])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn passed(list: &[(&str, &str)], origin: TraceOrigin) -> (Option<TraceContext>, Vec<(String, String)>) {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        let context = pass_on(&mut fields, origin, &IdSource::seeded(7));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (context, fields.iter().map(|(name, value)| (text(name), text(value))).collect())
    }

    #[test]
    fn a_valid_context_goes_on_untouched() {
        let list = [("traceparent", GOOD), ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")];
        let (context, after) = passed(&list, TraceOrigin::PassOnly);
        let context = context.unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled());
        assert_eq!(after, list.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(context.to_bytes(), GOOD.as_bytes());
    }

    #[test]
    fn a_later_version_is_read_as_version_00() {
        let later = format!("cc{}-what-the-future-brings", &GOOD[2..]);
        let (context, after) = passed(&[("traceparent", &later)], TraceOrigin::PassOnly);
        assert!(context.is_some());
        assert_eq!(after, [("traceparent".to_owned(), GOOD.to_owned())]);
    }

    #[test]
    fn an_invalid_context_is_removed_with_its_state() {
        let bad = [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-"),
            format!("{GOOD}0"),
            format!("ff{}", &GOOD[2..]),
            format!("cc{}.", &GOOD[2..]),
            GOOD.to_uppercase(),
            GOOD.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x".to_owned(),
            "é".repeat(40),
        ];
        for value in bad {
            let (context, after) =
                passed(&[("traceparent", &value), ("tracestate", "a=b")], TraceOrigin::PassOnly);
            assert_eq!((context, after), (None, vec![]), "{value}");
        }
        let (context, after) = passed(&[("traceparent", GOOD), ("traceparent", GOOD)], TraceOrigin::PassOnly);
        assert_eq!((context, after), (None, vec![]));
    }

    #[test]
    fn a_bad_state_is_removed_alone() {
        let long = format!("a={}", "x".repeat(257));
        let many = vec!["a=b"; 33].join(",");
        let wide = vec![format!("a={}", "x".repeat(250)); 5].join(",");
        for state in ["nokey", "=v", "a=", "A=b", "a=b\u{1}", "a=b=c", &long, &many, &wide] {
            let (context, after) =
                passed(&[("traceparent", GOOD), ("tracestate", state)], TraceOrigin::PassOnly);
            assert!(context.is_some());
            assert_eq!(after, [("traceparent".to_owned(), GOOD.to_owned())], "{state}");
        }
    }

    #[test]
    fn a_missing_context_is_made_when_asked_for() {
        assert_eq!(passed(&[], TraceOrigin::PassOnly), (None, vec![]));
        for (rate, sampled) in [(0, false), (1_000_000, true)] {
            let origin = TraceOrigin::Generate { sampled_per_million: rate };
            let (context, after) = passed(&[("traceparent", "junk")], origin);
            assert_eq!(context.unwrap().is_sampled(), sampled);
            assert_eq!(TraceContext::parse(after[0].1.as_bytes()), context);
            assert_eq!(after.len(), 1);
        }
    }

    #[test]
    fn the_share_of_sampled_traces_is_checked() {
        let of = |generate, sampled_percent| TraceConfig { generate, sampled_percent }.origin();
        assert_eq!(of(true, 0.5), Ok(TraceOrigin::Generate { sampled_per_million: 5000 }));
        assert_eq!(of(false, 0.5), Ok(TraceOrigin::PassOnly));
        for bad in [-1.0, 100.1, f64::NAN] {
            assert!(of(false, bad).unwrap_err().starts_with("trace.sampled_percent: "));
        }
    }

    #[test]
    fn ids_differ() {
        let ids = IdSource::new();
        let set: std::collections::HashSet<_> = (0..10_000).map(|_| ids.request_id()).collect();
        assert_eq!(set.len(), 10_000);
        assert_ne!(IdSource::new().next_u64(), IdSource::new().next_u64());
    }
}
