//! Files of cases: what goes in, and what is expected to come out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::function::request_head;
use crate::message::{self, Method, RequestHead};

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cases {
    /// What `configure` is given.
    #[serde(default)]
    pub(super) config: serde_json::Map<String, serde_json::Value>,
    /// As in a module object.
    #[serde(default)]
    pub(super) grants: Grants,
    pub(super) cases: Vec<Case>,
}

/// What the module is granted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grants {
    #[serde(default)]
    pub(super) kv: Vec<String>,
    #[serde(default)]
    pub(super) fetch: Vec<String>,
}

/// One case: exactly one thing that happens, and what is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    request: Option<Request>,
    response: Option<Response>,
    frames: Option<Vec<Frame>>,
    tick: Option<Nothing>,
    encode: Option<Encode>,
    decode: Option<Decode>,
    expect: serde_json::Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What a case does, with what is expected of it.
#[derive(Debug)]
pub(super) enum Step {
    Request(Request, Expected),
    Response(Response, Expected),
    Frames(Vec<Frame>, Vec<ExpectedFrame>),
    Tick(ExpectedTick),
    Encode(Box<RequestHead>, Encode, ExpectedFrameBody),
    Decode(Decode, ExpectedText),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    #[serde(default = "get")]
    pub(super) method: String,
    #[serde(default)]
    pub(super) scheme: Scheme,
    #[serde(default = "localhost")]
    pub(super) authority: String,
    /// With its query.
    #[serde(default = "slash")]
    pub(super) path: String,
    /// The client's address.
    #[serde(default = "loopback")]
    pub(super) peer: IpAddr,
    /// Fields, in the order in which they stand.
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(super) body: Body,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    Http,
    #[default]
    Https,
}

fn get() -> String {
    "GET".to_owned()
}

fn localhost() -> String {
    "localhost".to_owned()
}

fn slash() -> String {
    "/".to_owned()
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Response {
    pub(super) status: u16,
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(super) body: Body,
}

/// A body: one text, or the texts of the pieces in which it comes.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Body {
    #[default]
    None,
    Whole(String),
    Pieces(Vec<String>),
}

impl Body {
    pub(super) fn pieces(&self) -> Vec<&[u8]> {
        match self {
            Self::None => Vec::new(),
            Self::Whole(text) => vec![text.as_bytes()],
            Self::Pieces(texts) => texts.iter().map(String::as_bytes).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Frame {
    #[serde(default)]
    pub(super) command: u64,
    #[serde(default)]
    pub(super) sequence: u64,
    #[serde(default)]
    pub(super) user: u64,
    #[serde(default)]
    pub(super) body: Octets,
}

/// Bytes: a text, or `{hex: "0a03…"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Octets(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Hex(Hex),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Hex {
            hex: String,
        }
        match Form::deserialize(input)? {
            Form::Text(text) => Ok(Self(text.into_bytes())),
            Form::Hex(Hex { hex }) => octets(&hex)
                .map(Self)
                .ok_or_else(|| serde::de::Error::custom(format!("{hex:?} is no hexadecimal"))),
        }
    }
}

/// The bytes of hexadecimal digits, which may have spaces between them.
fn octets(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        hex.chars().filter(|c| *c != ' ').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high << 4 | low).ok(),
        _ => None,
    });
    pairs.collect()
}

/// A request that a transcoder makes a frame of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Encode {
    #[serde(default = "post")]
    pub(super) method: String,
    #[serde(default = "slash")]
    pub(super) path: String,
    #[serde(default)]
    pub(super) body: String,
    /// Who the caller is, where that is known.
    pub(super) user: Option<u64>,
}

impl Encode {
    fn head(&self) -> RequestHead {
        request_head(Method::of(&self.method), message::Scheme::Https, "localhost", &self.path, &[])
    }
}

fn post() -> String {
    "POST".to_owned()
}

/// A reply that a transcoder makes JSON of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decode {
    /// The command that was sent.
    pub(super) request: u32,
    /// The command of the reply.
    pub(super) reply: u32,
    #[serde(default)]
    pub(super) body: Octets,
}

/// What is expected of a message; what is not named is not looked at.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) verdict: Option<Verdict>,
    pub(super) status: Option<u16>,
    pub(super) rule: Option<String>,
    /// Fields the message, or the answer, has then; an empty value: it has none
    /// of this name.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// The body that goes on, or the answer's.
    pub(super) body: Option<String>,
}

/// The words for what becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Accept,
    Done,
    Edit,
    Deny,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Done => "done",
            Self::Edit => "edit",
            Self::Deny => "deny",
        })
    }
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedFrame {
    pub(super) verdict: String,
    /// Of a frame that is dropped or a connection that is closed.
    pub(super) word: Option<String>,
    /// Of a frame that is rewritten or answered.
    pub(super) body: Option<Octets>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedTick {
    /// How the error begins; none: there is no error.
    pub(super) error: Option<String>,
}

/// A frame a transcoder makes, or the status of its refusal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedFrameBody {
    pub(super) command: Option<u32>,
    pub(super) reply: Option<u32>,
    pub(super) body: Option<Octets>,
    pub(super) status: Option<u16>,
}

/// JSON a transcoder makes, or the status of its refusal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedText {
    pub(super) body: Option<String>,
    pub(super) status: Option<u16>,
}

impl Cases {
    /// Reads a file of cases.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&text).context(shown)
    }

    fn parse(text: &str) -> Result<Self> {
        let cases: Self = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
        if cases.cases.is_empty() {
            bail!("cases: [] holds no case");
        }
        Ok(cases)
    }
}

impl Case {
    /// What to do.
    pub(super) fn step(self) -> Result<Step> {
        let Self { request, response, frames, tick, encode, decode, expect, .. } = self;
        match (request, response, frames, tick, encode, decode) {
            (Some(request), None, None, None, None, None) => Ok(Step::Request(request, expected(expect)?)),
            (None, Some(response), None, None, None, None) => Ok(Step::Response(response, expected(expect)?)),
            (None, None, Some(frames), None, None, None) => {
                let expected: Vec<ExpectedFrame> = expected(expect)?;
                if expected.len() != frames.len() {
                    bail!("expect: {} verdicts for {} frames", expected.len(), frames.len());
                }
                Ok(Step::Frames(frames, expected))
            }
            (None, None, None, Some(Nothing {}), None, None) => Ok(Step::Tick(expected(expect)?)),
            (None, None, None, None, Some(encode), None) => {
                Ok(Step::Encode(Box::new(encode.head()), encode, expected(expect)?))
            }
            (None, None, None, None, None, Some(decode)) => Ok(Step::Decode(decode, expected(expect)?)),
            _ => bail!("a case has one of request, response, frames, tick, encode and decode"),
        }
    }
}

/// Reads what is expected, once it is known of what; errors name the field.
fn expected<T: DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| anyhow::anyhow!("expect.{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly() {
        let step = |case: &str| {
            let mut cases = Cases::parse(&format!("cases:\n  - {case}\n"))?;
            cases.cases.remove(0).step()
        };
        assert!(step("{name: a, request: {}, expect: {verdict: accept}}").is_ok());
        assert!(step("{name: a, frames: [{body: x}], expect: [{verdict: pass}]}").is_ok());
        assert!(step("{name: a, decode: {request: 1, reply: 2, body: {hex: 0a ff}}, expect: {}}").is_ok());
        for (case, word) in [
            ("{name: a, request: {}, expect: {verdict: maybe}}", "expect.verdict"),
            ("{name: a, request: {}, expect: {verdikt: deny}}", "verdikt"),
            ("{name: a, requst: {}, expect: {}}", "requst"),
            ("{name: a, request: {peer: nobody}, expect: {}}", "peer"),
            ("{name: a, expect: {}}", "one of request"),
            ("{name: a, frames: [{}, {}], expect: [{verdict: pass}]}", "1 verdicts for 2 frames"),
        ] {
            let error = format!("{:#}", step(case).unwrap_err());
            assert!(error.contains(word), "{case}: {error}");
        }
        assert!(Cases::parse("cases: []").is_err());
    }

    #[test]
    fn a_body_comes_whole_or_in_pieces() {
        let body = |text: &str| serde_saphyr::from_str::<Body>(text).unwrap();
        assert_eq!(body("abc").pieces(), [b"abc"]);
        assert_eq!(body("[a, bc]").pieces(), [&b"a"[..], b"bc"]);
        assert!(Body::default().pieces().is_empty());
    }

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        assert_eq!(octets("0a FF"), Some(vec![10, 255]));
        for wrong in ["0", "0g", "0a f"] {
            assert_eq!(octets(wrong), None, "{wrong}");
        }
    }
}
