//! Moments: seconds since 1970, or a text such as `2030-01-01T00:00:00Z`.

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Seconds(i64),
    Text(String),
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<i64>, D::Error> {
    let wrong = |shown: &dyn std::fmt::Display| {
        D::Error::custom(format!("{shown} is no moment such as 2030-01-01T00:00:00Z, or seconds since 1970"))
    };
    match Option::<Form>::deserialize(input)? {
        None => Ok(None),
        Some(Form::Seconds(seconds)) => {
            Timestamp::from_second(seconds).map(|_| Some(seconds)).map_err(|_| wrong(&seconds))
        }
        Some(Form::Text(text)) => {
            text.parse::<Timestamp>().map(|time| Some(time.as_second())).map_err(|_| wrong(&text))
        }
    }
}

#[allow(clippy::ref_option, reason = "serde asks with a reference")]
pub(super) fn serialize<S: Serializer>(time: &Option<i64>, out: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(seconds) => out.collect_str(&shown(*seconds)),
        None => out.serialize_none(),
    }
}

/// A moment, in seconds since 1970, as it is written: `2030-01-01T00:00:00Z`.
#[must_use]
pub fn shown(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}
