//! Timestamps and durations as proto3 writes them in JSON.

use std::io::Write as _;

use crate::fault::{Checked, fault};

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds since 1970.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// About ten thousand years.
const DURATION_MAX: i64 = 315_576_000_000;

/// Appends a timestamp as a JSON string.
pub(crate) fn put_timestamp(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Checked {
    if !SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return fault(format_args!(
            "a timestamp of {seconds} seconds and {nanos} nanoseconds is out of range"
        ));
    }
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Writing to memory cannot fail.
    let _ = write!(out, "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    put_fraction(out, nanos.unsigned_abs());
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Appends a duration as a JSON string.
pub(crate) fn put_duration(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Checked {
    let is_mixed = (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0);
    if seconds.unsigned_abs() > DURATION_MAX as u64 || nanos.unsigned_abs() > 999_999_999 || is_mixed {
        return fault(format_args!(
            "a duration of {seconds} seconds and {nanos} nanoseconds is out of range"
        ));
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let _ = write!(out, "\"{sign}{}", seconds.unsigned_abs());
    put_fraction(out, nanos.unsigned_abs());
    out.extend_from_slice(b"s\"");
    Ok(())
}

/// None, three, six or nine digits, as many as are needed.
fn put_fraction(out: &mut Vec<u8>, nanos: u32) {
    let _ = match nanos {
        0 => Ok(()),
        _ if nanos.is_multiple_of(1_000_000) => write!(out, ".{:03}", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => write!(out, ".{:06}", nanos / 1_000),
        _ => write!(out, ".{nanos:09}"),
    };
}

/// Seconds and nanoseconds of a timestamp by RFC 3339.
pub(crate) fn parse_timestamp(text: &str) -> Checked<(i64, i32)> {
    match timestamp(text.as_bytes()) {
        Some((seconds, nanos)) if SECONDS.contains(&seconds) => Ok((seconds, nanos)),
        Some(_) => fault(format_args!("{:?} is out of range", crate::fault::shown(text))),
        None => fault(format_args!(
            "{:?} is no timestamp such as \"2026-01-31T12:00:00.5Z\"",
            crate::fault::shown(text)
        )),
    }
}

fn timestamp(text: &[u8]) -> Option<(i64, i32)> {
    let (date, rest) = text.split_first_chunk::<19>()?;
    let separators = [date[4], date[7], date[10].to_ascii_uppercase(), date[13], date[16]];
    if separators != *b"--T::" {
        return None;
    }
    let (year, month, day) = (digits(&date[..4])?, digits(&date[5..7])?, digits(&date[8..10])?);
    let (hour, minute, second) = (digits(&date[11..13])?, digits(&date[14..16])?, digits(&date[17..])?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_of(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, zone) = fraction(rest)?;
    let offset = match zone {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), zone @ ..] if zone.len() == 5 && zone[2] == b':' => {
            let (hours, minutes) = (digits(&zone[..2])?, digits(&zone[3..])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'+' { offset } else { -offset }
        }
        _ => return None,
    };
    Some((days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// Seconds and nanoseconds of a duration such as `-1.5s`.
pub(crate) fn parse_duration(text: &str) -> Checked<(i64, i32)> {
    match duration(text.as_bytes()) {
        Some((seconds, nanos)) if seconds.abs() <= DURATION_MAX => Ok((seconds, nanos)),
        Some(_) => fault(format_args!("{:?} is out of range", crate::fault::shown(text))),
        None => fault(format_args!("{:?} is no duration such as \"1.5s\"", crate::fault::shown(text))),
    }
}

fn duration(text: &[u8]) -> Option<(i64, i32)> {
    let text = text.strip_suffix(b"s")?;
    let (sign, text) = text.strip_prefix(b"-").map_or((1, text), |text| (-1, text));
    let whole = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if whole == 0 || whole > 15 {
        return None;
    }
    let (nanos, rest) = fraction(&text[whole..])?;
    rest.is_empty().then_some(())?;
    Some((sign * digits(&text[..whole])?, sign as i32 * nanos))
}

/// An optional fraction of at most nine digits, and what follows.
fn fraction(text: &[u8]) -> Option<(i32, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 || length > 9 {
        return None;
    }
    let scale = 10_i64.pow(9 - length as u32);
    Some(((digits(&text[..length])? * scale) as i32, &text[length..]))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter()
        .try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, by Howard Hinnant's `days_from_civil`: years begin in
/// March, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The other way.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_comes_back() {
        for day in (-719_162..=2_932_896).step_by(97).chain([-719_162, 2_932_896, 0, -1]) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
            let mut out = Vec::new();
            put_timestamp(&mut out, day * 86_400 + 86_399, 120_000).unwrap();
            let text = std::str::from_utf8(&out[1..out.len() - 1]).unwrap();
            assert_eq!(parse_timestamp(text).unwrap(), (day * 86_400 + 86_399, 120_000), "{text}");
        }
    }

    #[test]
    fn bad_times_are_refused() {
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-00:01",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:60Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00ZZ",
            "+026-01-31T12:00:00Z",
            "2026-01-31 12:00:00Z",
        ] {
            assert!(parse_timestamp(text).is_err(), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "-s",
            "1.s",
            ".5s",
            "1.1234567890s",
            "+1s",
            "315576000001s",
            "9999999999999999s",
            "1e3s",
            "--1s",
            "1s ",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
