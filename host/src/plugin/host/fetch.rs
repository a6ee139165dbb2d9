//! Requests that guests make by `sluice:plugin/fetch`: whole ones, with a bound
//! on what comes back.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use wasmtime_wasi_http::{Error, RequestOptions};

use super::{Owner, wit};
use crate::plugin::edge;

/// The most of an answer's body, in bytes.
pub(super) const FETCH_BODY_BYTES_MAX: usize = 1 << 20;

/// Sends a request and gathers the answer.
pub(super) async fn send(
    owner: &Owner,
    request: wit::fetch::Request,
) -> Result<wit::fetch::Response, wit::fetch::Error> {
    let limit = owner.limits.fetch_timeout;
    let asked = Duration::from_millis(request.timeout.into());
    let time = if asked.is_zero() { limit } else { asked.min(limit) };
    match tokio::time::timeout(time, exchange(owner, request, time)).await {
        Ok(answer) => answer,
        Err(_) => Err(wit::fetch::Error::Timeout),
    }
}

async fn exchange(
    owner: &Owner,
    request: wit::fetch::Request,
    time: Duration,
) -> Result<wit::fetch::Response, wit::fetch::Error> {
    let failed = |what: String| wit::fetch::Error::Failed(what);
    let url: http::Uri = request.url.parse().map_err(|error| failed(format!("{}: {error}", request.url)))?;
    let authority = url.authority().ok_or_else(|| failed(format!("{} names no host", request.url)))?.clone();
    let mut builder = http::Request::builder().method(request.method.as_str()).uri(url);
    builder = builder.header(http::header::HOST, authority.as_str());
    for field in &request.headers {
        if !field.name.eq_ignore_ascii_case("host") {
            builder = builder.header(field.name.as_str(), field.value.as_slice());
        }
    }
    let body = Full::new(Bytes::from(request.body)).map_err(|never| match never {}).boxed_unsync();
    let request = builder.body(body).map_err(|error| failed(error.to_string()))?;
    let options = RequestOptions {
        connect_timeout: Some(time),
        first_byte_timeout: Some(time),
        between_bytes_timeout: None,
    };
    let (response, connection) = edge::send(&owner.fetch, request, Some(options)).await.map_err(told)?;
    let (parts, body) = response.into_parts();
    let gathering = Limited::new(body, FETCH_BODY_BYTES_MAX).collect();
    // The connection must be driven for the body to come.
    let driving = Box::into_pin(connection);
    let mut gathering = std::pin::pin!(gathering);
    let mut driving = Some(driving);
    let gathered = std::future::poll_fn(|context| {
        if let Some(own) = &mut driving
            && own.as_mut().poll(context).is_ready()
        {
            driving = None;
        }
        gathering.as_mut().poll(context)
    })
    .await;
    let body = gathered.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => failed(format!("the answer is over {FETCH_BODY_BYTES_MAX} bytes")),
        None => failed(error.to_string()),
    })?;
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| wit::types::Field {
            name: name.as_str().to_owned(),
            value: value.as_bytes().to_vec(),
        })
        .collect();
    Ok(wit::fetch::Response { status: parts.status.as_u16(), headers, body: body.to_bytes().to_vec() })
}

fn told(error: Error) -> wit::fetch::Error {
    match error {
        Error::HttpRequestDenied => wit::fetch::Error::Denied("the host is not granted".to_owned()),
        Error::DestinationIpProhibited => wit::fetch::Error::Denied(
            "the name leads to this node or a private network, which must be granted by address".to_owned(),
        ),
        Error::ConnectionTimeout | Error::ConnectionReadTimeout => wit::fetch::Error::Timeout,
        other => wit::fetch::Error::Failed(format!("{other:?}")),
    }
}
