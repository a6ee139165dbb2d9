//! What a request's query asks the origin to do.

use std::time::Duration;

/// A way to break an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A reset instead of a head.
    Reset,
    /// An end of stream instead of a head.
    Close,
    /// Half a head, then the end of the stream.
    HalfHead,
    /// Half of the body, then a reset.
    ResetBody,
    /// Half of the announced body, then the end of the stream.
    ShortBody,
    /// Half of the body, then nothing, the connection stays open.
    StallBody,
    /// A chunk whose size is no number.
    BadChunk,
    /// Chunks that end without the last one.
    UnfinishedChunks,
    /// Bytes that are no HTTP.
    Garbage,
    /// Two different lengths.
    TwoLengths,
    /// A length and chunks.
    LengthAndChunks,
    /// A zero byte in a field.
    Nul,
    /// A head of 4 MB.
    BigHead,
    /// Bytes after the end of the body, unasked for.
    Surplus,
    /// Nothing at all; the connection stays open.
    Silence,
}

/// The query, read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: Option<u16>,
    pub(super) delay: Duration,
    pub(super) body_delay: Duration,
    pub(super) size: Option<usize>,
    pub(super) echo: bool,
    pub(super) chunked: Option<usize>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) interim: Vec<u16>,
    pub(super) close: bool,
    pub(super) early: bool,
    pub(super) upgrade: bool,
    pub(super) fault: Option<Fault>,
}

impl Plan {
    /// Reads the query of `target`. A parameter that is not known or cannot be
    /// read is an error: a test with a slip in it must not pass.
    pub(super) fn parse(target: &str) -> Result<Plan, String> {
        let mut plan = Plan::default();
        let Some((_, query)) = target.split_once('?') else { return Ok(plan) };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            plan.set(name, value).ok_or_else(|| format!("bad value of {name}: {value}"))?;
        }
        Ok(plan)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let millis = || value.parse().ok().map(Duration::from_millis);
        let field = || {
            let value = value.replace("%20", " ");
            value.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        match name {
            "status" => self.status = Some(value.parse().ok()?),
            "delay" => self.delay = millis()?,
            "body_delay" => self.body_delay = millis()?,
            "size" => self.size = Some(value.parse().ok()?),
            "echo" => self.echo = value == "1",
            "chunked" => self.chunked = Some(value.parse().ok().filter(|size| *size > 0)?),
            "header" => self.headers.push(field()?),
            "trailer" => self.trailers.push(field()?),
            "interim" => self.interim.push(value.parse().ok()?),
            "close" => self.close = value == "1",
            "early" => self.early = value == "1",
            "upgrade" => self.upgrade = value == "1",
            "fault" => self.fault = Some(fault(value)?),
            // Anything else belongs to the test's own request.
            _ => {}
        }
        Some(())
    }
}

fn fault(name: &str) -> Option<Fault> {
    Some(match name {
        "reset" => Fault::Reset,
        "close" => Fault::Close,
        "half-head" => Fault::HalfHead,
        "reset-body" => Fault::ResetBody,
        "short-body" => Fault::ShortBody,
        "stall-body" => Fault::StallBody,
        "bad-chunk" => Fault::BadChunk,
        "unfinished-chunks" => Fault::UnfinishedChunks,
        "garbage" => Fault::Garbage,
        "two-lengths" => Fault::TwoLengths,
        "length-and-chunks" => Fault::LengthAndChunks,
        "nul" => Fault::Nul,
        "big-head" => Fault::BigHead,
        "surplus" => Fault::Surplus,
        "silence" => Fault::Silence,
        _ => return None,
    })
}

/// A body of `size` bytes whose every part can be told from its neighbours.
pub(super) fn filler(size: usize) -> Vec<u8> {
    (0..size).map(|at| b'a' + (at % 23) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_in_a_query_are_errors() {
        for target in ["/?status=x", "/?fault=none-such", "/?header=novalue", "/?chunked=0", "/?delay=-1"] {
            assert!(Plan::parse(target).is_err(), "{target}");
        }
        let plan = Plan::parse("/?other=1&status=201&header=a:b%20c&fault=nul").unwrap();
        assert_eq!(plan.status, Some(201));
        assert_eq!(plan.headers, [("a".to_owned(), "b c".to_owned())]);
        assert_eq!(plan.fault, Some(Fault::Nul));
    }
}
