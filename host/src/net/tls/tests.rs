//! Handshakes through real sockets, with certificates made on the spot.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::config::Id;
use crate::config::objects::{Listener, Ssl};
use crate::net::HandshakeFailure;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn below(&self, name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `names` and its key, PEM.
    fn issue(&self, names: &[&str], key: &KeyPair) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        (params.signed_by(key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn ecdsa(&self, names: &[&str]) -> (String, String) {
        self.issue(names, &KeyPair::generate().unwrap())
    }

    fn ed25519(&self, names: &[&str]) -> (String, String) {
        self.issue(names, &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    }
}

fn ssl(id: &str, names: &[&str], pair: &(String, String), more: serde_json::Value) -> Ssl {
    let mut object = serde_json::json!({"id": id, "snis": names, "cert": pair.0, "key": pair.1});
    if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
        object.extend(more.clone());
    }
    serde_json::from_value(object).unwrap()
}

fn profile(tls: serde_json::Value) -> TlsProfile {
    let object = serde_json::json!({"id": "edge", "bind": "127.0.0.1:0", "tls": tls});
    let listener: Listener = serde_json::from_value(object).unwrap();
    TlsProfile::build(&listener).unwrap().unwrap()
}

struct Server {
    certificates: Arc<ArcSwap<Certificates>>,
    sessions: Sessions,
    profile: TlsProfile,
}

impl Server {
    fn new(tls: serde_json::Value) -> Self {
        Self { certificates: Arc::default(), sessions: Sessions::new(), profile: profile(tls) }
    }

    fn put(&self, ssl: &Ssl) -> Vec<String> {
        let entry = Entry::build(ssl, &self.sessions).unwrap().unwrap();
        let mut certificates = Certificates::clone(&self.certificates.load());
        let conflicts = certificates.insert(Arc::new(entry));
        self.certificates.store(Arc::new(certificates));
        conflicts
    }

    /// One handshake; on success the server answers with what it knows and closes.
    async fn meet(
        &self,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> (Result<Secured, HandshakeError>, Option<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(name.to_owned()).unwrap();
            let mut tls = TlsConnector::from(config).connect(name, tcp).await.ok()?;
            let leaf = tls.get_ref().1.peer_certificates().unwrap()[0].to_vec();
            // Reading to the end takes the session ticket in.
            let _ = tls.read_to_end(&mut Vec::new()).await;
            Some(leaf)
        };
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut outcome = accept(
                tcp,
                Bytes::new(),
                &self.profile,
                || self.certificates.load_full(),
                Duration::from_secs(10),
            )
            .await;
            if let Ok(secured) = &mut outcome {
                secured.stream.write_all(b"ok").await.unwrap();
                secured.stream.shutdown().await.unwrap();
            }
            outcome
        };
        let (leaf, outcome) = tokio::join!(client, server);
        (outcome, leaf)
    }
}

fn client(authority: &Authority) -> ClientConfig {
    client_of(authority, rustls::DEFAULT_VERSIONS, None)
}

fn client_of(
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
    pair: Option<&(String, String)>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match pair {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = keys::read_chain(cert).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

fn der(pair: &(String, String)) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.0.as_bytes()).unwrap().to_vec()
}

fn none() -> serde_json::Value {
    serde_json::json!({})
}

#[tokio::test]
async fn the_name_chooses_the_certificate_exact_before_wildcard() {
    let authority = Authority::new("root");
    let server = Server::new(serde_json::json!({}));
    let exact = authority.ecdsa(&["a.zone.example"]);
    let wildcard = authority.ecdsa(&["*.zone.example"]);
    let partial = authority.ecdsa(&["x-api.zone.example"]);
    server.put(&ssl("1", &["a.zone.example"], &exact, none()));
    server.put(&ssl("2", &["*.zone.example"], &wildcard, none()));
    let config = Arc::new(client(&authority));
    for (name, pair) in [("a.zone.example", &exact), ("b.zone.example", &wildcard)] {
        let (outcome, leaf) = server.meet(Arc::clone(&config), name).await;
        assert_eq!(leaf.unwrap(), der(pair), "{name}");
        let known = outcome.unwrap().client;
        assert_eq!(known.sni.as_deref(), Some(name));
        assert_eq!((known.version, known.cipher), ("TLSv1.3", "TLS_AES_256_GCM_SHA384"));
    }
    let (outcome, _) = server.meet(Arc::clone(&config), "b.a.zone.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::UnknownServerName);

    server.put(&ssl("3", &["*-api.zone.example"], &partial, none()));
    let (_, leaf) = server.meet(config, "x-api.zone.example").await;
    assert_eq!(leaf.unwrap(), der(&partial));
}

#[tokio::test]
async fn a_swap_holds_from_the_next_hello_and_removal_takes_the_name_out() {
    let authority = Authority::new("root");
    let server = Server::new(serde_json::json!({}));
    for _ in 0..2 {
        let pair = authority.ecdsa(&["a.example"]);
        server.put(&ssl("1", &["a.example"], &pair, none()));
        // A client without a session from before: a resumed one is shown nothing.
        let config = Arc::new(client(&authority));
        assert_eq!(server.meet(config, "a.example").await.1.unwrap(), der(&pair));
    }
    let mut certificates = Certificates::clone(&server.certificates.load());
    certificates.remove(&Id::new("1").unwrap());
    assert!(certificates.is_empty());
    assert_eq!(server.certificates.load().len(), 1, "the version before is untouched");
    server.certificates.store(Arc::new(certificates));
    let (outcome, _) = server.meet(Arc::new(client(&authority)), "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::UnknownServerName);
}

#[tokio::test]
async fn several_key_types_are_chosen_by_what_the_client_can_verify() {
    let authority = Authority::new("root");
    let server = Server::new(serde_json::json!({}));
    let (ecdsa, ed25519) = (authority.ecdsa(&["a.example"]), authority.ed25519(&["a.example"]));
    let more = serde_json::json!({"certs": [ed25519.0], "keys": [ed25519.1]});
    server.put(&ssl("1", &["a.example"], &ecdsa, more));
    for (schemes, pair) in [
        (&[rustls::SignatureScheme::ED25519][..], &ed25519),
        (&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256][..], &ecdsa),
    ] {
        let verifier = OnlySchemes(schemes.to_vec());
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        assert_eq!(server.meet(Arc::new(config), "a.example").await.1.unwrap(), der(pair));
    }
}

/// Trusts everyone who signs with one of its schemes.
#[derive(Debug)]
struct OnlySchemes(Vec<rustls::SignatureScheme>);

impl rustls::client::danger::ServerCertVerifier for OnlySchemes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}

#[tokio::test]
async fn versions_are_what_listener_and_object_both_allow() {
    let authority = Authority::new("root");
    let pair = authority.ecdsa(&["a.example"]);
    let server = Server::new(serde_json::json!({}));
    server.put(&ssl("1", &["a.example"], &pair, serde_json::json!({"ssl_protocols": ["TLSv1.2"]})));
    let (outcome, _) = server.meet(Arc::new(client(&authority)), "a.example").await;
    assert_eq!(outcome.unwrap().client.version, "TLSv1.2");

    let only_13 = Arc::new(client_of(&authority, &[&rustls::version::TLS13], None));
    let (outcome, _) = server.meet(only_13, "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::Version);

    let strict = Server::new(serde_json::json!({"versions": ["TLSv1.3"]}));
    strict.put(&ssl("1", &["a.example"], &pair, serde_json::json!({"ssl_protocols": ["TLSv1.2"]})));
    let (outcome, _) = strict.meet(Arc::new(client(&authority)), "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::Version);
}

#[tokio::test]
async fn a_fallback_name_serves_who_asks_for_none_or_another() {
    let authority = Authority::new("root");
    let pair = authority.issue(&["a.example", "127.0.0.1"], &KeyPair::generate().unwrap());
    for (tls, is_served) in [(serde_json::json!({"fallback_sni": "a.example"}), true), (none(), false)] {
        let server = Server::new(tls);
        server.put(&ssl("1", &["a.example"], &pair, none()));
        // A name that is an address is not sent as a server name.
        let (outcome, leaf) = server.meet(Arc::new(client(&authority)), "127.0.0.1").await;
        assert_eq!(leaf.is_some(), is_served);
        match outcome {
            Ok(secured) => assert_eq!(secured.client.sni, None),
            Err(error) => assert_eq!(error.reason, HandshakeFailure::NoServerName),
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed_in_both_versions_and_across_swaps() {
    let authority = Authority::new("root");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = Server::new(serde_json::json!({}));
        let config = Arc::new(client_of(&authority, &[version], None));
        let mut resumed = Vec::new();
        for _ in 0..2 {
            server.put(&ssl("1", &["a.example"], &authority.ecdsa(&["a.example"]), none()));
            resumed.push(server.meet(Arc::clone(&config), "a.example").await.0.unwrap().client.resumed);
        }
        assert_eq!(resumed, [false, true]);
    }
}

#[tokio::test]
async fn client_certificates_are_verified_by_the_names_authority() {
    let (authority, own, other) = (Authority::new("root"), Authority::new("own"), Authority::new("other"));
    let server = Server::new(serde_json::json!({}));
    let pair = authority.ecdsa(&["a.example"]);
    server.put(&ssl("1", &["a.example"], &pair, serde_json::json!({"client": {"ca": own.pem()}})));

    let good = own.ecdsa(&["client"]);
    let config = Arc::new(client_of(&authority, rustls::DEFAULT_VERSIONS, Some(&good)));
    for is_resumed in [false, true] {
        let known = server.meet(Arc::clone(&config), "a.example").await.0.unwrap().client;
        assert_eq!(known.resumed, is_resumed);
        assert_eq!(&*known.certificate.unwrap().subject, "CN=leaf");
    }
    let (outcome, _) = server.meet(Arc::new(client(&authority)), "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::NoClientCertificate);

    let bad = other.ecdsa(&["client"]);
    let config = Arc::new(client_of(&authority, rustls::DEFAULT_VERSIONS, Some(&bad)));
    let (outcome, _) = server.meet(config, "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::BadClientCertificate);
}

#[tokio::test]
async fn a_session_opens_nothing_under_another_rule() {
    let (authority, own) = (Authority::new("root"), Authority::new("own"));
    let server = Server::new(serde_json::json!({}));
    let pair = authority.ecdsa(&["a.example", "b.example"]);
    server.put(&ssl("1", &["a.example"], &pair, none()));
    let config = Arc::new(client(&authority));
    assert!(server.meet(Arc::clone(&config), "a.example").await.0.is_ok());
    // The same name now wants a certificate: the ticket from before is worth nothing.
    server.put(&ssl("1", &["a.example"], &pair, serde_json::json!({"client": {"ca": own.pem()}})));
    let (outcome, _) = server.meet(config, "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::NoClientCertificate);
}

#[tokio::test]
async fn the_chain_of_a_client_is_no_longer_than_the_depth() {
    let (authority, own) = (Authority::new("root"), Authority::new("own"));
    let between = own.below("between");
    let (cert, key) = between.ecdsa(&["client"]);
    let chained = (format!("{cert}{}", between.pem()), key);
    let config = Arc::new(client_of(&authority, rustls::DEFAULT_VERSIONS, Some(&chained)));
    for (depth, is_served) in [(0, false), (1, true)] {
        let server = Server::new(serde_json::json!({}));
        let rule = serde_json::json!({"client": {"ca": own.pem(), "depth": depth}});
        server.put(&ssl("1", &["a.example"], &authority.ecdsa(&["a.example"]), rule));
        let outcome = server.meet(Arc::clone(&config), "a.example").await.0;
        assert_eq!(outcome.is_ok(), is_served, "depth {depth}");
    }
}

#[tokio::test]
async fn a_request_needs_the_rule_of_its_own_host() {
    let (authority, own) = (Authority::new("root"), Authority::new("own"));
    let server = Server::new(serde_json::json!({}));
    let pair = authority.ecdsa(&["open.example", "closed.example"]);
    server.put(&ssl("1", &["open.example"], &pair, none()));
    let rule = serde_json::json!({"client": {"ca": own.pem(), "skip_mtls_uri_regex": ["^/public/"]}});
    server.put(&ssl("2", &["closed.example"], &pair, rule));
    let config = Arc::new(client(&authority));
    let certificates = server.certificates.load_full();
    let may = |secured: &Secured, host: &str, path: &str| {
        check_client(&certificates, &server.profile, secured.rule.as_ref(), &secured.client, host, path)
    };

    let open = server.meet(Arc::clone(&config), "open.example").await.0.unwrap();
    assert_eq!(may(&open, "open.example", "/"), Ok(()));
    assert_eq!(may(&open, "closed.example", "/"), Err(ClientRefusal::Misdirected));
    let closed = server.meet(config, "closed.example").await.0.unwrap();
    assert_eq!(may(&closed, "closed.example", "/public/a"), Ok(()));
    assert_eq!(may(&closed, "closed.example", "/private"), Err(ClientRefusal::CertificateRequired));
}

#[tokio::test]
async fn two_rules_for_one_name_are_told_and_the_stricter_holds() {
    let (authority, own) = (Authority::new("root"), Authority::new("own"));
    let server = Server::new(serde_json::json!({}));
    server.put(&ssl("1", &["a.example"], &authority.ecdsa(&["a.example"]), none()));
    let rule = serde_json::json!({"client": {"ca": own.pem()}});
    let conflicts = server.put(&ssl("2", &["a.example"], &authority.ecdsa(&["a.example"]), rule));
    assert_eq!(
        conflicts,
        ["sni a.example is also covered by ssls/1, with another rule for client certificates"]
    );
    let (outcome, _) = server.meet(Arc::new(client(&authority)), "a.example").await;
    assert_eq!(outcome.unwrap_err().reason, HandshakeFailure::NoClientCertificate);
}

#[tokio::test]
async fn failures_before_the_keys_have_their_reasons() {
    let server = Server::new(serde_json::json!({}));
    let message = [&[1, 0, 0xff, 0xf0][..], &vec![0; 0xfff0]].concat();
    let huge: Vec<u8> =
        message.chunks(1 << 12).flat_map(|part| [&[22, 3, 1, 0x10, 0], part].concat()).collect();
    let table: [(&[u8], HandshakeFailure); 4] = [
        (b"GET / HTTP/1.1\r\n\r\n", HandshakeFailure::NotTls),
        (b"", HandshakeFailure::Closed),
        (&[22, 3, 1], HandshakeFailure::Closed),
        (&huge, HandshakeFailure::HelloTooLarge),
    ];
    for (bytes, reason) in table {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let limit = Duration::from_secs(10);
        let send = async {
            let _ = peer.write_all(bytes).await;
            let _ = peer.shutdown().await;
            let _ = peer.read_to_end(&mut Vec::new()).await;
        };
        let handshake = async {
            accept(tcp, Bytes::new(), &server.profile, || server.certificates.load_full(), limit)
                .await
                .unwrap_err()
        };
        let ((), error) = tokio::join!(send, handshake);
        assert_eq!(error.reason, reason, "{error}");
    }
}

#[tokio::test]
async fn a_silent_client_is_given_up_on() {
    let server = Server::new(serde_json::json!({}));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let limit = Duration::from_millis(10);
    let error = accept(tcp, Bytes::new(), &server.profile, || server.certificates.load_full(), limit)
        .await
        .unwrap_err();
    assert_eq!(error.reason, HandshakeFailure::Timeout);
}

#[test]
fn unusable_objects_name_their_field() {
    let authority = Authority::new("root");
    let (first, second) = (authority.ecdsa(&["a.example"]), authority.ecdsa(&["a.example"]));
    let crossed = (first.0.clone(), second.1.clone());
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let table = [
        (ssl("x", &["a.example"], &crossed, none()), "ssls/x: key: does not belong"),
        (ssl("x", &["a.example"], &(junk.clone(), first.1.clone()), none()), "ssls/x: cert: certificate 1"),
        (
            ssl("x", &["a.example"], &first, serde_json::json!({"certs": [second.0], "keys": [first.1]})),
            "ssls/x: keys[0]: does not belong",
        ),
        (
            ssl("x", &["a.example"], &first, serde_json::json!({"client": {"ca": junk}})),
            "ssls/x: client.ca: certificate 1",
        ),
    ];
    for (object, wanted) in table {
        let error = Entry::build(&object, &Sessions::new()).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let authority = Authority::new("root");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let pair = (params.signed_by(&key, &authority.0).unwrap().pem(), key.serialize_pem());
    let entry = Entry::build(&ssl("x", &["a.example"], &pair, none()), &Sessions::new()).unwrap().unwrap();
    assert_eq!(entry.warnings().len(), 1);
    assert!(entry.warnings()[0].starts_with("cert: certificate expired at"), "{:?}", entry.warnings());
}
