use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Echo;

impl Site for Echo {
    fn respond(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/panic" => panic!("asked for"),
            "/bad" => Response::text(200, "a\nb", String::new()),
            path => {
                Response::text(200, "text/plain", format!("{} {path} {}", request.method, request.body.len()))
            }
        }
    }
}

/// Starts a server, sends bytes, and returns what comes until the server closes.
fn exchange(limits: ServerLimits, sent: Vec<u8>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::task::spawn_local(serve(listener, Arc::new(Echo), limits, stop.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut received = Vec::new();
        let write = async {
            // The server may close before it has read everything: that is its right.
            let _ = writer.write_all(&sent).await;
        };
        let read = async {
            let _ = reader.read_to_end(&mut received).await;
        };
        let both = async { tokio::join!(write, read) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("the server closes");
        stop.cancel();
        server.await.unwrap().unwrap();
        String::from_utf8_lossy(&received).into_owned()
    })
}

fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9090\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

#[test]
fn a_request_is_answered() {
    let answer = exchange(ServerLimits::default(), get("/a?b", ""));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nGET /a 0"), "{answer}");
    let body = b"POST /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    assert!(exchange(ServerLimits::default(), body.to_vec()).ends_with("POST /a 3"));
}

#[test]
fn faults_of_a_site_are_its_own() {
    for path in ["/panic", "/bad"] {
        let answer = exchange(ServerLimits::default(), get(path, ""));
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    }
}

#[test]
fn limits_hold() {
    let limits = ServerLimits {
        header_timeout: Duration::from_millis(100),
        body_bytes_max: 10,
        header_bytes_max: 8192,
        ..ServerLimits::default()
    };
    let body = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n12345678901".to_vec();
    let chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n";
    for (sent, expected) in [
        (body, "HTTP/1.1 413 "),
        (chunked.to_vec(), "HTTP/1.1 413 "),
        (get("/", &format!("X: {}\r\n", "x".repeat(20_000))), "HTTP/1.1 431 "),
        (get("/", &"X: y\r\n".repeat(100)), "HTTP/1.1 431 "),
        (get("/", "Content-Length: 5\r\nContent-Length: 6\r\n"), "HTTP/1.1 400 "),
        (b"junk\r\n\r\n".to_vec(), "HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nHo".to_vec(), ""),
        (Vec::new(), ""),
    ] {
        let shown = String::from_utf8_lossy(&sent[..sent.len().min(60)]).into_owned();
        let answer = exchange(limits, sent);
        assert!(answer.starts_with(expected), "{shown:?}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 200"), "{shown:?}: {answer}");
    }
}

#[test]
fn a_foreign_name_pointed_at_loopback_gets_nothing() {
    for (host, status) in [
        ("evil.example:9090", "421"),
        ("localhost.evil.example", "421"),
        ("LOCALHOST:9090", "200"),
        ("[::1]:9090", "200"),
        ("127.0.0.1", "200"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(ServerLimits::default(), request.into_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
}
