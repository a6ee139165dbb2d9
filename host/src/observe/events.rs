//! The program's own events: start, changes, faults, on standard error.
//!
//! Requests and connections are not events; they are in the access log.

use tracing_subscriber::EnvFilter;

use super::log_config::{EventFormat, LogConfig};

/// Makes `tracing`'s events go to standard error as configured. `RUST_LOG` in
/// the environment is preferred to `log.level`. Called once, by the program.
///
/// # Errors
/// When the level is no filter, or events already go somewhere.
pub fn start_events(config: &LogConfig) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => filter("RUST_LOG", &text)?,
        _ => filter("log.level", &config.level)?,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = match config.format {
        EventFormat::Json => builder.json().flatten_event(true).try_init(),
        EventFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            builder.with_ansi(is_terminal && !no_colour).try_init()
        }
    };
    outcome.map_err(|error| format!("log: {error}"))
}

/// Parses a filter; the message names the field.
pub(super) fn filter(field: &str, text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("{field}: `{text}`: {error}"))
}
