//! HTTP/2 through the h2 crate.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::plan::{Fault, Plan, filler};
use super::{BODY_SHOWN_MAX, Connection, Seen};

pub(super) async fn serve<S>(connection: Connection, stream: S, buffer: BytesMut) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = Prefixed { prefix: buffer, stream };
    let mut h2 = h2::server::Builder::new()
        .max_concurrent_streams(1000)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(io::Error::other)?;
    let mut number = 0;
    // Streams end with their connection: dropping the set aborts them.
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = h2.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted.map_err(io::Error::other)?;
                number += 1;
                connection.shared.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                streams.spawn(serve_stream(connection.clone(), number, request, respond));
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn serve_stream(
    connection: Connection,
    number: u64,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (seen, body) = describe(&connection, number, request);
    let plan = match Plan::parse(&seen.target) {
        Ok(plan) => plan,
        Err(reason) => {
            Plan { status: Some(400), headers: vec![("x-error".to_owned(), reason)], ..Plan::default() }
        }
    };
    // The client has gone: there is nobody to tell.
    let _ = answer(&connection, seen, body, plan, &mut respond).await;
}

fn describe(connection: &Connection, number: u64, request: Request<RecvStream>) -> (Seen, RecvStream) {
    let (head, body) = request.into_parts();
    let mut seen = connection.template.clone();
    seen.request = number;
    seen.method = head.method.to_string();
    seen.target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    seen.version = "HTTP/2".to_owned();
    if let Some(scheme) = head.uri.scheme_str() {
        seen.headers.push((":scheme".to_owned(), scheme.to_owned()));
    }
    if let Some(authority) = head.uri.authority() {
        seen.headers.push((":authority".to_owned(), authority.to_string()));
    }
    seen.headers.extend(fields(&head.headers));
    (seen, body)
}

fn fields(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

async fn read_body(seen: &mut Seen, body: &mut RecvStream) -> Result<(), h2::Error> {
    while let Some(piece) = body.data().await {
        let piece = piece?;
        note(seen, &piece);
        body.flow_control().release_capacity(piece.len())?;
    }
    seen.trailers = body.trailers().await?.as_ref().map(fields).unwrap_or_default();
    Ok(())
}

fn note(seen: &mut Seen, piece: &[u8]) {
    let room = BODY_SHOWN_MAX.saturating_sub(seen.body_bytes as usize);
    seen.body.push_str(&String::from_utf8_lossy(&piece[..piece.len().min(room)]));
    seen.body_bytes += piece.len() as u64;
}

async fn answer(
    connection: &Connection,
    mut seen: Seen,
    mut body: RecvStream,
    plan: Plan,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    for code in &plan.interim {
        let interim = Response::builder().status(*code).header("link", "</style.css>; rel=preload").body(());
        if let Ok(interim) = interim {
            respond.send_informational(interim)?;
        }
    }
    if plan.echo {
        return echo(connection, seen, body, &plan, respond).await;
    }
    if !plan.early {
        read_body(&mut seen, &mut body).await?;
        connection.shared.remember(&seen);
    }
    sleep(plan.delay).await;
    match plan.fault {
        Some(Fault::Reset | Fault::Close | Fault::Garbage) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        Some(Fault::Silence) => return std::future::pending().await,
        _ => {}
    }
    let bytes: Bytes = match plan.size {
        Some(size) => filler(size),
        None => serde_json::to_vec(&seen).unwrap_or_default(),
    }
    .into();
    let status = plan.status.unwrap_or(200);
    let bodiless = seen.method == "HEAD" || matches!(status, 204 | 304);
    let mut head = response(status, &plan);
    if status != 204 && plan.chunked.is_none() {
        head.headers_mut().insert("content-length", bytes.len().into());
    }
    let mut out = respond.send_response(head, bodiless)?;
    if !bodiless {
        sleep(plan.body_delay).await;
        write_body(&mut out, bytes, &plan).await?;
    }
    if plan.early {
        read_body(&mut seen, &mut body).await?;
        connection.shared.remember(&seen);
    }
    Ok(())
}

async fn write_body(out: &mut SendStream<Bytes>, bytes: Bytes, plan: &Plan) -> Result<(), h2::Error> {
    let half = bytes.slice(..bytes.len() / 2);
    match plan.fault {
        Some(Fault::ResetBody) => {
            send(out, half, false).await?;
            out.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        Some(Fault::ShortBody) => return send(out, half, true).await,
        Some(Fault::StallBody) => {
            send(out, half, false).await?;
            return std::future::pending().await;
        }
        _ => {}
    }
    match plan.chunked {
        None => send(out, bytes, plan.trailers.is_empty()).await?,
        Some(size) => {
            for at in (0..bytes.len()).step_by(size) {
                sleep(plan.body_delay).await;
                send(out, bytes.slice(at..bytes.len().min(at + size)), false).await?;
            }
            if plan.trailers.is_empty() {
                out.send_data(Bytes::new(), true)?;
            }
        }
    }
    if !plan.trailers.is_empty() {
        out.send_trailers(map(&plan.trailers))?;
    }
    Ok(())
}

async fn echo(
    connection: &Connection,
    mut seen: Seen,
    mut body: RecvStream,
    plan: &Plan,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut out = respond.send_response(response(plan.status.unwrap_or(200), plan), false)?;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        note(&mut seen, &piece);
        let length = piece.len();
        send(&mut out, piece, false).await?;
        body.flow_control().release_capacity(length)?;
    }
    seen.trailers = body.trailers().await?.as_ref().map(fields).unwrap_or_default();
    connection.shared.remember(&seen);
    if plan.trailers.is_empty() {
        out.send_data(Bytes::new(), true)
    } else {
        out.send_trailers(map(&plan.trailers))
    }
}

fn response(status: u16, plan: &Plan) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    if plan.size.is_none() && !plan.echo {
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    }
    response.headers_mut().extend(map(&plan.headers));
    response
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let read = |(name, value): &(String, String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    fields.iter().filter_map(read).collect()
}

/// Sends as the client's window allows.
async fn send(out: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    if bytes.is_empty() && end {
        return out.send_data(bytes, true);
    }
    while !bytes.is_empty() {
        out.reserve_capacity(bytes.len());
        let Some(capacity) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return Ok(()) };
        let piece = bytes.split_to(capacity?.min(bytes.len()));
        let last = bytes.is_empty() && end;
        out.send_data(piece, last)?;
    }
    Ok(())
}

struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let count = self.prefix.len().min(out.remaining());
        out.put_slice(&self.prefix.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
