//! Services the demo, the tests and the benchmarks talk to.
//!
//! Each runs inside a test (start it on a runtime and keep the handle) and as a
//! program of its own under `src/bin`. They are peers, not parts, of the
//! gateway: nothing here uses its code, so that a mistake in one side cannot
//! hide in the other.
//!
//! | module | service |
//! | --- | --- |
//! | [`im`] | IM server: login, send, push, acknowledge, history |
//! | [`im_client`] | its client, used by the `chat` program and by tests |
//! | [`http_echo`] | HTTP/1.1 and HTTP/2 echo that can also misbehave |
//! | [`grpc`] | gRPC echo: unary, streams, trailers, deadlines |
//! | [`websocket`] | WebSocket echo |
//! | [`port`] | a listening port that can be cut, hung and restored |
//! | [`frame`] | the `im20` frame |

pub mod frame;
pub mod grpc;
pub mod http_echo;
pub mod im;
pub mod im_client;
pub mod port;
pub mod proxy_header;
pub mod tls;
pub mod websocket;

/// The messages of the IM protocol, generated from `proto/im/v1/im.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod im_v1 {
    include!(concat!(env!("OUT_DIR"), "/im.v1.rs"));
}

/// The gRPC echo service, generated from `proto/echo/v1/echo.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod echo_v1 {
    include!(concat!(env!("OUT_DIR"), "/sluice.echo.v1.rs"));
}
