//! Sluice: a Wasm-extensible gateway and IM access layer.

pub mod admin;
pub mod app;
pub mod config;
pub mod control;
pub mod filter;
pub mod frame;
pub mod message;
pub mod net;
pub mod observe;
pub mod plugin;
pub mod proxy;
pub mod rate;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod upstream;
