//! The HTTP echo as a program; the library's module describes what it answers.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use sluice_services::http_echo::{HttpEcho, HttpEchoOptions};

/// An HTTP origin that tells what it received.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Shown in every answer.
    #[arg(long, default_value = "http-echo")]
    name: String,
    /// Speak TLS with this certificate chain (PEM).
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let tls = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => Some(sluice_services::tls::server(cert, key, &["h2", "http/1.1"])?),
        _ => None,
    };
    let options = HttpEchoOptions { name: arguments.name, address: Some(arguments.listen), tls };
    let server = HttpEcho::start(options).await?;
    println!("http-echo on {}", server.port().address());
    std::future::pending().await
}
