//! Work that runs by itself.

use crate::Plugin;

/// Runs by itself, on one instance of a node, as often as the interest says.
///
/// ```
/// use std::time::Duration;
///
/// use sluice_sdk::prelude::*;
/// use sluice_sdk::{fetch, key_value::Namespace};
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     /// Where the list is; its host must be granted.
///     url: String,
/// }
///
/// /// Keeps a list from elsewhere at hand for the filters of this plugin.
/// struct Refresh {
///     config: Config,
/// }
///
/// impl Plugin for Refresh {
///     type Config = Config;
///
///     fn new(config: Config) -> Result<Self, ConfigError> {
///         Ok(Self { config })
///     }
///
///     fn interest(&self) -> Interest {
///         Interest::new().timer(Duration::from_secs(60))
///     }
/// }
///
/// impl Timer for Refresh {
///     fn tick(&mut self) -> Result<(), String> {
///         let answer = fetch::Request::get(&self.config.url)
///             .timeout(Duration::from_secs(2))
///             .send()
///             .map_err(|error| error.to_string())?;
///         if answer.status != 200 {
///             return Err(format!("{} answers {}", self.config.url, answer.status));
///         }
///         Namespace::node("lists")
///             .set("blocked", &answer.body, Duration::from_secs(600))
///             .map_err(|error| error.to_string())
///     }
/// }
///
/// sluice_sdk::export!(Refresh: Timer);
/// # fn main() {}
/// ```
pub trait Timer: Plugin {
    /// One run.
    ///
    /// # Errors
    ///
    /// What went wrong, for the log. The next run comes as planned.
    fn tick(&mut self) -> Result<(), String>;
}
