//! A filter to begin with: it adds a field to every request on its way to the
//! upstream, and answers one path itself.

use sluice_sdk::prelude::*;

/// What the module object, or a route, says under `config`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The value of the field `x-hello`.
    #[serde(default = "greeting")]
    greeting: String,
    /// A path that is answered here, with the greeting.
    #[serde(default)]
    answer: Option<String>,
}

fn greeting() -> String {
    "hello from Rust".to_owned()
}

struct Hello {
    config: Config,
}

impl Plugin for Hello {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        match &config.answer {
            Some(path) if !path.starts_with('/') => {
                Err(ConfigError::new("answer", format_args!("{path:?}"), "a path begins with /"))
            }
            _ => Ok(Self { config }),
        }
    }

    fn interest(&self) -> Interest {
        // The host copies no field of the request that is not named here.
        Interest::new().request_head().request_fields(["x-hello"])
    }
}

impl RequestFilter for Hello {
    fn on_head(&mut self, _: ExchangeId, head: RequestHead<'_>, _: bool) -> HeadVerdict {
        sluice_sdk::metrics::add("greetings", 1);
        if self.config.answer.as_deref() == Some(&*head.path()) {
            return Denial::new(200, "hello").text(format!("{}\n", self.config.greeting)).into();
        }
        Edits::new().set_field("x-hello", &self.config.greeting).into()
    }
}

sluice_sdk::export!(Hello: RequestFilter);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Host, Outcome, Request, Tester};

    use super::*;

    #[test]
    fn requests_are_greeted() {
        let host = Host::install();
        let mut plugin = Tester::<Hello>::new(r#"{"greeting": "good day"}"#).expect("a good configuration");
        let Outcome::Forwarded(request) =
            plugin.request(&Request::new("GET", "/").field("x-hello", "forged"))
        else {
            panic!("the request goes on");
        };
        assert_eq!(request.get("x-hello").as_deref(), Some("good day"));
        assert_eq!(host.counter("greetings"), 1);
    }

    #[test]
    fn one_path_is_answered() {
        let mut plugin = Tester::<Hello>::new(r#"{"answer": "/hello"}"#).expect("a good configuration");
        let Outcome::Denied(answer) = plugin.request(&Request::new("GET", "/hello?again")) else {
            panic!("the plugin answers");
        };
        assert_eq!((answer.status, &*answer.body), (200, &b"hello from Rust\n"[..]));
    }

    #[test]
    fn a_bad_configuration_is_named() {
        let error =
            |config: &str| Tester::<Hello>::new(config).err().expect("a bad configuration").to_string();
        assert_eq!(error(r#"{"answer": "hello"}"#), r#"answer: "hello": a path begins with /"#);
        assert!(error(r#"{"greeting": 5}"#).starts_with("greeting: 5: "));
    }
}
