//! The IM server.
//!
//! One process listens on several ports, each standing for a line; they share
//! users and messages, so a client that comes back by another line finds its
//! session's messages. [`ImServer::start`] is the way in; `session` talks to
//! one client, `hub` holds what they share.

mod hub;
mod qr;
mod session;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;

use crate::port::{Mode, Port};

pub use hub::{Stats, UserStats, conversation_id, token};
pub use qr::QrOptions;

/// What a server is to do.
#[derive(Clone, Default)]
pub struct ImOptions {
    /// Ports to listen on, each with the name of the line it stands for.
    pub lines: Vec<(String, SocketAddr)>,
    /// Take a PROXY header, if one comes, as the client's address.
    pub proxy_protocol: bool,
    /// Speak TLS on every line.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Let phones confirm logins of browsers, and browsers in with what they got.
    pub qr: Option<QrOptions>,
}

/// A running server. Dropping it closes its ports.
pub struct ImServer {
    hub: Arc<hub::Hub>,
    lines: Vec<(String, Port)>,
}

impl ImServer {
    /// Listens on every line; serves as tasks of the current runtime.
    pub async fn start(options: ImOptions) -> io::Result<ImServer> {
        let hub = Arc::new(hub::Hub::default());
        let qr = options.qr.map(Arc::new);
        let mut lines = Vec::new();
        for (name, address) in options.lines {
            let settings = Arc::new(session::Settings {
                hub: hub.clone(),
                line: name.clone(),
                proxy_protocol: options.proxy_protocol,
                tls: options.tls.clone().map(TlsAcceptor::from),
                qr: qr.clone(),
            });
            let port =
                Port::open(address, move |stream, peer| session::serve(settings.clone(), stream, peer));
            lines.push((name, port.await?));
        }
        Ok(ImServer { hub, lines })
    }

    /// The lines in the order they were given.
    pub fn lines(&self) -> &[(String, Port)] {
        &self.lines
    }

    /// The port of a line.
    pub fn line(&self, name: &str) -> Option<&Port> {
        self.lines.iter().find(|(found, _)| found == name).map(|(_, port)| port)
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.hub.stats();
        for (name, port) in &self.lines {
            stats.lines.insert(
                name.clone(),
                hub::LineStats {
                    address: port.address().to_string(),
                    mode: match port.mode() {
                        Mode::Serving => "serving",
                        Mode::Hung => "hung",
                        Mode::Cut => "cut",
                        Mode::Closed => "closed",
                    },
                    accepted: port.accepted(),
                    open: port.open_connections(),
                },
            );
        }
        stats
    }

    /// Sends `text` to `to` in the server's own name. Returns the message id.
    pub fn notify(&self, to: u32, text: &str) -> u64 {
        self.hub.notify(to, text)
    }
}

impl Drop for ImServer {
    fn drop(&mut self) {
        for (_, port) in &self.lines {
            port.close();
        }
    }
}
