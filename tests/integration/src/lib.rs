//! What the tests of the whole program share.
//!
//! [`strict`] reads HTTP/1.1 as the standard's grammar has it and nothing
//! laxer; it shares no code with the gateway. [`origin`] is an origin that
//! keeps every byte it receives and answers as a test tells it to. [`frames`]
//! makes HTTP/2 frames, wrong ones included. [`load`] asks steadily and keeps
//! long sessions busy; [`changes`] changes the configuration meanwhile.
//! [`admin`] talks to the Admin API.
//! [`lines`] has lines, IM frames and small upstreams. [`im`] has the IM service
//! behind an HTTP route, and clients that speak JSON to it;
//! [`im_soak`] has many that talk to each other.

pub mod admin;
pub mod changes;
pub mod frames;
pub mod im;
pub mod im_soak;
pub mod lines;
pub mod load;
pub mod origin;
pub mod strict;
