//! What every plugin is.

use serde::de::DeserializeOwned;

use crate::{ConfigError, Interest};

/// A plugin: made of its configuration, once an instance. Where each exchange has an
/// instance of its own, it is made once for all of them, and each begins with a copy.
///
/// The traits beside this one say what it does; [`export!`](crate::export) names
/// those it implements.
pub trait Plugin: Sized + 'static {
    /// The `config` of the module object, overlaid field by field at the top
    /// level with what the route says under `plugins`. Derive
    /// `serde::Deserialize` with `deny_unknown_fields`, so that a misspelt field
    /// is an error the operator sees; `()` is a plugin without configuration.
    type Config: DeserializeOwned;

    /// Makes an instance. What takes long, such as compiling rules, is done here:
    /// it is off the way of requests.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration. The version that runs stays.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// Which calls the instance wants. Asked once, after [`Plugin::new`].
    fn interest(&self) -> Interest;
}

/// Makes an instance of the text the host gives.
#[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "called by the exported components"))]
pub(crate) fn configure<P: Plugin>(text: &str) -> Result<(P, Interest), ConfigError> {
    let plugin = P::new(settings::<P>(text)?)?;
    let interest = plugin.interest();
    Ok((plugin, interest))
}

/// Reads a configuration.
pub(crate) fn settings<P: Plugin>(text: &str) -> Result<P::Config, ConfigError> {
    // A plugin without configuration takes any object that is empty.
    let text = if std::mem::size_of::<P::Config>() == 0 && is_empty_object(text) {
        nothing::<P::Config>(text)
    } else {
        text
    };
    crate::config::parse(text)
}

fn is_empty_object(text: &str) -> bool {
    let text = text.trim();
    text.is_empty()
        || text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .is_some_and(|text| text.trim().is_empty())
}

/// `null` where the type is `()`, which does not read `{}`; else the text.
fn nothing<C: DeserializeOwned>(text: &str) -> &str {
    if serde_json::from_str::<C>("null").is_ok() { "null" } else { text }
}
