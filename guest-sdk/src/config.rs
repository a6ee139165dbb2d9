//! Configuration: JSON in, the plugin's own type out, or an error for the operator.

use std::fmt;

use serde::de::DeserializeOwned;

/// Why a configuration is refused. The operator reads it, so it names the field
/// and the value.
///
/// ```
/// use sluice_sdk::ConfigError;
///
/// let error = ConfigError::new("ports[2]", 70000, "a port is at most 65535");
/// assert_eq!(error.to_string(), "ports[2]: 70000: a port is at most 65535");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
}

impl ConfigError {
    /// `field` is the path of the field, as in `rules[3].action`, `value` is what
    /// stands there, `reason` is what is wrong with it.
    pub fn new(field: &str, value: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { message: format!("{field}: {value}: {reason}") }
    }

    /// An error of the configuration as a whole.
    pub fn whole(reason: impl fmt::Display) -> Self {
        Self { message: reason.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The longest part of a value that an error shows, in bytes.
const SHOWN_MAX: usize = 100;

/// Reads a configuration. An empty text counts as an object without fields.
pub(crate) fn parse<C: DeserializeOwned>(text: &str) -> Result<C, ConfigError> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let mut source = serde_json::Deserializer::from_str(text);
    let config = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        if error.inner().is_syntax() || error.inner().is_eof() {
            return ConfigError::whole(format_args!("not JSON: {}", error.inner()));
        }
        let path = error.path().to_string();
        let reason = reason(error.inner());
        // A field that is missing or unknown stands in the reason; the path is
        // that of the object around it.
        match value_at(text, error.path()) {
            Some(value) if path != "." => ConfigError::new(&path, value, reason),
            _ => ConfigError::whole(reason),
        }
    })?;
    source.end().map_err(|error| ConfigError::whole(format_args!("not one JSON value: {error}")))?;
    Ok(config)
}

/// The reason without the place in the text: the operator wrote YAML, or fields
/// of two objects that were joined.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The value a path points at, cut to a length that can be read.
fn value_at(text: &str, path: &serde_path_to_error::Path) -> Option<String> {
    let root: serde_json::Value = serde_json::from_str(text).ok()?;
    let mut value = &root;
    for segment in path {
        value = match segment {
            serde_path_to_error::Segment::Seq { index } => value.get(index)?,
            serde_path_to_error::Segment::Map { key } => value.get(key)?,
            // The name of a variant is not a step into the JSON when variants
            // are told apart by a field.
            serde_path_to_error::Segment::Enum { variant } => value.get(variant).unwrap_or(value),
            serde_path_to_error::Segment::Unknown => return None,
        };
    }
    let mut shown = value.to_string();
    if shown.len() > SHOWN_MAX {
        let end = (0..=SHOWN_MAX).rev().find(|&end| shown.is_char_boundary(end)).unwrap_or(0);
        shown.truncate(end);
        shown.push('\u{2026}');
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        #[allow(dead_code, reason = "read by the derived Debug alone")]
        status: u16,
    }

    fn error(text: &str) -> String {
        parse::<Config>(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_field_and_the_value() {
        assert_eq!(
            error(r#"{"rules": [{"status": 1}, {"status": 70000}]}"#),
            "rules[1].status: 70000: invalid value: integer `70000`, expected u16"
        );
        assert_eq!(
            error(r#"{"rules": [{"status": "x"}]}"#),
            "rules[0].status: \"x\": invalid type: string \"x\", expected u16"
        );
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        assert!(error(r#"{"rule": []}"#).contains("unknown field `rule`"), "{}", error(r#"{"rule": []}"#));
        assert!(error(r#"{"rules": [{}]}"#).starts_with("rules[0]"), "{}", error(r#"{"rules": [{}]}"#));
        assert!(error(r#"{"rules": [{}]}"#).contains("missing field `status`"));
    }

    #[test]
    fn an_empty_text_is_an_empty_object() {
        assert!(parse::<Config>(" ").unwrap().rules.is_empty());
    }

    #[test]
    fn what_is_not_json_says_where() {
        assert!(error("{").starts_with("not JSON: "), "{}", error("{"));
        assert!(error("{} {}").starts_with("not one JSON value: "), "{}", error("{} {}"));
    }
}
