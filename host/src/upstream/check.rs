//! Active checks: what one probe sends and what its answer says.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::frame::{FrameDecoder, FrameFormat, Piece};
use crate::net::Stream;

use super::connect::{Alpn, Dial, DialError};
use super::health::Sign;
use super::model::{Line, Node, Statuses};
use super::outcome::Failure;
use super::spec::ProxyProtocol;
use super::tls::TlsPlan;

/// Bytes of an answer's head that are read at most.
const HEAD_MAX: usize = 16 << 10;

/// What a probe does.
#[derive(Debug)]
pub(super) enum Probe {
    /// Connects.
    Tcp,
    /// Asks for a path and looks at the status.
    Http { path: Box<str>, host: Option<Box<str>>, headers: Box<[Box<str>]>, statuses: Statuses },
    /// Sends a heartbeat and waits for any frame.
    Tlv { format: Arc<FrameFormat>, heartbeat: Box<[u8]> },
}

/// An active check, as the nodes of a line share it.
#[derive(Debug)]
pub(super) struct CheckPlan {
    pub(super) probe: Probe,
    pub(super) tls: Option<Arc<TlsPlan>>,
    pub(super) port: Option<u16>,
    pub(super) timeout: Duration,
    pub(super) healthy_interval: Duration,
    pub(super) unhealthy_interval: Duration,
    pub(super) permits: Arc<Semaphore>,
}

impl CheckPlan {
    /// Its type, as objects name it.
    pub(super) fn name(&self) -> &'static str {
        match (&self.probe, &self.tls) {
            (Probe::Tcp, _) => "tcp",
            (Probe::Http { .. }, None) => "http",
            (Probe::Http { .. }, Some(_)) => "https",
            (Probe::Tlv { .. }, _) => "tlv",
        }
    }

    /// Probes a node once; `None`: the answer says nothing.
    pub(super) async fn run(&self, line: &Line, node: &Node) -> Option<Sign> {
        let probing = tokio::time::timeout(self.timeout, self.probe(line, node));
        match Box::pin(probing).await {
            Err(_) => Some(Sign::Bad(Failure::Timeout)),
            Ok(Err(error)) => Some(Sign::Bad(error.failure)),
            Ok(Ok(sign)) => sign,
        }
    }

    async fn probe(&self, line: &Line, node: &Node) -> Result<Option<Sign>, DialError> {
        let name = self.host().unwrap_or(&node.host);
        // On a port of its own there is no reason to expect a PROXY header.
        let proxy = if self.port.is_some() { ProxyProtocol::Off } else { line.plan.proxy_protocol };
        let dial = Dial {
            port: self.port,
            proxy,
            client: None,
            path: None,
            tls: self.tls.as_ref().map(|tls| (tls.config(Alpn::None), name)),
            limit: self.timeout,
        };
        let mut stream = dial.run(line, node).await?;
        Ok(match &self.probe {
            Probe::Tcp => Some(Sign::Good),
            Probe::Http { path, headers, statuses, .. } => {
                let request = http_request(path, self.host().unwrap_or(&node.authority), headers);
                match ask_http(&mut stream, &request).await {
                    Ok(status) => statuses.judge(status),
                    Err(failure) => Some(Sign::Bad(failure)),
                }
            }
            Probe::Tlv { format, heartbeat } => Some(match ask_tlv(&mut stream, format, heartbeat).await {
                Ok(()) => Sign::Good,
                Err(failure) => Sign::Bad(failure),
            }),
        })
    }

    fn host(&self) -> Option<&str> {
        match &self.probe {
            Probe::Http { host, .. } => host.as_deref(),
            _ => None,
        }
    }
}

fn http_request(path: &str, host: &str, headers: &[Box<str>]) -> String {
    let is_given = |name: &str| {
        headers
            .iter()
            .filter_map(|line| line.split_once(':'))
            .any(|(own, _)| own.trim().eq_ignore_ascii_case(name))
    };
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !is_given("host") {
        request.push_str(&format!("Host: {host}\r\n"));
    }
    if !is_given("user-agent") {
        request.push_str("User-Agent: sluice-health-check\r\n");
    }
    for line in headers {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("Connection: close\r\n\r\n");
    request
}

/// The status of the final answer.
async fn ask_http(stream: &mut Stream, request: &str) -> Result<u16, Failure> {
    stream.write_all(request.as_bytes()).await.map_err(|_| Failure::Broken)?;
    stream.flush().await.map_err(|_| Failure::Broken)?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        if let Some(status) = final_status(&mut buffer)? {
            return Ok(status);
        }
        if buffer.len() >= HEAD_MAX {
            return Err(Failure::Malformed);
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Err(Failure::Broken),
            Ok(_) => {}
        }
    }
}

/// Reads past interim answers; `None` when more bytes are needed.
fn final_status(buffer: &mut Vec<u8>) -> Result<Option<u16>, Failure> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut fields);
        let (status, bytes) = match response.parse(buffer) {
            Err(_) => return Err(Failure::Malformed),
            Ok(httparse::Status::Partial) => return Ok(None),
            Ok(httparse::Status::Complete(bytes)) => (response.code.ok_or(Failure::Malformed)?, bytes),
        };
        if status >= 200 || status == 101 {
            return Ok(Some(status));
        }
        buffer.drain(..bytes);
    }
}

async fn ask_tlv(stream: &mut Stream, format: &FrameFormat, heartbeat: &[u8]) -> Result<(), Failure> {
    stream.write_all(heartbeat).await.map_err(|_| Failure::Broken)?;
    stream.flush().await.map_err(|_| Failure::Broken)?;
    let mut decoder = FrameDecoder::default();
    let mut buffer = Vec::with_capacity(512);
    loop {
        match decoder.next(format, &buffer, HEAD_MAX) {
            Err(_) => return Err(Failure::Malformed),
            // A frame's head is answer enough: a body may be long.
            Ok(Piece::Frame(_)) => return Ok(()),
            Ok(_) => {}
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Err(Failure::Broken),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_answers_are_passed_over() {
        let mut bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nA: b\r\n\r\n".to_vec();
        assert_eq!(final_status(&mut bytes), Ok(Some(204)));
        assert_eq!(final_status(&mut b"HTTP/1.1 2".to_vec()), Ok(None));
        for bad in ["SSH-2.0-OpenSSH", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0"] {
            assert_eq!(final_status(&mut bad.as_bytes().to_vec()), Err(Failure::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn own_headers_of_a_probe_take_the_place_of_ours() {
        let request = http_request("/up?x=1", "a.example:81", &["user-agent: mine".into(), "X-A: b".into()]);
        assert_eq!(
            request,
            "GET /up?x=1 HTTP/1.1\r\nHost: a.example:81\r\nuser-agent: mine\r\nX-A: b\r\nConnection: close\r\n\r\n"
        );
    }
}
