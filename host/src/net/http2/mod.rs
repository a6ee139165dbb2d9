//! HTTP/2, both directions, over the `h2` crate.
//!
//! [`ServerConnection`] yields the streams of a client, [`ClientConnection`]
//! opens streams to an upstream; each stream is one side of an exchange in the
//! words of `message`. What `h2` leaves open is closed here: floods of cheap
//! frames ([`Meter`]), one authority and one path for a request (`convert`).

mod client;
mod convert;
mod io;
mod meter;
mod server;
mod stream;
mod tunnel;

pub use client::{ClientConnection, ClientLimits, ClientStream};
pub use convert::BadRequest;
pub use meter::{Flood, Meter, MeterLimits};
pub use server::{
    Accepted, ConnectionError, Refused, ServerConnection, ServerLimits, ServerStream, takes_trailers,
};
pub use tunnel::Tunnel;

#[cfg(test)]
mod tests;
