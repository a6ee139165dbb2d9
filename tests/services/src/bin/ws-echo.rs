//! The WebSocket echo as a program.

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;
use sluice_services::websocket::WebSocketEcho;

/// A WebSocket server that answers with what it received.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8002")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = WebSocketEcho::start(Arguments::parse().listen).await?;
    println!("ws-echo on {}", server.port().address());
    std::future::pending().await
}
