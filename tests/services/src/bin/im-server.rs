//! The IM server as a program.
//!
//! `im-server --line leased=127.0.0.1:9001 --line public=127.0.0.1:9002
//! --control 127.0.0.1:9009`. The control port speaks HTTP:
//!
//! - `GET /stats`
//! - `POST /lines/NAME/cut`, `restore`, `hang`, `reset`
//! - `POST /users/ID/notify`, the body is the text

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use sluice_services::im::{ImOptions, ImServer, QrOptions, Stats};

/// A small IM server that speaks im20 frames.
#[derive(Parser)]
struct Arguments {
    /// A port to listen on, as NAME=ADDRESS; may be repeated, each is a line.
    #[arg(long = "line", required = true, value_parser = line)]
    lines: Vec<(String, SocketAddr)>,
    /// Where the control port listens; none if not given.
    #[arg(long)]
    control: Option<SocketAddr>,
    /// Take a PROXY header, if one comes, as the client's address.
    #[arg(long)]
    proxy_protocol: bool,
    /// Speak TLS with this certificate chain (PEM).
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Where `qr-login` is told which logins phones confirmed, as ADDRESS/PATH;
    /// its keys are in the environment: QR_CONFIRM_KEY, QR_SESSION_KEY.
    #[arg(long, value_parser = qr)]
    qr_login: Option<(SocketAddr, String)>,
}

fn qr(text: &str) -> Result<(SocketAddr, String), String> {
    let at = text.find('/').ok_or("expected ADDRESS/PATH")?;
    let (address, path) = text.split_at(at);
    Ok((address.parse().map_err(|error| format!("{address}: {error}"))?, path.to_owned()))
}

/// Keys stay out of the list of processes.
fn key(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn line(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    Ok((name.to_owned(), address.parse().map_err(|error| format!("{address}: {error}"))?))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let tls = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => Some(sluice_services::tls::server(cert, key, &[])?),
        _ => None,
    };
    let qr = match arguments.qr_login {
        None => None,
        Some((address, path)) => {
            let (confirm_key, session_key) = (key("QR_CONFIRM_KEY")?, key("QR_SESSION_KEY")?);
            Some(QrOptions { address, path, confirm_key, session_key })
        }
    };
    let options = ImOptions { lines: arguments.lines, proxy_protocol: arguments.proxy_protocol, tls, qr };
    let server = Arc::new(ImServer::start(options).await?);
    for (name, port) in server.lines() {
        println!("line {name} on {}", port.address());
    }
    let Some(control) = arguments.control else { return std::future::pending().await };
    let listener = tokio::net::TcpListener::bind(control).await?;
    println!("control on {}", listener.local_addr()?);
    let router = Router::new()
        .route("/stats", get(stats))
        .route("/lines/{name}/{action}", post(change_line))
        .route("/users/{id}/notify", post(notify))
        .with_state(server);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn stats(State(server): State<Arc<ImServer>>) -> Json<Stats> {
    Json(server.stats())
}

async fn change_line(
    State(server): State<Arc<ImServer>>,
    Path((name, action)): Path<(String, String)>,
) -> (StatusCode, String) {
    let Some(port) = server.line(&name) else {
        return (StatusCode::NOT_FOUND, format!("no line {name}\n"));
    };
    match action.as_str() {
        "cut" => port.cut().await,
        "restore" => port.restore().await,
        "hang" => port.hang(),
        "reset" => port.reset_connections(),
        _ => return (StatusCode::NOT_FOUND, "expected cut, restore, hang or reset\n".to_owned()),
    }
    (StatusCode::OK, format!("line {name}: {:?}\n", port.mode()))
}

async fn notify(State(server): State<Arc<ImServer>>, Path(id): Path<u32>, text: String) -> String {
    format!("message {}\n", server.notify(id, &text))
}
