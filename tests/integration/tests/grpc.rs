//! gRPC through the gateway, over h2c and TLS, to plain and TLS origins.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use sluice_harness::service::echo_v1::EchoRequest;
use sluice_harness::service::echo_v1::echo_client::EchoClient;
use sluice_harness::service::grpc;
use sluice_harness::{Authority, GrpcEcho, Identity, Sluice, eventually};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

fn gateway(upstream: Value) -> Sluice {
    Sluice::builder()
        .listener("edge", json!({}))
        .put("routes", "all", json!({"uri": "/sluice.echo.v1.Echo/*", "upstream": upstream}))
        .start()
}

fn plain(origin: &GrpcEcho) -> Sluice {
    gateway(json!({"scheme": "grpc", "nodes": {origin.node(): 1}}))
}

async fn client(sluice: &Sluice) -> EchoClient<Channel> {
    grpc::connect(sluice.address("edge"), "echo.test").await.unwrap()
}

fn text(text: &str) -> EchoRequest {
    EchoRequest { text: text.to_owned(), ..EchoRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn unary_calls_carry_metadata_both_ways() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = client(&sluice).await;
    let mut request = Request::new(EchoRequest { data: vec![7; 200_000], ..text("hello") });
    request.metadata_mut().insert("x-text", MetadataValue::from_static("abc"));
    request.metadata_mut().insert_bin("x-data-bin", BinaryMetadataValue::from_bytes(&[0, 1, 254, 255]));
    let response = client.unary(request).await.unwrap();
    assert_eq!(response.metadata().get("x-echo-head").unwrap(), "yes");
    let reply = response.into_inner();
    assert_eq!((reply.text.as_str(), reply.data.len()), ("hello", 200_000));
    assert_eq!(reply.metadata.get("x-text").map(String::as_str), Some("abc"));
    assert_eq!(reply.metadata.get("x-data-bin").map(|value| value.trim_end_matches('=')), Some("AAH+/w"));
    assert!(reply.metadata.contains_key("x-forwarded-for"), "{:?}", reply.metadata);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_pass_in_both_directions_and_end_with_their_trailers() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = client(&sluice).await;
    let mut stream =
        client.server_stream(EchoRequest { count: 100, ..text("x") }).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(reply) = stream.message().await.unwrap() {
        assert_eq!(reply.index, count);
        count += 1;
    }
    let trailers = stream.trailers().await.unwrap().unwrap();
    assert_eq!(count, 100);
    assert_eq!(trailers.get("x-echo-trailer").unwrap(), "at the end");
    assert_eq!(&trailers.get_bin("x-echo-bin").unwrap().to_bytes().unwrap()[..], grpc::BINARY_TRAILER);

    let parts = ["a", "b", "c"].map(text);
    let reply = client.client_stream(futures_util::stream::iter(parts)).await.unwrap().into_inner();
    assert_eq!((reply.text.as_str(), reply.index), ("abc", 3));
}

/// A stream of what is sent into a channel.
fn outgoing(receiver: mpsc::Receiver<EchoRequest>) -> impl futures_util::Stream<Item = EchoRequest> {
    futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|one| (one, receiver))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_talk_at_once() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = client(&sluice).await;
    let (sender, receiver) = mpsc::channel(1);
    sender.send(text("first")).await.unwrap();
    let mut replies = client.duplex(outgoing(receiver)).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().text, "first");
    // Each answer comes before the next question is asked.
    for number in 0..50 {
        let question = format!("number {number}");
        sender.send(text(&question)).await.unwrap();
        assert_eq!(replies.message().await.unwrap().unwrap().text, question);
    }
    drop(sender);
    assert!(replies.message().await.unwrap().is_none());
    assert!(replies.trailers().await.unwrap().unwrap().contains_key("x-echo-trailer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_come_with_their_code_message_and_trailers() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = client(&sluice).await;
    let refused =
        EchoRequest { status: 5, status_message: "no such \u{e9}cho".into(), ..EchoRequest::default() };
    let status = client.unary(refused.clone()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such \u{e9}cho"));
    assert_eq!(status.metadata().get("x-echo-trailer").unwrap(), "at the end");
    let mut stream = client.server_stream(EchoRequest { count: 2, ..refused }).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(stream.message().await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_and_a_cancellation_reach_the_origin() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = client(&sluice).await;
    let slow = EchoRequest { delay_ms: 60_000, ..text("slow") };
    let mut request = Request::new(slow.clone());
    request.set_timeout(Duration::from_millis(500));
    let status = client.unary(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    eventually("the end of the call at the origin", || (origin.active() == 0).then_some(()));

    let call = {
        let mut client = client.clone();
        tokio::spawn(async move { client.unary(slow).await })
    };
    eventually("the call at the origin", || (origin.active() == 1).then_some(()));
    let began = Instant::now();
    call.abort();
    eventually("the cancellation", || (origin.active() == 0).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(5));
    // A stream that is dropped half way.
    let mut stream =
        client.server_stream(EchoRequest { count: 1_000_000, ..text("x") }).await.unwrap().into_inner();
    stream.message().await.unwrap();
    drop(stream);
    eventually("the end of the stream", || (origin.active() == 0).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_gone_is_an_error_a_client_understands() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = client(&sluice).await;
    client.unary(text("x")).await.unwrap();
    let slow = EchoRequest { delay_ms: 60_000, ..text("slow") };
    let call = tokio::spawn(async move { client.unary(slow).await });
    eventually("the call at the origin", || (origin.active() == 1).then_some(()));
    drop(origin);
    let status = call.await.unwrap().unwrap_err();
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Internal | Code::Cancelled | Code::Unknown),
        "{status:?}"
    );
}

/// TLS in front of an origin that has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_reached_is_unavailable() {
    let nobody = sluice_harness::Port::free();
    let sluice = gateway(json!({"scheme": "grpc", "nodes": {format!("127.0.0.1:{}", nobody.number()): 1}}));
    let status = client(&sluice).await.unary(text("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

async fn tls_in_front(origin: &GrpcEcho, identity: &Identity) -> String {
    let acceptor = tokio_rustls::TlsAcceptor::from(identity.server_config(&["h2"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, target) = (listener.local_addr().unwrap(), origin.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut origin = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut origin).await;
            });
        }
    });
    address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_both_sides_carries_calls() {
    let authority = Authority::new("test");
    let identity = authority.leaf(&["echo.test"]);
    let origin = GrpcEcho::start();
    let node = tls_in_front(&origin, &identity).await;
    let upstream = json!({
        "scheme": "grpcs", "nodes": {node: 1}, "pass_host": "rewrite", "upstream_host": "echo.test",
        "tls": {"verify": true, "ca": authority.pem()},
    });
    let sluice = Sluice::builder()
        .listener("edge", json!({"tls": true}))
        .put("ssls", "echo", identity.ssl(&["echo.test"]))
        .put("routes", "all", json!({"uri": "/*", "upstream": upstream}))
        .start();
    let connector = tokio_rustls::TlsConnector::from(authority.client_config(&["h2"]));
    let stream = TcpStream::connect(sluice.address("edge")).await.unwrap();
    let stream = connector.connect("echo.test".try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // One message: field 1, "hello".
    let message = Bytes::from_static(b"\0\0\0\0\x07\x0a\x05hello");
    let request = http::Request::post("https://echo.test/sluice.echo.v1.Echo/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(message, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut received = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        let _ = body.flow_control().release_capacity(piece.len());
        received.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert!(received.windows(7).any(|window| window == b"\x0a\x05hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_a_connection() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let client = client(&sluice).await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let mut client = client.clone();
            tokio::spawn(
                async move { client.unary(text(&number.to_string())).await.unwrap().into_inner().text },
            )
        })
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), number.to_string());
    }
    assert_eq!(origin.started(), 200);
}

#[test]
fn an_answer_that_ends_with_its_head_has_a_length_in_http_1() {
    let origin = GrpcEcho::start();
    let sluice = plain(&origin);
    let mut client = sluice.connect("edge");
    for _ in 0..2 {
        let path = "/sluice.echo.v1.Echo/None";
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"));
        let (status, head, _) = client.read_answer();
        let head = head.to_lowercase();
        assert_eq!(status, 200);
        assert!(head.contains("grpc-status: 12") && head.contains("content-length: 0"), "{head}");
    }
}
