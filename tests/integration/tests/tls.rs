//! TLS on both sides: certificates by name, client certificates, resumption,
//! upstreams that are verified, names passed through without ending TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sluice_harness::{
    Authority, Curl, HttpEcho, Identity, KeyKind, Raw, Sluice, SluiceBuilder, eventually, openssl_client,
};
use sluice_tests::load::{Load, answer};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";

/// A gateway with TLS at `edge`, everything going to one origin.
fn gateway(tls: Value) -> (SluiceBuilder, HttpEcho) {
    let origin = HttpEcho::start("origin");
    let builder = Sluice::builder().listener("edge", json!({"tls": tls})).put(
        "routes",
        "all",
        json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}),
    );
    (builder, origin)
}

/// An answer over TLS as `name`; an error if there is none.
fn ask(
    sluice: &Sluice,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
    request: &str,
) -> Result<u16, String> {
    let mut raw = Raw::connect_tls(sluice.address("edge"), Arc::clone(config), name)
        .map_err(|error| error.to_string())?;
    raw.try_send(request).map_err(|error| error.to_string())?;
    answer(&mut raw).map(|(status, _)| status)
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// The serial number of the certificate shown, by openssl.
fn serial(sluice: &Sluice, name: &str) -> Option<Vec<u8>> {
    let authority = Authority::new("unused");
    let config = permissive(&authority);
    let raw = Raw::connect_tls(sluice.address("edge"), config, name).ok()?;
    Some(raw.tls()?.peer_certificates()?[0].as_ref().to_vec())
}

/// A client that takes any certificate, to look at what is shown.
fn permissive(_: &Authority) -> Arc<rustls::ClientConfig> {
    #[derive(Debug)]
    struct Any(Arc<rustls::crypto::CryptoProvider>);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Any(Arc::clone(&provider)));
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn der(identity: &Identity) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap().as_ref().to_vec()
}

#[test]
fn the_certificate_follows_the_name_exact_before_wildcard() {
    let authority = Authority::new("Test root");
    let exact = authority.leaf(&["a.example"]);
    let wild = authority.leaf(&["*.example"]);
    let other = authority.leaf(&["other.test"]);
    let (builder, _origin) = gateway(json!(true));
    let sluice = builder
        .put("ssls", "exact", exact.ssl(&["a.example"]))
        .put("ssls", "wild", wild.ssl(&["*.example"]))
        .put("ssls", "other", other.ssl(&["other.test"]))
        .start();
    for (name, identity) in
        [("a.example", &exact), ("A.Example", &exact), ("b.example", &wild), ("other.test", &other)]
    {
        assert_eq!(serial(&sluice, name), Some(der(identity)), "{name}");
    }
    // A name nobody has, or none at all: no certificate is shown to it.
    for name in ["none.test", "x.b.example", "127.0.0.1"] {
        assert_eq!(serial(&sluice, name), None, "{name}");
    }
    let failed = eventually("failed handshakes are counted", || {
        let metrics = sluice.metrics();
        let all = metrics.count("sluice_tls_handshakes_total", &[]);
        let good = metrics.count("sluice_tls_handshakes_total", &[("result", "full")]);
        (all - good >= 3.0).then_some(all - good)
    });
    assert!(failed >= 3.0);
    // Unless the listener says whose is shown then.
    let bind = sluice.address("edge");
    let tls = json!({"fallback_sni": "other.test"});
    sluice.apply("listeners", "edge", json!({"bind": bind, "tls": tls}));
    for name in ["none.test", "127.0.0.1"] {
        eventually("the fall-back is shown", || (serial(&sluice, name) == Some(der(&other))).then_some(()));
    }
    assert_eq!(serial(&sluice, "a.example"), Some(der(&exact)));
}

#[test]
fn the_client_chooses_between_key_types_of_one_name() {
    let authority = Authority::new("Test root");
    let rsa = authority.leaf_with(&["a.example"], KeyKind::Rsa);
    let ecdsa = authority.leaf(&["a.example"]);
    let (builder, _origin) = gateway(json!(true));
    let both = json!({"sni": "a.example", "cert": rsa.cert, "key": rsa.key, "certs": [ecdsa.cert], "keys": [ecdsa.key]});
    let sluice = builder.put("ssls", "a", both).start();
    let ca = authority.path();
    let ca = ca.to_str().unwrap();
    for (arguments, signature) in [
        (vec!["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA"),
        (vec!["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
        (vec!["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "RSA-PSS"),
        (vec!["-tls1_3", "-sigalgs", "ECDSA+SHA256"], "ECDSA"),
    ] {
        let fixed = ["-servername", "a.example", "-CAfile", ca, "-verify_return_error"];
        let client = openssl_client(sluice.address("edge"), &[&fixed[..], &arguments].concat(), b"");
        assert!(client.success, "{arguments:?}: {}", client.text);
        let shown = client.field("Peer signature type").unwrap_or_default();
        assert!(shown.starts_with(signature), "{arguments:?}: {shown}");
    }
}

#[test]
fn versions_are_those_allowed() {
    let authority = Authority::new("Test root");
    let (leaf, old) = (authority.leaf(&["a.example"]), authority.leaf(&["old.example"]));
    let mut only_old = old.ssl(&["old.example"]);
    only_old["ssl_protocols"] = json!(["TLSv1.2"]);
    let (builder, _origin) = gateway(json!(true));
    let sluice = builder
        .listener("new", json!({"tls": {"versions": ["TLSv1.3"]}}))
        .put("ssls", "a", leaf.ssl(&["a.example"]))
        .put("ssls", "old", only_old)
        .start();
    for (listener, name, version, works) in [
        ("edge", "a.example", "-tls1_2", true),
        ("edge", "a.example", "-tls1_3", true),
        ("edge", "a.example", "-tls1_1", false),
        ("new", "a.example", "-tls1_2", false),
        ("new", "a.example", "-tls1_3", true),
        ("edge", "old.example", "-tls1_2", true),
        ("edge", "old.example", "-tls1_3", false),
    ] {
        let client = openssl_client(sluice.address(listener), &["-servername", name, version], b"");
        assert_eq!(client.success, works, "{listener} {name} {version}: {}", client.text);
    }
}

#[test]
fn sessions_are_resumed_in_both_versions() {
    let authority = Authority::new("Test root");
    let leaf = authority.leaf(&["a.example"]);
    let (builder, _origin) = gateway(json!(true));
    let sluice = builder.put("ssls", "a", leaf.ssl(&["a.example"])).start();
    let folder = tempfile::tempdir().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let file = folder.path().join(version);
        let file = file.to_str().unwrap();
        let fixed = ["-servername", "a.example", version];
        let first = openssl_client(
            sluice.address("edge"),
            &[&fixed[..], &["-sess_out", file]].concat(),
            GET.as_bytes(),
        );
        assert!(first.text.contains("New, TLSv1"), "{}", first.text);
        // Workers share sessions: it does not matter which one takes it.
        for turn in 0..6 {
            let again = openssl_client(
                sluice.address("edge"),
                &[&fixed[..], &["-sess_in", file]].concat(),
                GET.as_bytes(),
            );
            assert!(again.text.contains("Reused, TLSv1"), "{version} {turn}: {}", again.text);
            assert!(again.text.contains("HTTP/1.1 200"), "{version} {turn}: {}", again.text);
        }
    }
    eventually("resumptions are counted", || {
        let resumed = [("result", "resumed")];
        (sluice.metrics().count("sluice_tls_handshakes_total", &resumed) >= 12.0).then_some(())
    });
    sluice.logged("a resumed session", |line| line["tls"]["resumed"] == true);
}

#[test]
fn a_certificate_is_swapped_under_load_without_a_failed_handshake() {
    let authority = Authority::new("Test root");
    let (one, two) = (authority.leaf(&["a.example"]), authority.leaf(&["a.example"]));
    let (builder, _origin) = gateway(json!(true));
    let sluice = builder.put("ssls", "a", one.ssl(&["a.example"])).start();
    let address = sluice.address("edge");
    let config = authority.client_config(&["http/1.1"]);
    let load = Load::start(3, |_| {
        let config = Arc::clone(&config);
        move || {
            let mut raw = Raw::connect_tls(address, Arc::clone(&config), "a.example")
                .map_err(|error| format!("handshake: {error}"))?;
            raw.try_send(GET).map_err(|error| error.to_string())?;
            match answer(&mut raw)? {
                (200, _) => Ok(()),
                (_, head) => Err(head),
            }
        }
    });
    for turn in 0..20 {
        let next = if turn % 2 == 0 { &two } else { &one };
        sluice.put("ssls", "a", next.ssl(&["a.example"]));
        eventually("the new certificate is shown", || {
            (serial(&sluice, "a.example") == Some(der(next))).then_some(())
        });
    }
    // One that does not fit its key changes nothing.
    let mixed = json!({"snis": ["a.example"], "cert": one.cert, "key": two.key});
    sluice.apply("ssls", "a", mixed);
    assert!(sluice.quarantined("ssls", "a").is_some_and(|reason| !reason.contains("PRIVATE")));
    load.wait_more(10);
    load.stop();
}

#[test]
fn clients_must_show_a_certificate_of_the_right_authority() {
    let (authority, clients, strangers) =
        (Authority::new("Servers"), Authority::new("Clients"), Authority::new("Strangers"));
    let (open, closed, partly) = (
        authority.leaf(&["open.example"]),
        authority.leaf(&["closed.example"]),
        authority.leaf(&["partly.example"]),
    );
    let mut required = closed.ssl(&["closed.example"]);
    required["client"] = json!({"ca": clients.pem()});
    let mut skipping = partly.ssl(&["partly.example"]);
    skipping["client"] = json!({"ca": clients.pem(), "skip_mtls_uri_regex": ["^/public/"]});
    let (builder, origin) = gateway(json!(true));
    let sluice = builder
        .put("ssls", "open", open.ssl(&["open.example"]))
        .put("ssls", "closed", required)
        .put("ssls", "partly", skipping)
        .start();
    let alice = clients.client("alice");
    let mallory = strangers.client("mallory");
    let nobody = authority.client_config(&["http/1.1"]);
    let known = authority.client_config_as(&["http/1.1"], &alice);
    let stranger = authority.client_config_as(&["http/1.1"], &mallory);

    assert_eq!(ask(&sluice, &nobody, "open.example", &get("open.example", "/")), Ok(200));
    assert_eq!(ask(&sluice, &known, "closed.example", &get("closed.example", "/alice")), Ok(200));
    assert!(ask(&sluice, &nobody, "closed.example", &get("closed.example", "/")).is_err());
    assert!(ask(&sluice, &stranger, "closed.example", &get("closed.example", "/")).is_err());
    let line = sluice.logged("the client's certificate", |line| line["uri"] == "/alice");
    assert!(line["tls"]["client_subject"].as_str().unwrap().contains("alice"), "{line}");
    assert_eq!(line["tls"]["client_fingerprint"].as_str().unwrap().len(), 64, "{line}");

    assert_eq!(ask(&sluice, &nobody, "partly.example", &get("partly.example", "/public/x")), Ok(200));
    assert_eq!(ask(&sluice, &nobody, "partly.example", &get("partly.example", "/private")), Ok(400));
    assert_eq!(
        ask(&sluice, &nobody, "partly.example", &get("partly.example", "/public/../private")),
        Ok(400)
    );
    assert_eq!(ask(&sluice, &known, "partly.example", &get("partly.example", "/private")), Ok(200));
    assert!(ask(&sluice, &stranger, "partly.example", &get("partly.example", "/public/x")).is_err());

    // A connection made without a certificate is no way to the closed name.
    let before = origin.requests();
    assert_eq!(ask(&sluice, &nobody, "open.example", &get("closed.example", "/")), Ok(421));
    let over_h2 = Curl::get("https://open.example/x")
        .to(sluice.address("edge"))
        .ca(authority.path())
        .http2()
        .header("Host: closed.example")
        .run();
    assert_eq!((over_h2.status, over_h2.version.as_str()), (421, "2"), "{}", over_h2.error);
    assert_eq!(origin.requests(), before);
}

#[test]
fn the_depth_of_a_clients_chain_is_limited() {
    let authority = Authority::new("Servers");
    let folder = tempfile::tempdir().unwrap();
    let chain = client_chain(folder.path());
    let mut builder = gateway(json!(true));
    for (name, depth) in [("none.example", 0), ("one.example", 1)] {
        let mut ssl = authority.leaf(&[name]).ssl(&[name]);
        ssl["client"] = json!({"ca": chain.root, "depth": depth});
        builder.0 = builder.0.put("ssls", name, ssl);
    }
    let sluice = builder.0.start();
    for (name, works) in [("none.example", false), ("one.example", true)] {
        let arguments =
            ["-servername", name, "-cert", &chain.cert, "-cert_chain", &chain.between, "-key", &chain.key];
        let client = openssl_client(sluice.address("edge"), &arguments, get(name, "/").as_bytes());
        assert_eq!(client.text.contains("HTTP/1.1 200"), works, "{name}: {}", client.text);
    }
}

struct Chain {
    root: String,
    between: String,
    cert: String,
    key: String,
}

/// A client's certificate below an authority below a root, by openssl.
fn client_chain(folder: &std::path::Path) -> Chain {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let run = |arguments: &[&str]| {
        let output = sluice_harness::tool("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(folder.join("ca.ext"), "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
        .unwrap();
    std::fs::write(folder.join("leaf.ext"), "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:alice\n")
        .unwrap();
    let key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"];
    let root = ["/CN=root", "-keyout", &file("root.key"), "-x509", "-out", &file("root.pem")];
    run(&[&key[..], &root].concat());
    for (name, issuer, extensions) in [("between", "root", "ca.ext"), ("leaf", "between", "leaf.ext")] {
        let subject = format!("/CN={name}");
        let (own, request) = (file(&format!("{name}.key")), file(&format!("{name}.csr")));
        run(&[&key[..], &[&subject, "-keyout", &own, "-out", &request]].concat());
        let (ca, ca_key) = (file(&format!("{issuer}.pem")), file(&format!("{issuer}.key")));
        let (extensions, out) = (file(extensions), file(&format!("{name}.pem")));
        run(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &extensions,
            "-out",
            &out,
        ]);
    }
    Chain {
        root: std::fs::read_to_string(folder.join("root.pem")).unwrap(),
        between: file("between.pem"),
        cert: file("leaf.pem"),
        key: file("leaf.key"),
    }
}

/// Writes one byte a segment.
struct Dribble(TcpStream);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::yield_now();
        self.0.write(&bytes[..1.min(bytes.len())])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_handshake_in_single_bytes_is_completed() {
    let authority = Authority::new("Test root");
    let leaf = authority.leaf(&["a.example"]);
    let (builder, _origin) = gateway(json!(true));
    let sluice = builder.put("ssls", "a", leaf.ssl(&["a.example"])).start();
    let config = authority.client_config(&["http/1.1"]);
    let name = ServerName::try_from("a.example").unwrap();
    let connection = rustls::ClientConnection::new(config, name).unwrap();
    let socket = TcpStream::connect(sluice.address("edge")).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, Dribble(socket));
    stream.write_all(GET.as_bytes()).unwrap();
    let mut text = Vec::new();
    // The end may come without the closing alert.
    let _ = stream.read_to_end(&mut text);
    assert!(text.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&text));
}

#[test]
fn handshakes_that_are_none_end_at_their_limit() {
    let authority = Authority::new("Test root");
    let leaf = authority.leaf(&["a.example"]);
    let origin = HttpEcho::start("origin");
    let mut sluice = Sluice::builder()
        .listener("edge", json!({"tls": true, "limits": {"handshake_timeout": "500ms"}}))
        .put("ssls", "a", leaf.ssl(&["a.example"]))
        .put("routes", "all", json!({"uri": "/*", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    let hello = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3][..], &[0; 200]].concat();
    for (what, bytes) in [
        ("silence", Vec::new()),
        ("half a hello", hello),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("a record of another kind", vec![0x17, 3, 3, 0, 4, 1, 2, 3, 4]),
    ] {
        let mut raw = sluice.connect("edge");
        raw.send(&bytes);
        let received = raw.read_to_close();
        assert!(received.len() < 64, "{what}: {received:?}");
    }
    eventually("each is counted", || {
        (sluice.metrics().count("sluice_tls_handshakes_total", &[]) >= 5.0).then_some(())
    });
    sluice.logged("a refused handshake", |line| line["kind"] == "connection" && line["reason"].is_string());
    let config = authority.client_config(&["http/1.1"]);
    assert_eq!(ask(&sluice, &config, "a.example", GET), Ok(200));
    sluice.process().expect_running();
}

#[test]
fn the_protocol_is_agreed_by_alpn() {
    let authority = Authority::new("Test root");
    let leaf = authority.leaf(&["a.example"]);
    let (builder, _origin) = gateway(json!(true));
    let sluice = builder
        .listener("old", json!({"tls": {"alpn": ["http/1.1"]}}))
        .put("ssls", "a", leaf.ssl(&["a.example"]))
        .start();
    let agreed = |listener: &str, offered: &[&str]| -> Result<Option<String>, String> {
        let config = authority.client_config(offered);
        let raw = Raw::connect_tls(sluice.address(listener), config, "a.example")
            .map_err(|error| error.to_string())?;
        let protocol = raw.tls().unwrap().alpn_protocol();
        Ok(protocol.map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    assert_eq!(agreed("edge", &["http/1.1", "h2"]), Ok(Some("h2".to_owned())));
    assert_eq!(agreed("edge", &["http/1.1"]), Ok(Some("http/1.1".to_owned())));
    assert_eq!(agreed("edge", &[]), Ok(None));
    assert_eq!(agreed("old", &["h2", "http/1.1"]), Ok(Some("http/1.1".to_owned())));
    assert!(agreed("edge", &["smtp"]).is_err());
    for (version, expected) in [(Curl::http1 as fn(Curl) -> Curl, "1.1"), (Curl::http2, "2")] {
        let call = Curl::get("https://a.example/").to(sluice.address("edge")).ca(authority.path());
        let reply = version(call).run();
        assert_eq!((reply.status, reply.version.as_str()), (200, expected), "{}", reply.error);
    }
}

#[test]
fn a_name_is_passed_through_without_ending_tls() {
    let authority = Authority::new("Test root");
    let start = |name: &'static str, names: &[&str]| {
        HttpEcho::builder(name).tls(authority.leaf(names).server_config(&["h2", "http/1.1"])).start()
    };
    let (one, wild) = (start("one", &["one.example"]), start("wild", &["x.wild.example"]));
    let upstream = |origin: &HttpEcho| json!({"scheme": "tcp", "nodes": {origin.node(): 1}});
    let sluice = Sluice::builder()
        .listener("edge", json!({"protocol": "tcp", "tls": "passthrough"}))
        .put(
            "stream_routes",
            "one",
            json!({"listener": "edge", "sni": "one.example", "upstream": upstream(&one)}),
        )
        .put(
            "stream_routes",
            "wild",
            json!({"listener": "edge", "sni": "*.wild.example", "upstream": upstream(&wild)}),
        )
        .start();
    for (name, server) in [("one.example", "one"), ("x.wild.example", "wild")] {
        let reply = Curl::get(format!("https://{name}/"))
            .to(sluice.address("edge"))
            .ca(authority.path())
            .http2()
            .run();
        assert_eq!((reply.status, reply.version.as_str()), (200, "2"), "{name}: {}", reply.error);
        let seen = reply.seen();
        assert_eq!(seen.server, server);
        assert_eq!(seen.tls.unwrap().server_name.as_deref(), Some(name), "the origin's own handshake");
    }
    let config = authority.client_config(&[]);
    assert!(Raw::connect_tls(sluice.address("edge"), config, "nobody.test").is_err());
    let mut plain = sluice.connect("edge");
    plain.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    plain.read_to_close();
    sluice.logged("the connection", |line| line["kind"] == "connection" && line["route"] == "one");
}

#[test]
fn upstreams_are_verified_unless_told_otherwise() {
    let (authority, strangers) = (Authority::new("Own"), Authority::new("Strangers"));
    let leaf = authority.leaf(&["origin.example"]);
    let origin = HttpEcho::builder("tls").tls(leaf.server_config(&["http/1.1"])).start();
    let expired =
        HttpEcho::builder("old").tls(authority.expired(&["origin.example"]).server_config(&[])).start();
    let upstream = |origin: &HttpEcho, tls: Value| json!({"scheme": "https", "nodes": {origin.node(): 1}, "retries": 0, "tls": tls});
    let own = json!({"ca": authority.pem(), "sni": "origin.example"});
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("routes", "default", json!({"uri": "/default", "upstream": upstream(&origin, json!({"sni": "origin.example"}))}))
        .put("routes", "own", json!({"uri": "/own", "upstream": upstream(&origin, own.clone())}))
        .put("routes", "name", json!({"uri": "/name", "upstream": upstream(&origin, json!({"ca": authority.pem(), "sni": "other.example"}))}))
        .put("routes", "foreign", json!({"uri": "/foreign", "upstream": upstream(&origin, json!({"ca": strangers.pem(), "sni": "origin.example"}))}))
        .put("routes", "expired", json!({"uri": "/expired", "upstream": upstream(&expired, own)}))
        .put("routes", "off", json!({"uri": "/off", "upstream": upstream(&origin, json!({"verify": false}))}))
        .start();
    let ask = |path: &str| Curl::get(format!("{}{path}", sluice.url("edge"))).run();
    for path in ["/own", "/off"] {
        let reply = ask(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    assert_eq!(ask("/own").seen().tls.unwrap().server_name.as_deref(), Some("origin.example"));
    for path in ["/default", "/name", "/foreign", "/expired"] {
        let reply = ask(path);
        assert_eq!(reply.status, 502, "{path}: {}", reply.text());
        let line = sluice.logged(path, |line| line["uri"] == path);
        assert!(
            line["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("tls") || reason.contains("certificate")),
            "{line}"
        );
    }
}

#[test]
fn a_client_certificate_is_shown_to_an_upstream_that_asks() {
    let authority = Authority::new("Own");
    let leaf = authority.leaf(&["origin.example"]);
    let origin =
        HttpEcho::builder("strict").tls(leaf.server_config_verifying(&["http/1.1"], &authority)).start();
    let client = authority.client("gateway");
    let base = json!({"ca": authority.pem(), "sni": "origin.example"});
    let upstream = |more: Value| {
        let mut tls = base.clone();
        tls.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"scheme": "https", "nodes": {origin.node(): 1}, "retries": 0, "tls": tls})
    };
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("ssls", "out", json!({"type": "client", "cert": client.cert, "key": client.key}))
        .put("routes", "none", json!({"uri": "/none", "upstream": upstream(json!({}))}))
        .put("routes", "inline", json!({"uri": "/inline", "upstream": upstream(json!({"client_cert": client.cert, "client_key": client.key}))}))
        .put("routes", "named", json!({"uri": "/named", "upstream": upstream(json!({"client_cert_id": "out"}))}))
        .start();
    for (path, status) in [("/inline", 200), ("/named", 200), ("/none", 502)] {
        let reply = Curl::get(format!("{}{path}", sluice.url("edge"))).run();
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        if status == 200 {
            assert_eq!(reply.seen().tls.unwrap().client_certificates, 1, "{path}");
        }
    }
}
