//! Cases of transcoders.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::cases::{Decode, Encode, ExpectedFrameBody, ExpectedText, Octets};
use crate::message::{RequestHead, Transcode};
use crate::plugin::{Plugin, Transcoder};

fn transcoder(plugin: &Arc<Plugin>) -> Result<Transcoder> {
    Transcoder::of(Arc::clone(plugin)).context("the plugin is no transcoder")
}

/// Has a frame made of a request.
pub(super) fn encode(
    plugin: &Arc<Plugin>,
    head: &RequestHead,
    encode: &Encode,
    expected: &ExpectedFrameBody,
) -> Result<()> {
    let client = IpAddr::from([127, 0, 0, 1]);
    let made = transcoder(plugin)?.encode_request(head, client, encode.body.as_bytes(), encode.user);
    let outgoing = match made {
        Ok(outgoing) => outgoing,
        Err(problem) if expected.status == Some(problem.status) => return Ok(()),
        Err(problem) => bail!("status: {}, {problem}, expected {:?}", problem.status, expected.status),
    };
    if let Some(status) = expected.status {
        bail!("status: it made a frame of command {}, expected status {status}", outgoing.command);
    }
    if expected.command.is_some_and(|command| command != outgoing.command) {
        bail!("command: {}, expected {:?}", outgoing.command, expected.command);
    }
    if expected.reply.is_some() && expected.reply != outgoing.reply {
        bail!("reply: {:?}, expected {:?}", outgoing.reply, expected.reply);
    }
    match &expected.body {
        Some(Octets(body)) if *body != outgoing.body => {
            bail!("body: {}, expected {}", outgoing.body.escape_ascii(), body.escape_ascii())
        }
        _ => Ok(()),
    }
}

/// Has JSON made of a reply.
pub(super) fn decode(plugin: &Arc<Plugin>, decode: &Decode, expected: &ExpectedText) -> Result<()> {
    match transcoder(plugin)?.decode_reply(decode.request, decode.reply, &decode.body.0) {
        Err(problem) if expected.status == Some(problem.status) => Ok(()),
        Err(problem) => bail!("status: {}, {problem}, expected {:?}", problem.status, expected.status),
        Ok(text) => {
            let shown = || String::from_utf8_lossy(&text);
            if let Some(status) = expected.status {
                bail!("status: it made {:?}, expected status {status}", shown());
            }
            match &expected.body {
                Some(body) if body.as_bytes() != text => bail!("body: {:?}, expected {body:?}", shown()),
                _ => Ok(()),
            }
        }
    }
}
