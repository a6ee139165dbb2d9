use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::message::{
    BodyLength, BodyPart, BodyRead, BodyWrite, Downstream, Fields, Method, Name, RequestHead, RequestShape,
    ResponseHead, Scheme, TransferError, UpstreamExchange, Version,
};
use crate::net::path::Slashes;

fn run<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("test hangs") })
}

fn request(method: Method, path: &str) -> RequestHead {
    let mut fields = Fields::default();
    let authority = fields.store(b"im.example");
    let path = fields.store(path.as_bytes());
    RequestHead::new(method, Version::Http11, Scheme::Http, authority, path, None, fields)
}

async fn read_all(body: &mut impl BodyRead) -> Result<(Vec<u8>, Option<Fields>), TransferError> {
    let mut all = Vec::new();
    loop {
        let step = poll_fn(|context| match body.poll_body(context) {
            Poll::Ready(Ok(BodyPart::Data(data))) => {
                all.extend_from_slice(data);
                let count = data.len();
                body.consume(count);
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Ok(BodyPart::End(trailers))) => Poll::Ready(Ok(Some(trailers))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        });
        if let Some(trailers) = step.await? {
            return Ok((all, trailers));
        }
    }
}

async fn write_all(
    body: &mut impl BodyWrite,
    mut data: &[u8],
    trailers: Option<&Fields>,
) -> Result<(), TransferError> {
    while !data.is_empty() {
        let count = poll_fn(|context| body.poll_write(context, data)).await?;
        data = &data[count..];
    }
    poll_fn(|context| body.poll_finish(context, trailers)).await
}

/// Serves every stream of `io` with `answer`; yields how the connection ended.
async fn serve<A, F>(io: DuplexStream, limits: ServerLimits, answer: A) -> Result<(), ConnectionError>
where
    A: Fn(Accepted) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let mut connection = ServerConnection::handshake(io, None, &limits, Scheme::Http, Slashes::Merge).await?;
    while let Some(accepted) = poll_fn(|context| connection.poll_accept(context)).await {
        tokio::task::spawn_local(answer(accepted?));
    }
    Ok(())
}

async fn connect(io: DuplexStream) -> ClientConnection {
    let (client, driver) =
        ClientConnection::handshake(io, &ClientLimits::default(), Scheme::Http).await.unwrap();
    tokio::task::spawn_local(driver);
    client
}

async fn echo(mut accepted: Accepted) {
    let head = accepted.head.expect("sound request");
    let (body, trailers) = read_all(&mut accepted.stream).await.unwrap();
    let answer = ResponseHead::new(200).with("x-path", head.path()).with("connection", "close");
    accepted.stream.send_head(&answer, BodyLength::Unknown).unwrap();
    write_all(&mut accepted.stream, &body, trailers.as_ref()).await.unwrap();
}

#[test]
fn a_body_and_its_trailers_go_there_and_back() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::task::spawn_local(async { serve(theirs, ServerLimits::default(), echo).await.unwrap() });
        let client = connect(ours).await;
        let mut exchange = client.exchange(Duration::from_secs(5)).await.unwrap();
        let body: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let shape = RequestShape { body: BodyLength::Unknown, upgrade: None, trailers: true };
        exchange.send_head(&request(Method::Post, "/echo"), shape).unwrap();
        let mut trailers = Fields::default();
        trailers.append(b"grpc-status", b"0");

        // Both directions at once: neither window is large enough for the whole.
        let mut sent = 0;
        let mut received = Vec::new();
        let mut head = None;
        let end = poll_fn(|context| {
            loop {
                let mut moved = false;
                if sent < body.len()
                    && let Poll::Ready(count) = exchange.poll_write(context, &body[sent..])
                {
                    sent += count.unwrap();
                    moved = true;
                    if sent == body.len() {
                        assert!(exchange.poll_finish(context, Some(&trailers)).is_ready());
                    }
                }
                if head.is_none() {
                    if let Poll::Ready(answer) = exchange.poll_head(context) {
                        head = Some(answer.unwrap());
                        moved = true;
                    }
                } else {
                    match exchange.poll_body(context) {
                        Poll::Ready(Ok(BodyPart::Data(data))) => {
                            received.extend_from_slice(data);
                            let count = data.len();
                            exchange.consume(count);
                            moved = true;
                        }
                        Poll::Ready(Ok(BodyPart::End(trailers))) => return Poll::Ready(trailers),
                        Poll::Ready(Err(error)) => panic!("{error}"),
                        Poll::Pending => {}
                    }
                }
                if !moved {
                    return Poll::Pending;
                }
            }
        })
        .await;

        let head = head.unwrap();
        assert_eq!((head.status, head.fields.value_of(b"x-path")), (200, Some(&b"/echo"[..])));
        assert_eq!(head.value(Name::Connection), None);
        assert_eq!(received, body);
        assert_eq!(end.unwrap().value_of(b"grpc-status"), Some(&b"0"[..]));
    });
}

#[test]
fn a_response_of_known_length_ends_with_its_last_byte() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(4096);
        let answer = |mut accepted: Accepted| async move {
            accepted.stream.send_head(&ResponseHead::new(200), BodyLength::Known(5)).unwrap();
            write_all(&mut accepted.stream, b"hello", None).await.unwrap();
        };
        tokio::task::spawn_local(
            async move { serve(theirs, ServerLimits::default(), answer).await.unwrap() },
        );
        let client = connect(ours).await;
        let mut exchange = client.exchange(Duration::from_secs(5)).await.unwrap();
        let shape = RequestShape { body: BodyLength::None, upgrade: None, trailers: false };
        exchange.send_head(&request(Method::Get, "/"), shape).unwrap();
        let head = poll_fn(|context| exchange.poll_head(context)).await.unwrap();
        assert_eq!(head.value(Name::ContentLength), Some(&b"5"[..]));
        assert_eq!(exchange.response_length(), BodyLength::Known(5));
        assert_eq!(read_all(&mut exchange).await.unwrap().0, b"hello");
        assert_eq!(client.open(), 1);
        drop(exchange);
        assert_eq!(client.open(), 0);
    });
}

#[test]
fn a_dropped_exchange_is_seen_as_gone_by_the_other_side() {
    run(async {
        let (ours, theirs) = tokio::io::duplex(4096);
        let gone = Rc::new(tokio::sync::Notify::new());
        let told = Rc::clone(&gone);
        let answer = move |mut accepted: Accepted| {
            let told = Rc::clone(&told);
            async move {
                let error = poll_fn(|context| accepted.stream.poll_gone(context)).await;
                assert!(matches!(error, TransferError::Reset(8)), "{error}");
                told.notify_one();
            }
        };
        tokio::task::spawn_local(
            async move { serve(theirs, ServerLimits::default(), answer).await.unwrap() },
        );
        let client = connect(ours).await;
        let mut exchange = client.exchange(Duration::from_secs(5)).await.unwrap();
        let shape = RequestShape { body: BodyLength::None, upgrade: None, trailers: false };
        exchange.send_head(&request(Method::Get, "/"), shape).unwrap();
        tokio::task::yield_now().await;
        drop(exchange);
        gone.notified().await;
    });
}

#[test]
fn a_flood_of_pings_gets_goaway_enhance_your_calm() {
    run(async {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let served = tokio::task::spawn_local(serve(theirs, ServerLimits::default(), echo));
        ours.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        ours.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        ours.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(2_000)).await.unwrap();
        let ended = served.await.unwrap().unwrap_err();
        assert!(matches!(ended, ConnectionError::Flood(Flood::Control)), "{ended}");
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.unwrap();
        let calm = [0, 0, 8, 7, 0, 0, 0, 0, 0];
        let at = answer.windows(calm.len()).position(|window| window == calm).expect("a GOAWAY frame");
        assert_eq!(answer[at + 9 + 4..at + 9 + 8], [0, 0, 0, 11]);
    });
}

#[test]
fn a_connection_that_says_nothing_ends_at_the_handshake_limit() {
    run(async {
        let (_ours, theirs) = tokio::io::duplex(4096);
        let limits = ServerLimits { handshake_timeout: Duration::from_millis(50), ..ServerLimits::default() };
        let ended = serve(theirs, limits, echo).await.unwrap_err();
        assert!(matches!(ended, ConnectionError::HandshakeTimeout), "{ended}");
    });
}
