//! Filters of requests and responses.

use crate::{ChunkVerdict, ExchangeId, HeadVerdict, Plugin, RequestHead, ResponseHead};

/// Looks at requests on their way to the upstream.
///
/// ```
/// use sluice_sdk::prelude::*;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     /// Words that no comment may hold.
///     words: Vec<String>,
///     /// The longest comment, in bytes.
///     #[serde(default = "bytes_max")]
///     bytes_max: u32,
/// }
///
/// fn bytes_max() -> u32 {
///     64 * 1024
/// }
///
/// /// Keeps comments with certain words out.
/// struct Words {
///     config: Config,
///     bodies: Exchanges<Vec<u8>>,
/// }
///
/// impl Plugin for Words {
///     type Config = Config;
///
///     fn new(config: Config) -> Result<Self, ConfigError> {
///         if let Some(place) = config.words.iter().position(String::is_empty) {
///             return Err(ConfigError::new(&format!("words[{place}]"), "\"\"", "an empty word is in every text"));
///         }
///         Ok(Self { config, bodies: Exchanges::new(1024) })
///     }
///
///     fn interest(&self) -> Interest {
///         Interest::new().request_body(self.config.bytes_max).request_fields(["content-type"])
///     }
/// }
///
/// impl RequestFilter for Words {
///     fn on_head(&mut self, _: ExchangeId, head: RequestHead<'_>, end: bool) -> HeadVerdict {
///         let is_text = head.field("content-type").is_some_and(|kind| kind.starts_with(b"text/"));
///         if end || !is_text { HeadVerdict::Done } else { HeadVerdict::Accept }
///     }
///
///     fn on_body(&mut self, exchange: ExchangeId, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
///         // A word may be cut in two by pieces, so it is looked for in the whole.
///         let mut body = self.bodies.remove(exchange).unwrap_or_default();
///         body.extend_from_slice(&chunk);
///         if !end {
///             self.bodies.insert(exchange, body);
///             return ChunkVerdict::Hold;
///         }
///         let text = String::from_utf8_lossy(&body);
///         match self.config.words.iter().find(|word| text.contains(*word)) {
///             Some(word) => Denial::new(422, "words").text(format!("{word:?} is not for here\n")).into(),
///             None => ChunkVerdict::Forward,
///         }
///     }
/// }
///
/// sluice_sdk::export!(Words: RequestFilter);
/// # fn main() {}
/// ```
pub trait RequestFilter: Plugin {
    /// Decides about a head. `end` says that no body follows. When bodies were
    /// asked for, the head waits until the body's first verdict that lets it go on,
    /// or the body's end.
    fn on_head(&mut self, exchange: ExchangeId, head: RequestHead<'_>, end: bool) -> HeadVerdict {
        let _ = (exchange, head, end);
        HeadVerdict::Accept
    }

    /// Decides about a piece of a body. Pieces come in order; the last one has
    /// `end` set and may be empty.
    fn on_body(&mut self, exchange: ExchangeId, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
        let _ = (exchange, chunk, end);
        ChunkVerdict::Forward
    }
}

/// Looks at responses on their way to the client.
///
/// ```
/// use sluice_sdk::prelude::*;
///
/// /// Takes away what tells strangers which software answers.
/// struct Quiet;
///
/// impl Plugin for Quiet {
///     type Config = ();
///
///     fn new(_: ()) -> Result<Self, ConfigError> {
///         Ok(Self)
///     }
///
///     fn interest(&self) -> Interest {
///         Interest::new().response_head().response_fields(["server", "x-powered-by"])
///     }
/// }
///
/// impl ResponseFilter for Quiet {
///     fn on_head(&mut self, _: ExchangeId, head: ResponseHead<'_>, _: bool) -> HeadVerdict {
///         head.fields().fold(Edits::new(), |edits, (name, _)| edits.remove_field(name)).into()
///     }
/// }
///
/// sluice_sdk::export!(Quiet: ResponseFilter);
/// # fn main() {}
/// ```
pub trait ResponseFilter: Plugin {
    /// Decides about a head. `end` says that no body follows.
    fn on_head(&mut self, exchange: ExchangeId, head: ResponseHead<'_>, end: bool) -> HeadVerdict {
        let _ = (exchange, head, end);
        HeadVerdict::Accept
    }

    /// Decides about a piece of a body. Pieces come in order; the last one has
    /// `end` set and may be empty.
    fn on_body(&mut self, exchange: ExchangeId, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
        let _ = (exchange, chunk, end);
        ChunkVerdict::Forward
    }
}
