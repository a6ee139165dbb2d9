//! Bytes in and out: sockets, TLS, the PROXY header, buffers and tasks.
//!
//! Knows nothing of routes or upstreams. `server` takes connections from the
//! listeners here and gives them to the flows in `proxy` as [`Accepted`];
//! `upstream` dials and wraps what it dialled in a [`Stream`].

mod accepted;
mod buffer;
mod counters;
pub mod http1;
pub mod http2;
pub(crate) mod http_types;
mod listener;
pub mod path;
pub mod proxy_protocol;
mod stream;
pub mod takeover;
mod tasks;
mod timer;
pub mod tls;

pub use accepted::{Accepted, Drain};
pub use buffer::{BufferLimits, BufferPool, LeasedBuffer, body_with_room, copied};
pub use counters::{CloseReason, Counters, HandshakeFailure, ProxyHeaderFailure};
pub use listener::{Inherited, Listener, Listeners, Outcome, Queue, SocketId, SocketName, WorkerChange};
pub use stream::{Liveness, Stream, TcpOptions, Transport};
pub use tasks::{Drained, Tasks};
pub use timer::LazyTimer;
