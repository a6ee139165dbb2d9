//! Cases of edge functions: the request goes where a gateway would send it, and
//! the answer is read to its end.

use std::future::poll_fn;

use anyhow::{Context, Result, bail};

use super::step::Outcome;
use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Fields, Method, RequestHead, RequestShape, Scheme,
    UpstreamExchange, Version,
};
use crate::plugin::edge::{EdgeCall, Function};

/// The most of an answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Calls a function; what it answers.
pub(super) fn call(function: &Function, head: &RequestHead, pieces: &[&[u8]]) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let mut call = function.call(0).map_err(|error| anyhow::anyhow!("the function {error}"))?;
        match drive(&mut call, head, pieces).await {
            Err(error) => match call.failure() {
                Some(failure) => bail!("the function failed: {failure}"),
                None => Err(error),
            },
            outcome => outcome,
        }
    })
}

async fn drive(call: &mut EdgeCall, head: &RequestHead, pieces: &[&[u8]]) -> Result<Outcome> {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let body = if pieces.is_empty() { BodyLength::None } else { BodyLength::Known(length as u64) };
    call.send_head(head, RequestShape { body, upgrade: None, trailers: false })?;
    let mut left: Vec<u8> = pieces.concat();
    let mut answer = None;
    // The answer may begin before the request has ended.
    poll_fn(|context| {
        while !left.is_empty() {
            match call.poll_write(context, &left) {
                std::task::Poll::Ready(Ok(count)) => drop(left.drain(..count)),
                // It reads no further, and may answer all the same.
                std::task::Poll::Ready(Err(_)) => left.clear(),
                std::task::Poll::Pending => break,
            }
        }
        if left.is_empty() {
            let _ = call.poll_finish(context, None);
        }
        call.poll_head(context).map(|head| answer = Some(head))
    })
    .await;
    let answer = answer.context("no answer")??;
    let mut bytes = Vec::new();
    loop {
        let (count, is_end) = poll_fn(|context| {
            call.poll_body(context).map(|part| {
                part.map(|part| match part {
                    BodyPart::Data(data) => {
                        bytes.extend_from_slice(data);
                        (data.len(), false)
                    }
                    BodyPart::End(_) => (0, true),
                })
            })
        })
        .await?;
        call.consume(count);
        if is_end {
            break;
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            bail!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
        }
    }
    let fields = answer.fields.iter();
    let headers = fields.map(|(name, value)| (String::from_utf8_lossy(name).to_lowercase(), value.to_vec()));
    Ok(Outcome::answered(answer.status, headers.collect(), bytes))
}

/// A head as a client would have sent it.
pub(super) fn request_head(
    method: Method,
    scheme: Scheme,
    authority: &str,
    target: &str,
    headers: &[(String, Vec<u8>)],
) -> RequestHead {
    let mut fields = Fields::default();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let authority = fields.store(authority.as_bytes());
    let path = fields.store(path.as_bytes());
    let query = query.map(|query| fields.store(query.as_bytes()));
    for (name, value) in headers {
        fields.append(name.as_bytes(), value);
    }
    RequestHead::new(method, Version::Http11, scheme, authority, path, query, fields)
}
