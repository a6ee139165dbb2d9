//! What a new configuration means for those who rely on the old one.

use crate::{ConfigError, Plugin};

/// Tells what clients written for an old configuration would stumble over. Asked
/// once, beside the traffic, when a configuration takes the place of another; the
/// operator sees the answer.
///
/// ```
/// use sluice_sdk::prelude::*;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     /// Paths that are answered.
///     paths: Vec<String>,
/// }
///
/// /// Answers some paths itself.
/// struct Answers {
///     config: Config,
/// }
///
/// impl Plugin for Answers {
///     type Config = Config;
///
///     fn new(config: Config) -> Result<Self, ConfigError> {
///         Ok(Self { config })
///     }
///
///     fn interest(&self) -> Interest {
///         Interest::new().request_head()
///     }
/// }
///
/// impl RequestFilter for Answers {
///     fn on_head(&mut self, _: ExchangeId, head: RequestHead<'_>, _: bool) -> HeadVerdict {
///         match self.config.paths.iter().any(|path| *path == *head.path()) {
///             true => Denial::new(200, "answer").text("here").into(),
///             false => HeadVerdict::Accept,
///         }
///     }
/// }
///
/// impl Comparison for Answers {
///     fn breaking(&self, old: Config) -> Result<Vec<String>, ConfigError> {
///         let gone = old.paths.iter().filter(|path| !self.config.paths.contains(path));
///         Ok(gone.map(|path| format!("{path}: is gone")).collect())
///     }
/// }
///
/// sluice_sdk::export!(Answers: RequestFilter, Comparison);
/// # fn main() {}
/// ```
pub trait Comparison: Plugin {
    /// What would break a client of `old`, a short text each that begins with what
    /// it is about; empty when nothing would.
    ///
    /// # Errors
    ///
    /// Why `old` cannot be compared.
    fn breaking(&self, old: Self::Config) -> Result<Vec<String>, ConfigError>;
}
