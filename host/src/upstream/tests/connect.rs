use std::cell::RefCell;
use std::rc::Rc;

use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::message::Client;
use crate::net::{Stream, proxy_protocol};

fn client() -> Client {
    let address = "192.0.2.7:4000".parse().unwrap();
    Client { peer: address, address, local: "198.51.100.1:443".parse().unwrap(), tls: None, path: None }
}

async fn reach(upstream: &Upstream, request: &ConnectRequest<'_>) -> Result<Stream, ConnectError> {
    let target = upstream.select(0, &mut Tried::default()).unwrap();
    connect(&target, request).await
}

#[test]
fn plain_bytes_go_through_and_the_round_trip_is_known() {
    on_worker(async {
        let address = serve(echo).await;
        let upstream = upstream(json!({"scheme": "tcp", "nodes": {address.to_string(): 1}}));
        let mut stream = reach(&upstream, &ConnectRequest::default()).await.unwrap();
        assert_eq!(exchange(&mut stream, b"hello").await, b"hello");
        let page = status(&upstream);
        assert!(page.lines[0].rtt.rtt_ms.is_some() && page.lines[0].nodes[0].rtt.rtt_ms.is_some());
        assert_eq!((page.lines[0].counts.connects, page.lines[0].counts.connect_failures), (1, 0));
    });
}

#[test]
fn a_refused_connect_says_where_and_takes_the_node_out() {
    on_worker(async {
        let address = closed_port().await;
        let upstream = upstream(json!({"scheme": "tcp", "nodes": {address.to_string(): 1}}));
        let error = reach(&upstream, &ConnectRequest::default()).await.unwrap_err();
        assert_eq!(
            (error.failure, &*error.line, &*error.node),
            (Failure::Refused, "default", &*address.to_string())
        );
        assert!(error.failure.is_before_request());
        assert!(!upstream.is_up());
    });
}

/// A listening socket whose queue is full: further connects get no answer.
async fn black_hole() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        held.push(stream);
        assert!(held.len() < 16, "the queue never fills");
    }
    (listener, held, address)
}

#[test]
fn a_black_hole_costs_one_request_the_connect_timeout_and_then_nobody() {
    on_worker(async {
        let (_listener, _held, dead) = black_hole().await;
        let public = serve(echo).await;
        let upstream = upstream(two_lines(dead, public));
        let mut tried = Tried::default();
        let first = upstream.select(0, &mut tried).unwrap();
        assert_eq!(&*first.line.name, "leased");
        let error = connect(&first, &ConnectRequest::default()).await.unwrap_err();
        assert_eq!(error.failure, Failure::ConnectTimeout);
        let second = upstream.select(0, &mut tried).unwrap();
        assert_eq!(&*second.line.name, "public");
        assert!(connect(&second, &ConnectRequest::default()).await.is_ok());
        for _ in 0..20 {
            let target = upstream.select(0, &mut Tried::default()).unwrap();
            assert_eq!(&*target.line.name, "public");
        }
    });
}

#[test]
fn the_real_client_is_named_in_the_header_of_either_version() {
    on_worker(async {
        for (version, expected) in [("v1", "PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n"), ("v2", "")] {
            let address = serve(echo).await;
            let upstream = upstream(json!({
                "scheme": "tcp", "nodes": {address.to_string(): 1}, "send_proxy_protocol": version,
            }));
            let client = client();
            let request =
                ConnectRequest { client: Some(&client), path: Some("1;path"), ..Default::default() };
            let mut stream = reach(&upstream, &request).await.unwrap();
            let mut echoed = vec![0; if version == "v1" { expected.len() } else { 28 + 3 + 6 }];
            stream.read_exact(&mut echoed).await.unwrap();
            if version == "v1" {
                assert_eq!(echoed, expected.as_bytes());
                continue;
            }
            let (header, bytes) = proxy_protocol::parse(&echoed).unwrap().unwrap();
            assert_eq!((bytes, header.path.as_deref()), (echoed.len(), Some("1;path")));
            let proxy_protocol::Addresses::Inet { source, .. } = header.addresses else {
                panic!("{header:?}")
            };
            assert_eq!(source, client.address);
        }
    });
}

struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for a name, and its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// An echo server under TLS; with `clients` it asks for certificates.
    async fn serve(&self, name: &str, clients: bool) -> SocketAddr {
        let (certificate, key) = self.issue(name);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder();
        let builder = if clients {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            builder.with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap(),
            )
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        serve(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let (mut read, mut write) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                }
            }
        })
        .await
    }
}

#[test]
fn certificates_are_verified_against_the_name_and_the_authority() {
    on_worker(async {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let address = authority.serve("good.example", false).await;
        let try_with = async |tls: Value, name: &str| {
            let upstream =
                upstream(json!({"scheme": "https", "nodes": {address.to_string(): 1}, "tls": tls}));
            let request = ConnectRequest { tls_name: Some(name), alpn: Alpn::Http2, ..Default::default() };
            let outcome = reach(&upstream, &request).await;
            (outcome, upstream.is_up())
        };
        let (good, _) = try_with(json!({"ca": authority.pem()}), "good.example").await;
        let mut stream = good.unwrap();
        assert_eq!(stream.alpn(), Some(&b"h2"[..]));
        assert_eq!(exchange(&mut stream, b"hello").await, b"hello");
        for (tls, name) in [
            (json!({"ca": authority.pem()}), "other.example"),
            (json!({"ca": stranger.pem()}), "good.example"),
            (json!({}), "good.example"),
            (json!({"ca": authority.pem()}), "no host_name!"),
        ] {
            let (outcome, is_up) = try_with(tls, name).await;
            assert_eq!(outcome.unwrap_err().failure, Failure::Tls, "{name}");
            // The name was the client's choice: no client can take a node out with it.
            assert!(is_up);
        }
        assert!(try_with(json!({"verify": false}), "any.example").await.0.is_ok());
    });
}

#[test]
fn a_certificate_is_shown_where_the_node_asks_for_one() {
    on_worker(async {
        let authority = Authority::new();
        let address = authority.serve("good.example", true).await;
        let (certificate, key) = authority.issue("gateway.example");
        let own = json!({
            "ca": authority.pem(), "sni": "good.example",
            "client_cert": certificate.pem(), "client_key": key.serialize_pem(),
        });
        let upstream_with =
            |tls: Value| upstream(json!({"scheme": "tls", "nodes": {address.to_string(): 1}, "tls": tls}));
        let upstream = upstream_with(own);
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        let request = ConnectRequest { tls_name: target.tls_name(None), ..Default::default() };
        let mut stream = connect(&target, &request).await.unwrap();
        assert_eq!(exchange(&mut stream, b"hello").await, b"hello");
        // Without one the server hangs up: in TLS 1.3 only after our part is done.
        let upstream = upstream_with(json!({"ca": authority.pem(), "sni": "good.example"}));
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        let request = ConnectRequest { tls_name: target.tls_name(None), ..Default::default() };
        if let Ok(mut stream) = connect(&target, &request).await {
            assert!(stream.read_u8().await.is_err());
        }
    });
}

/// A relay as the TCP flow runs one. Notes the ways it was asked for.
async fn relay_server(environment: Arc<Environment>, asked: Rc<RefCell<Vec<via::Accepted>>>) -> SocketAddr {
    serve(move |mut stream| {
        let (environment, asked) = (Arc::clone(&environment), Rc::clone(&asked));
        async move {
            let mut bytes = Vec::new();
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
            let accepted = loop {
                match via::accept(&bytes, environment.way_key().unwrap(), now) {
                    Ok(Some(accepted)) => break accepted,
                    Ok(None) => assert!(stream.read_buf(&mut bytes).await.unwrap() > 0),
                    Err(_) => {
                        let _ = stream.write_all(&via::Answer::Refused.encode(0)).await;
                        return;
                    }
                }
            };
            asked.borrow_mut().push(accepted.clone());
            match relay(&environment, &accepted, Duration::from_secs(5)).await {
                Err((answer, _)) => _ = stream.write_all(&answer).await,
                Ok(mut next) => {
                    stream.write_all(&via::Answer::Connected.encode(0)).await.unwrap();
                    next.write_all(&bytes[accepted.header_bytes..]).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut next).await;
                }
            }
        }
    })
    .await
}

#[test]
fn two_relays_carry_a_connection_and_say_honestly_when_they_cannot() {
    on_worker(async {
        let environment = environment();
        let asked = Rc::default();
        let first = relay_server(Arc::clone(&environment), Rc::clone(&asked)).await;
        let second = relay_server(Arc::clone(&environment), Rc::clone(&asked)).await;
        let through = |node: SocketAddr| {
            let value = json!({"scheme": "tcp", "lines": [
                {"name": "far", "via": [first.to_string(), second.to_string()], "nodes": {node.to_string(): 1}},
            ]});
            upstream_in(&environment, value, None)
        };
        let client = client();
        let request = ConnectRequest { client: Some(&client), path: Some("1;path"), ..Default::default() };
        let mut stream = reach(&through(serve(echo).await), &request).await.unwrap();
        assert_eq!(exchange(&mut stream, b"hello").await, b"hello");
        for accepted in asked.borrow().iter() {
            assert_eq!(accepted.addresses, Some((client.address, client.local)));
            assert_eq!(accepted.path.as_deref(), Some("1;path"));
        }
        assert_eq!(asked.borrow().len(), 2);
        let error = reach(&through(closed_port().await), &request).await.unwrap_err();
        assert_eq!(error.failure, Failure::Refused);
        assert!(error.to_string().contains("relay 2 on the way answered no_listener"), "{error}");
    });
}

#[test]
fn a_relay_lets_in_only_the_fleet() {
    on_worker(async {
        let relay = relay_server(environment(), Rc::default()).await;
        let way_key = via::WayKey::new(&[&[8; 32]]);
        let stranger = Environment::new(Options { dns: DnsOptions::default(), way_key });
        let value = json!({"scheme": "tcp", "lines": [
            {"name": "far", "via": [relay.to_string()], "nodes": {"127.0.0.1:1": 1}},
        ]});
        let error =
            reach(&upstream_in(&stranger, value, None), &ConnectRequest::default()).await.unwrap_err();
        assert_eq!(error.failure, Failure::Relay);
        assert!(error.to_string().contains("answered refused"), "{error}");
    });
}
