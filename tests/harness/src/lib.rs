//! Starts the program and its real peers for tests and the demo.
//!
//! Everything here is for callers that want a failure to stop them: functions
//! panic with a message that says what was expected, and with the logs of the
//! processes involved. Nothing sleeps for a fixed time; waiting is for a
//! condition, with a deadline ([`eventually`], [`within`]).
//!
//! ```no_run
//! use serde_json::json;
//! use sluice_harness::{Curl, HttpEcho, Sluice};
//!
//! let origin = HttpEcho::start("origin");
//! let sluice = Sluice::builder()
//!     .listener("edge", json!({"protocol": "http"}))
//!     .put("routes", "all", json!({
//!         "uri": "/*",
//!         "upstream": {"nodes": {origin.node(): 1}},
//!     }))
//!     .start();
//! let reply = Curl::get(format!("{}/hello", sluice.url("edge"))).run();
//! assert_eq!(reply.status, 200);
//! assert_eq!(origin.seen()[0].target, "/hello");
//! ```
//!
//! | type | what it starts or does |
//! | --- | --- |
//! | [`Sluice`] | the built program on free ports: objects by rename, status, metrics, access log, signals, memory and descriptors |
//! | [`HttpEcho`], [`GrpcEcho`], [`WebSocketEcho`], [`ImServer`] | the services of `sluice-services` inside the test, each on a thread of its own, in a [`Namespace`] if wanted |
//! | [`LinePort`] | cuts (RST), hangs, resets and restores a service's port |
//! | [`Nginx`], [`Haproxy`], [`Php`] | Debian's, with a configuration of the test's |
//! | [`Etcd`] | Debian's etcd, one member or three, with TLS if wanted |
//! | [`Curl`], [`openssl_client`] | clients of their own; proxies of the environment are ignored |
//! | [`Raw`] | a socket written to byte by byte, plain or TLS |
//! | [`Authority`], [`Identity`] | certificates: leaf, client, RSA and ECDSA, expired |
//! | [`Network`], [`Namespace`] | network namespaces joined by veth pairs; black holes, loss, slow links |
//! | [`SteadyLoad`] | requests at a steady rate; counts failures and the longest wait |
//! | [`Process`] | any other program, killed with its test, its log kept |
//! | [`Port`] | a port number nobody else gets while it is held |
//!
//! The program is taken from `SLUICE_BIN`, else from the target folder that the
//! test itself was built into; nothing is built here (`cargo xtask test` does).

mod certificates;
mod curl;
mod etcd;
pub mod guest;
mod load;
mod metrics;
mod network;
mod openssl;
mod peers;
mod ports;
mod process;
mod raw;
mod services;
mod sluice;
mod wait;

pub use certificates::{Authority, Identity, KeyKind};
pub use curl::{Curl, Reply};
pub use etcd::Etcd;
pub use guest::Guest;
pub use load::{LoadReport, SteadyLoad};
pub use metrics::Metrics;
pub use network::{Namespace, Network};
pub use openssl::{OpensslReply, openssl_client};
pub use peers::{Haproxy, Nginx, Php};
pub use ports::Port;
pub use process::{Process, Signal, program, tool};
pub use raw::Raw;
pub use services::{
    Background, GrpcEcho, HttpEcho, HttpEchoBuilder, ImServer, ImServerBuilder, LinePort, Passage,
    WebSocketEcho,
};
pub use sluice::{Document, Sluice, SluiceBuilder};
pub use sluice_services as service;
pub use wait::{DEADLINE, eventually, eventually_async, within};
