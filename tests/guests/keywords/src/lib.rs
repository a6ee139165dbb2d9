//! A filter that refuses requests with certain words, for benchmarks: it looks
//! at the target and the user agent, and at the body where it is told to.

use aho_corasick::AhoCorasick;
use sluice_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What is refused, whatever its capitals. None: nothing is looked at.
    words: Vec<String>,
    /// Whether bodies are looked at, up to 64 KiB of them.
    #[serde(default)]
    body: bool,
}

struct Keywords {
    words: Option<AhoCorasick>,
    body: bool,
}

impl Keywords {
    fn finds(&self, text: &[u8]) -> bool {
        self.words.as_ref().is_some_and(|words| words.is_match(text))
    }
}

fn refusal() -> Denial {
    Denial::new(403, "keyword").text("refused\n")
}

impl Plugin for Keywords {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let words = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(&config.words)
            .map_err(|error| ConfigError::new("words", format_args!("{:?}", config.words), error))?;
        Ok(Self { words: (!config.words.is_empty()).then_some(words), body: config.body })
    }

    fn interest(&self) -> Interest {
        let interest = Interest::new().request_head().request_fields(["user-agent"]);
        if self.body { interest.request_body(64 << 10) } else { interest }
    }
}

impl RequestFilter for Keywords {
    fn on_head(&mut self, _: ExchangeId, head: RequestHead<'_>, end: bool) -> HeadVerdict {
        if self.finds(head.target()) || head.field("user-agent").is_some_and(|agent| self.finds(agent)) {
            return refusal().into();
        }
        if self.body && !end { HeadVerdict::Accept } else { HeadVerdict::Done }
    }

    fn on_body(&mut self, _: ExchangeId, chunk: Vec<u8>, _: bool) -> ChunkVerdict {
        // The host shows a body in one piece.
        if self.finds(&chunk) { refusal().into() } else { ChunkVerdict::Forward }
    }
}

sluice_sdk::export!(Keywords: RequestFilter);
