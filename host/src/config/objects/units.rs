//! How times, sizes, addresses and lists are written.
//!
//! A time is a number of seconds as in APISIX (`0.5`), or a text with units
//! (`500ms`, `1m30s`). A size is a number of bytes, or a text (`64KiB`).

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{self, SeqAccess, Visitor, value::StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest time that can be written: a leap year.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads `10s`, `300ms`, `1m30s`; units are `us`, `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "expected a time such as \"300ms\", \"10s\" or \"1m30s\", or a number of seconds".to_owned();
    let mut rest = text.trim();
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    from_seconds(seconds)
}

fn from_seconds(seconds: f64) -> Result<Duration, String> {
    // Rounded to a nanosecond, so that 300ms and 0.3 are the same time.
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time <= DURATION_MAX => Ok(time),
        Ok(_) => Err("is longer than 366 days".to_owned()),
        Err(_) if seconds < 0.0 => Err("a time cannot be negative".to_owned()),
        Err(_) => Err("is longer than 366 days".to_owned()),
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time: a number of seconds, or a text such as \"300ms\" or \"10s\"")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        self.visit_f64(number as f64)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
        from_seconds(number).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(E::custom)
    }
}

/// A time in an object, for `#[serde(with)]`.
pub(super) mod duration {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
        if time.subsec_nanos() == 0 {
            out.serialize_u64(time.as_secs())
        } else {
            out.serialize_f64(time.as_secs_f64())
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        input.deserialize_any(DurationVisitor)
    }
}

/// A time that may be left out, for `#[serde(with)]` with `default`.
pub(super) mod duration_option {
    use super::*;

    struct Given(Duration);

    impl<'de> Deserialize<'de> for Given {
        fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            duration::deserialize(input).map(Self)
        }
    }

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => duration::serialize(time, out),
            None => out.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Some(Given::deserialize(input)?.0))
    }
}

/// Reads `64KiB`, `1MB`, `512B`, or a plain number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as \"64KiB\" or \"1MiB\", or a number of bytes".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(|| "is too large".to_owned())
}

/// A size in an object, for `#[serde(with)]`.
pub(super) mod bytes {
    use super::*;

    struct BytesVisitor;

    impl Visitor<'_> for BytesVisitor {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size: a number of bytes, or a text such as \"64KiB\"")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u64, E> {
            u64::try_from(number).map_err(|_| E::custom("a size cannot be negative"))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse_bytes(text).map_err(E::custom)
        }
    }

    pub(in super::super) fn serialize<T, S>(size: &T, out: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + TryInto<u64>,
        S: Serializer,
    {
        out.serialize_u64((*size).try_into().unwrap_or(u64::MAX))
    }

    pub(in super::super) fn deserialize<'de, T, D>(input: D) -> Result<T, D::Error>
    where
        T: TryFrom<u64>,
        D: Deserializer<'de>,
    {
        let size = input.deserialize_any(BytesVisitor)?;
        T::try_from(size).map_err(|_| de::Error::custom("is too large"))
    }
}

/// Reads a number, in JSON also as a text of hexadecimal digits (`"0x0A"`).
pub(super) mod code {
    use super::*;

    /// A number that may be written in hexadecimal.
    pub(in super::super) struct Code(pub(in super::super) u32);

    struct CodeVisitor;

    impl Visitor<'_> for CodeVisitor {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number from 0 to 4294967295, such as 10 or \"0x0A\"")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u32, E> {
            let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
            digits
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    impl<'de> Deserialize<'de> for Code {
        fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            input.deserialize_any(CodeVisitor).map(Self)
        }
    }

    pub(in super::super) fn byte_option<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u8>, D::Error> {
        let code = Code::deserialize(input)?.0;
        u8::try_from(code).map(Some).map_err(|_| de::Error::custom("must fit in one byte, 0 to 255"))
    }

    pub(in super::super) fn one<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
        Ok(Code::deserialize(input)?.0)
    }

    pub(in super::super) fn option<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
        Ok(Some(Code::deserialize(input)?.0))
    }

    pub(in super::super) fn list<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u32>, D::Error> {
        Ok(Vec::<Code>::deserialize(input)?.into_iter().map(|code| code.0).collect())
    }
}

/// Reads an address (`10.0.0.1`) or a block (`10.0.0.0/8`), of either family.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .map_err(|_| "expected an IP address or a block such as \"10.0.0.0/8\"".to_owned())
}

/// One address or block.
#[derive(Clone, Copy)]
pub(super) struct Net(IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        parse_net(&text).map(Net).map_err(de::Error::custom)
    }
}

/// Addresses and blocks, one or a list, for `#[serde(deserialize_with)]`.
pub(super) fn nets<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    Ok(one_or_many::<Net, D>(input)?.into_iter().map(|net| net.0).collect())
}

/// An optional list of addresses and blocks.
pub(super) fn nets_option<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    Ok(Some(Vec::<Net>::deserialize(input)?.into_iter().map(|net| net.0).collect()))
}

/// An optional address or block.
pub(super) fn net_option<'de, D: Deserializer<'de>>(input: D) -> Result<Option<IpNet>, D::Error> {
    Ok(Some(Net::deserialize(input)?.0))
}

/// A text, or a list of them.
pub(super) fn one_or_many<'de, T, D>(input: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(StrDeserializer::new(text)).map(|one| vec![one])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }

    input.deserialize_any(OneOrMany(PhantomData))
}

/// `status: 1` or `0`, as APISIX writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// 1: in use.
    #[default]
    Enabled,
    /// 0: kept, and as if it were not there.
    Disabled,
}

impl Status {
    /// Whether the object is in use.
    pub fn is_enabled(self) -> bool {
        self == Self::Enabled
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u8(u8::from(self.is_enabled()))
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        match u64::deserialize(input)? {
            0 => Ok(Self::Disabled),
            1 => Ok(Self::Enabled),
            other => Err(de::Error::custom(format_args!("must be 1 (enabled) or 0 (disabled), not {other}"))),
        }
    }
}
