//! Numbers from their digits.

/// Why digits are not the number that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadNumber {
    /// They are no number at all.
    NoNumber,
    NoInteger,
    OutOfRange,
}

impl BadNumber {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::NoNumber => "is not a number",
            Self::NoInteger => "is not an integer",
            Self::OutOfRange => "is out of range",
        }
    }
}

/// Sign and magnitude of an integer in decimal: `12`, `-3`, also `1.20e1`, by
/// the grammar of JSON. Exact, and in time that grows with the digits alone.
#[inline]
pub(crate) fn integer(text: &[u8]) -> Result<(bool, u64), BadNumber> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // 19 digits cannot overflow.
    if digits.is_empty() || digits.len() > 19 || (digits[0] == b'0' && digits.len() > 1) {
        return long(digits).map(|magnitude| (is_negative, magnitude));
    }
    let mut magnitude = 0_u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return long(digits).map(|magnitude| (is_negative, magnitude));
        }
        magnitude = magnitude * 10 + u64::from(digit);
    }
    Ok((is_negative, magnitude))
}

/// With a fraction or an exponent, or more digits.
#[cold]
fn long(text: &[u8]) -> Result<u64, BadNumber> {
    let (whole, rest) = split_digits(text);
    if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return Err(BadNumber::NoNumber);
    }
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => match split_digits(rest) {
            ([], _) => return Err(BadNumber::NoNumber),
            split => split,
        },
        rest => (&[][..], rest),
    };
    let exponent = match rest {
        [] => 0,
        [b'e' | b'E', rest @ ..] => exponent(rest)?,
        _ => return Err(BadNumber::NoNumber),
    };
    // The digits as one number, times ten to the power of `scale`.
    let mut digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
    let mut scale = exponent.saturating_sub(fraction.len() as i64);
    let significant = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |at| at + 1);
    if significant == 0 {
        return Ok(0);
    }
    scale = scale.saturating_add((digits.len() - significant) as i64);
    digits.truncate(significant);
    if scale < 0 {
        return Err(BadNumber::NoInteger);
    }
    let mut magnitude = 0_u64;
    let zeros = usize::try_from(scale.min(20)).unwrap_or(20);
    for digit in digits.into_iter().chain(std::iter::repeat_n(b'0', zeros)) {
        magnitude = magnitude
            .checked_mul(10)
            .and_then(|magnitude| magnitude.checked_add(u64::from(digit - b'0')))
            .ok_or(BadNumber::OutOfRange)?;
    }
    Ok(magnitude)
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

fn exponent(text: &[u8]) -> Result<i64, BadNumber> {
    let (is_negative, text) = match text {
        [b'-', text @ ..] => (true, text),
        [b'+', text @ ..] => (false, text),
        text => (false, text),
    };
    let (digits, rest) = split_digits(text);
    if digits.is_empty() || !rest.is_empty() {
        return Err(BadNumber::NoNumber);
    }
    // Past any number of digits a text can have it makes no difference.
    let value = digits.iter().fold(0_i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1 << 48));
    Ok(if is_negative { -value } else { value })
}

/// An integer with a sign, within `min..=max`.
#[inline]
pub(crate) fn signed(text: &[u8], min: i64, max: i64) -> Result<i64, BadNumber> {
    let (is_negative, magnitude) = integer(text)?;
    let value =
        if is_negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    value.filter(|value| (min..=max).contains(value)).ok_or(BadNumber::OutOfRange)
}

/// An integer without a sign, at most `max`.
#[inline]
pub(crate) fn unsigned(text: &[u8], max: u64) -> Result<u64, BadNumber> {
    match integer(text)? {
        (true, magnitude) if magnitude > 0 => Err(BadNumber::OutOfRange),
        (_, magnitude) if magnitude > max => Err(BadNumber::OutOfRange),
        (_, magnitude) => Ok(magnitude),
    }
}

/// A floating point number by JSON's grammar, which the caller has checked.
pub(crate) fn double(text: &[u8]) -> Result<f64, BadNumber> {
    let value: f64 = parse(text)?;
    if value.is_finite() { Ok(value) } else { Err(BadNumber::OutOfRange) }
}

/// The same of single precision, rounded once.
pub(crate) fn float(text: &[u8]) -> Result<f32, BadNumber> {
    let value: f32 = parse(text)?;
    if value.is_finite() { Ok(value) } else { Err(BadNumber::OutOfRange) }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Result<T, BadNumber> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(BadNumber::NoNumber)
}

/// Whether a text is a number by JSON's grammar.
pub(crate) fn is_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, rest) = split_digits(digits);
    let rest = match rest {
        [b'.', rest @ ..] => match split_digits(rest) {
            ([], _) => return false,
            (_, rest) => rest,
        },
        rest => rest,
    };
    let is_whole = !whole.is_empty() && (whole.len() == 1 || whole[0] != b'0');
    is_whole
        && match rest {
            [] => true,
            [b'e' | b'E', rest @ ..] => exponent(rest).is_ok(),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_in_all_their_forms() {
        for (text, wanted) in [
            ("0", Ok((false, 0))),
            ("-0", Ok((true, 0))),
            ("18446744073709551615", Ok((false, u64::MAX))),
            ("18446744073709551616", Err(BadNumber::OutOfRange)),
            ("99999999999999999999", Err(BadNumber::OutOfRange)),
            ("1.0", Ok((false, 1))),
            ("1.20e1", Ok((false, 12))),
            ("-1e3", Ok((true, 1000))),
            ("100e-2", Ok((false, 1))),
            ("0.000e999999999999999999", Ok((false, 0))),
            ("1e999999999999999999", Err(BadNumber::OutOfRange)),
            ("1e-999999999999999999", Err(BadNumber::NoInteger)),
            ("0.5", Err(BadNumber::NoInteger)),
            ("", Err(BadNumber::NoNumber)),
            ("-", Err(BadNumber::NoNumber)),
            ("+1", Err(BadNumber::NoNumber)),
            ("01", Err(BadNumber::NoNumber)),
            ("1.", Err(BadNumber::NoNumber)),
            (".1", Err(BadNumber::NoNumber)),
            ("1e", Err(BadNumber::NoNumber)),
            ("1e+", Err(BadNumber::NoNumber)),
            ("0x10", Err(BadNumber::NoNumber)),
            ("1 ", Err(BadNumber::NoNumber)),
            ("--1", Err(BadNumber::NoNumber)),
        ] {
            assert_eq!(integer(text.as_bytes()), wanted, "{text}");
            assert_eq!(is_number(text.as_bytes()), wanted != Err(BadNumber::NoNumber), "{text}");
        }
    }

    #[test]
    fn limits_hold_on_both_sides() {
        assert_eq!(signed(b"-9223372036854775808", i64::MIN, i64::MAX), Ok(i64::MIN));
        assert_eq!(signed(b"-9223372036854775809", i64::MIN, i64::MAX), Err(BadNumber::OutOfRange));
        assert_eq!(signed(b"9223372036854775807", i64::MIN, i64::MAX), Ok(i64::MAX));
        assert_eq!(unsigned(b"-0", 9), Ok(0));
        assert_eq!(unsigned(b"-1", 9), Err(BadNumber::OutOfRange));
        assert_eq!(unsigned(b"10", 9), Err(BadNumber::OutOfRange));
        assert_eq!(float(b"3.4028235e38"), Ok(f32::MAX));
        assert_eq!(float(b"3.5e38"), Err(BadNumber::OutOfRange));
        assert_eq!(double(b"1e309"), Err(BadNumber::OutOfRange));
    }
}
