//! Requests that edge functions make themselves.
//!
//! A function reaches only the hosts its module object grants. A host that is
//! granted by name is not reached when its name leads to this machine or to a
//! private network: such addresses must be granted as they are.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::net::tls::public_roots;
use crate::plugin::host::Owner;

/// How long a function's own request may take to connect, and to be answered,
/// at most; a function may ask for less.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Whether a host is granted, and whether by its own name or address. A grant
/// is `host` (any port) or `host:port`; `*.example.com` takes every name below,
/// `*` every public host.
fn allow(grants: &[Box<str>], host: &str, port: u16) -> Option<Granted> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    grants
        .iter()
        .filter_map(|grant| {
            let (name, own_port) = split_port(grant);
            if own_port.is_some_and(|own| own != port) {
                return None;
            }
            match name.strip_prefix('*') {
                Some("") => Some(Granted::ByPattern),
                Some(suffix) => (host.len() > suffix.len()
                    && host.to_ascii_lowercase().ends_with(&suffix.to_ascii_lowercase()))
                .then_some(Granted::ByPattern),
                None => name.eq_ignore_ascii_case(host).then(|| match host.parse::<IpAddr>() {
                    Ok(_) => Granted::AsAddress,
                    Err(_) => Granted::ByPattern,
                }),
            }
        })
        .max()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Granted {
    ByPattern,
    AsAddress,
}

fn split_port(grant: &str) -> (&str, Option<u16>) {
    if let Ok(address) = grant.parse::<SocketAddr>() {
        let end = grant.rfind(':').unwrap_or(grant.len());
        return (grant[..end].trim_start_matches('[').trim_end_matches(']'), Some(address.port()));
    }
    match grant.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (grant, None),
        },
        _ => (grant.trim_start_matches('[').trim_end_matches(']'), None),
    }
}

/// Whether an address belongs to the public network.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                // Shared address space, RFC 6598, and benchmarking, RFC 2544.
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
                || a >= 240)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                // Unique local and link local, RFC 4193 and RFC 4291.
                || first & 0xfe00 == 0xfc00
                || first & 0xffc0 == 0xfe80)
        }
    }
}

/// The hooks by which `wasi:http` reaches the network.
pub(super) struct Outgoing {
    owner: Arc<Owner>,
}

impl Outgoing {
    pub(super) fn new(owner: Arc<Owner>) -> Self {
        Self { owner }
    }
}

pub(in crate::plugin) type Answer =
    (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let owner = Arc::clone(&self.owner);
        Box::new(async move { send(&owner.fetch, request, options).await })
    }
}

pub(in crate::plugin) async fn send(
    grants: &[Box<str>],
    mut request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Answer, Error> {
    let tls = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let host = request.uri().host().ok_or(Error::HttpRequestUriInvalid)?.to_owned();
    let port = request.uri().port_u16().unwrap_or(if tls { 443 } else { 80 });
    let granted = allow(grants, &host, port).ok_or(Error::HttpRequestDenied)?;
    let limit = |asked: Option<Duration>| asked.unwrap_or(TIME_MAX).min(TIME_MAX);
    let options = options.unwrap_or_default();
    let connecting = connect(&host, port, tls, granted);
    let stream = tokio::time::timeout(limit(options.connect_timeout), connecting)
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = target.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
    let mut connection = Box::pin(connection);
    let mut sending = std::pin::pin!(sender.send_request(request));
    let answered = std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(answer) = sending.as_mut().poll(context) {
            return std::task::Poll::Ready(answer);
        }
        // Driving the connection is what makes the answer come.
        let _ = connection.as_mut().poll(context);
        sending.as_mut().poll(context)
    });
    let response = tokio::time::timeout(limit(options.first_byte_timeout), answered)
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
    Ok((response, Box::new(async move { connection.await.map_err(Error::from) })))
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn connect(host: &str, port: u16, tls: bool, granted: Granted) -> Result<Box<dyn Wire>, Error> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name, port))
        .await
        .map_err(|_| Error::DnsError { rcode: None, info_code: None })?
        .filter(|address| granted == Granted::AsAddress || is_public(address.ip()))
        .collect();
    if addresses.is_empty() {
        return Err(Error::DestinationIpProhibited);
    }
    let stream = TcpStream::connect(&*addresses).await.map_err(Error::Connect)?;
    if !tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let stream = tls_connector()?.connect(name, stream).await.map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

/// Verifies servers by the system's authorities, as upstreams are.
fn tls_connector() -> Result<tokio_rustls::TlsConnector, Error> {
    static CONFIG: OnceLock<Option<Arc<rustls::ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?;
        Some(Arc::new(builder.with_root_certificates(public_roots()).with_no_client_auth()))
    });
    config.clone().map(tokio_rustls::TlsConnector::from).ok_or(Error::TlsProtocolError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(list: &[&str], host: &str, port: u16) -> Option<Granted> {
        let grants: Vec<Box<str>> = list.iter().map(|grant| (*grant).into()).collect();
        allow(&grants, host, port)
    }

    #[test]
    fn only_what_is_granted_is_reached() {
        for (list, host, port, allowed) in [
            (&[][..], "a.example", 443, false),
            (&["a.example"][..], "a.example", 443, true),
            (&["a.example"], "A.Example", 8443, true),
            (&["a.example:443"], "a.example", 8443, false),
            (&["*.example"], "a.example", 80, true),
            (&["*.example"], "example", 80, false),
            (&["*.example"], "a.example.evil.test", 80, false),
            (&["*"], "anything.test", 80, true),
            (&["127.0.0.1:9000"], "127.0.0.1", 9000, true),
            (&["127.0.0.1:9000"], "127.0.0.1", 9001, false),
            (&["[::1]:9000"], "[::1]", 9000, true),
        ] {
            assert_eq!(granted(list, host, port).is_some(), allowed, "{list:?} {host}:{port}");
        }
    }

    #[test]
    fn own_and_private_addresses_are_reached_only_when_granted_as_they_are() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "224.0.0.1",
            "198.18.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "100.128.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        assert_eq!(granted(&["*"], "127.0.0.1", 80), Some(Granted::ByPattern));
        assert_eq!(granted(&["*", "127.0.0.1"], "127.0.0.1", 80), Some(Granted::AsAddress));
    }
}
