//! A gRPC echo: what tests and the demo call through the gateway.
//!
//! Every answer carries the metadata the server received. Streams end with the
//! trailers `x-echo-trailer` and `x-echo-bin`. Start at [`GrpcEcho::start`] and
//! [`connect`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use futures_util::Stream;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::{BinaryMetadataValue, KeyAndValueRef, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::echo_v1::echo_client::EchoClient;
use crate::echo_v1::echo_server::{Echo, EchoServer};
use crate::echo_v1::{EchoReply, EchoRequest};

/// Bytes of the binary trailer: none of them is text.
pub const BINARY_TRAILER: &[u8] = &[0, 1, 254, 255];

/// A running server. Dropping it closes its connections and its port.
pub struct GrpcEcho {
    address: SocketAddr,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    started: AtomicU64,
    cancelled: AtomicU64,
    active: AtomicU64,
}

impl GrpcEcho {
    /// Listens on `address` without TLS; serves as tasks of the current runtime.
    pub async fn start(address: SocketAddr) -> io::Result<GrpcEcho> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener: TcpListener = socket.listen(1024)?;
        let address = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let service = EchoServer::new(Service { counters: counters.clone() })
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(async move {
            let server =
                Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! {
                _ = server => {}
                _ = stopped => {}
            }
        });
        Ok(GrpcEcho { address, counters, stop: Some(stop) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls that reached the service.
    pub fn started(&self) -> u64 {
        self.counters.started.load(Ordering::Relaxed)
    }

    /// Calls under way.
    pub fn active(&self) -> u64 {
        self.counters.active.load(Ordering::Relaxed)
    }

    /// Calls that the client ended before they were answered.
    pub fn cancelled(&self) -> u64 {
        self.counters.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for GrpcEcho {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The runtime may have ended before.
            let _ = stop.send(());
        }
    }
}

/// A client that speaks HTTP/2 without TLS to `address`, whatever `authority`
/// it asks for.
pub async fn connect(
    address: SocketAddr,
    authority: &str,
) -> Result<EchoClient<Channel>, tonic::transport::Error> {
    let origin = format!("http://{authority}");
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .origin(origin.parse().unwrap_or_default())
        .connect_timeout(Duration::from_secs(5));
    let client = EchoClient::new(endpoint.connect().await?);
    Ok(client.max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20))
}

struct Service {
    counters: Arc<Counters>,
}

/// Counts a call as cancelled unless it is told that the call ended well.
struct Call {
    counters: Arc<Counters>,
    finished: bool,
}

impl Call {
    fn begin(counters: &Arc<Counters>) -> Call {
        counters.started.fetch_add(1, Ordering::Relaxed);
        counters.active.fetch_add(1, Ordering::Relaxed);
        Call { counters: counters.clone(), finished: false }
    }

    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.counters.active.fetch_sub(1, Ordering::Relaxed);
        if !self.finished {
            self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let call = Call::begin(&self.counters);
        let mut reply = template(&request);
        let request = request.into_inner();
        let outcome = async {
            pause(&request).await;
            refuse(&request)?;
            reply.text = request.text;
            reply.data = request.data;
            let mut response = Response::new(reply);
            response.metadata_mut().insert("x-echo-head", MetadataValue::from_static("yes"));
            Ok(response)
        }
        .await;
        call.finish();
        outcome
    }

    type ServerStreamStream = Replies;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        let call = Call::begin(&self.counters);
        let template = template(&request);
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for index in 0..request.count {
                let reply = EchoReply {
                    index,
                    text: request.text.clone(),
                    data: request.data.clone(),
                    ..template.clone()
                };
                tokio::select! {
                    () = sender.closed() => return,
                    () = pause(&request) => {}
                }
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
            end(&sender, refuse(&request), call).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoReply>, Status> {
        let call = Call::begin(&self.counters);
        let mut reply = template(&request);
        let mut requests = request.into_inner();
        while let Some(request) = requests.message().await? {
            pause(&request).await;
            if let Err(status) = refuse(&request) {
                call.finish();
                return Err(status);
            }
            reply.text.push_str(&request.text);
            reply.data.extend_from_slice(&request.data);
            reply.index += 1;
        }
        call.finish();
        Ok(Response::new(reply))
    }

    type DuplexStream = Replies;

    async fn duplex(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        let call = Call::begin(&self.counters);
        let template = template(&request);
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut index = 0;
            let outcome = loop {
                let next = tokio::select! {
                    () = sender.closed() => return,
                    next = requests.message() => next,
                };
                let request = match next {
                    Ok(Some(request)) => request,
                    Ok(None) => break Ok(()),
                    Err(_) => return,
                };
                pause(&request).await;
                if let Err(status) = refuse(&request) {
                    break Err(status);
                }
                let reply = EchoReply { index, text: request.text, data: request.data, ..template.clone() };
                index += 1;
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            };
            end(&sender, outcome, call).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn pause(request: &EchoRequest) {
    tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
}

#[allow(clippy::result_large_err, reason = "the status is the library's error type")]
fn refuse(request: &EchoRequest) -> Result<(), Status> {
    if request.status == 0 {
        return Ok(());
    }
    Err(Status::with_metadata(Code::from_i32(request.status), request.status_message.clone(), trailers()))
}

/// Ends a stream with the trailers, also when it ends well: the library takes
/// them with a status only.
async fn end(sender: &mpsc::Sender<Result<EchoReply, Status>>, outcome: Result<(), Status>, call: Call) {
    let status = outcome.err().unwrap_or_else(|| Status::with_metadata(Code::Ok, "", trailers()));
    if sender.send(Err(status)).await.is_ok() {
        call.finish();
    }
}

fn trailers() -> MetadataMap {
    let mut map = MetadataMap::new();
    map.insert("x-echo-trailer", MetadataValue::from_static("at the end"));
    map.insert_bin("x-echo-bin", BinaryMetadataValue::from_bytes(BINARY_TRAILER));
    map
}

fn template<T>(request: &Request<T>) -> EchoReply {
    let mut metadata = HashMap::new();
    for entry in request.metadata().iter() {
        let (name, value) = match entry {
            KeyAndValueRef::Ascii(name, value) => {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            }
            KeyAndValueRef::Binary(name, value) => {
                let bytes = value.to_bytes().unwrap_or_default();
                (name.to_string(), base64::engine::general_purpose::STANDARD.encode(bytes))
            }
        };
        metadata.insert(name, value);
    }
    let peer = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
    EchoReply { metadata, peer, ..EchoReply::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (GrpcEcho, EchoClient<Channel>) {
        let server = GrpcEcho::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let client = connect(server.address(), "echo.test").await.unwrap();
        (server, client)
    }

    #[tokio::test]
    async fn streams_end_with_trailers() {
        let (_server, mut client) = pair().await;
        let request = EchoRequest { text: "x".into(), count: 3, ..EchoRequest::default() };
        let mut stream = client.server_stream(request).await.unwrap().into_inner();
        let mut indices = Vec::new();
        while let Some(reply) = stream.message().await.unwrap() {
            indices.push(reply.index);
        }
        assert_eq!(indices, [0, 1, 2]);
        let trailers = stream.trailers().await.unwrap().unwrap();
        assert_eq!(trailers.get("x-echo-trailer").unwrap(), "at the end");
        assert_eq!(&trailers.get_bin("x-echo-bin").unwrap().to_bytes().unwrap()[..], BINARY_TRAILER);
    }

    #[tokio::test]
    async fn a_dropped_call_counts_as_cancelled() {
        let (server, mut client) = pair().await;
        let slow = EchoRequest { delay_ms: 60_000, ..EchoRequest::default() };
        let call = tokio::time::timeout(Duration::from_millis(200), client.unary(slow)).await;
        assert!(call.is_err());
        tokio::time::timeout(Duration::from_secs(5), async {
            while server.cancelled() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(server.active(), 0);
    }
}
