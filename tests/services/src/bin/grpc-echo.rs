//! The gRPC echo as a program.

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;
use sluice_services::grpc::GrpcEcho;

/// A gRPC service that answers with what it received.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8001")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = GrpcEcho::start(Arguments::parse().listen).await?;
    println!("grpc-echo on {}", server.address());
    std::future::pending().await
}
