//! The `log` section of the boot file.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// What is logged, where to, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Least level of the program's own events on stderr, in the form of
    /// `tracing`'s filters (`info`, `sluice::upstream=debug,warn`). Default `info`.
    pub level: String,
    /// Form of those events. Default `text`.
    pub format: EventFormat,
    /// Where the access log goes: `off`, `stdout` (or `-`), or a file. Default `stdout`.
    pub access: LogTarget,
    /// Request headers the access log shows, lower case. Default `user-agent`
    /// and `referer`. At most 16; headers that carry credentials are refused.
    pub headers: Vec<String>,
    /// Whether `uri` keeps its query. Default yes.
    pub query: bool,
    /// Bytes a logged value may have before it is cut and ends in `…`. Default 2048.
    pub value_max: usize,
    /// Bytes of unwritten lines a worker may hold before it drops (and counts)
    /// new ones. Default 1 MiB.
    pub buffer_max: usize,
    /// One in this many of the requests that went well is logged; whatever was
    /// answered with 400 or more, blocked or broken always is. Default 1, all.
    pub sample: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: EventFormat::Text,
            access: LogTarget::Stdout,
            headers: vec!["user-agent".into(), "referer".into()],
            query: true,
            value_max: 2048,
            buffer_max: 1 << 20,
            sample: 1,
        }
    }
}

/// The form of the program's own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// One JSON object a line.
    Json,
    /// For a reader at a terminal.
    Text,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to, opened again by [`LogWriter::reopen`](super::LogWriter::reopen).
    File(PathBuf),
}

impl From<String> for LogTarget {
    fn from(text: String) -> Self {
        match text.as_str() {
            "off" => Self::Off,
            "stdout" | "-" | "/dev/stdout" => Self::Stdout,
            _ => Self::File(text.into()),
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

const CREDENTIALS: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-sluice-path"];

impl LogConfig {
    /// Checks ranges and names; the message names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.headers.len() > 16 {
            return Err(format!("log.headers: {} names, at most 16", self.headers.len()));
        }
        for name in &self.headers {
            let is_token =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_token) {
                return Err(format!("log.headers: `{name}` is no lower-case header name"));
            }
            if CREDENTIALS.contains(&name.as_str()) {
                return Err(format!("log.headers: `{name}` carries credentials and is never logged"));
            }
        }
        let range = |field: &str, value: usize, least: usize, most: usize| match value {
            value if value < least || value > most => {
                Err(format!("log.{field}: {value} is not between {least} and {most}"))
            }
            _ => Ok(()),
        };
        range("value_max", self.value_max, 64, 65_536)?;
        range("buffer_max", self.buffer_max, 65_536, 64 << 20)?;
        range("sample", self.sample as usize, 1, 1_000_000)?;
        super::events::filter("log.level", &self.level)?;
        if self.access == LogTarget::File(PathBuf::new()) {
            return Err("log.access: empty; write `off`, `stdout` or a path".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_settings_are_named() {
        let base = LogConfig::default;
        let table: [(LogConfig, &str); 8] = [
            (LogConfig { level: "a=b=c".into(), ..base() }, "log.level: `a=b=c`"),
            (
                LogConfig { headers: vec!["Authorization".into()], ..base() },
                "`Authorization` is no lower-case",
            ),
            (LogConfig { headers: vec!["cookie".into()], ..base() }, "`cookie` carries credentials"),
            (LogConfig { headers: vec![String::new()], ..base() }, "`` is no lower-case"),
            (LogConfig { headers: vec!["a".into(); 17], ..base() }, "17 names, at most 16"),
            (LogConfig { value_max: 1, ..base() }, "log.value_max: 1 is not between 64 and 65536"),
            (LogConfig { sample: 0, ..base() }, "log.sample: 0"),
            (LogConfig { access: LogTarget::from(String::new()), ..base() }, "log.access: empty"),
        ];
        for (config, message) in table {
            let error = config.validate().unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        LogConfig::default().validate().unwrap();
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let error = serde_json::from_str::<LogConfig>(r#"{"acces": "off"}"#).unwrap_err();
        assert!(error.to_string().contains("acces"), "{error}");
        let config: LogConfig = serde_json::from_str(r#"{"access": "off"}"#).unwrap();
        assert_eq!(config.access, LogTarget::Off);
    }
}
