use super::*;
use crate::message::{Client, Fields, TlsClient};
use crate::observe::{Times, UpstreamRecord, VerdictRecord};
use serde_json::Value;
use std::path::PathBuf;

fn client() -> Client {
    Client {
        peer: "10.0.0.1:4000".parse().unwrap(),
        address: "203.0.113.9:5000".parse().unwrap(),
        local: "192.0.2.1:443".parse().unwrap(),
        tls: Some(Arc::new(TlsClient {
            sni: Some("a.example".into()),
            alpn: Some("h2".into()),
            version: "TLSv1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            resumed: true,
            certificate: None,
        })),
        path: None,
    }
}

fn request(client: &Client) -> HttpRecord<'_> {
    HttpRecord {
        ended: std::time::Instant::now(),
        client,
        client_ip: client.ip(),
        client_text: None,
        listener: "edge",
        protocol: "HTTP/2.0",
        method: "GET",
        scheme: "https",
        host: b"a.example",
        path: b"/a",
        query: Some(b"b=c"),
        headers: None,
        status: 200,
        bytes_in: 10,
        bytes_out: 20,
        upgrade: "",
        route: "r1",
        service: "",
        upstream: UpstreamRecord::default(),
        times: Times::default(),
        reason: "",
        verdicts: &[],
        request_id: "id-1",
        trace_id: "",
    }
}

fn file_log(directory: &tempfile::TempDir, change: impl FnOnce(&mut LogConfig)) -> (PathBuf, Arc<LogWriter>) {
    let path = directory.path().join("access.log");
    let mut config = LogConfig { access: LogTarget::File(path.clone()), ..LogConfig::default() };
    change(&mut config);
    (path, LogWriter::start(&config, "node-1").unwrap())
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Waits for the writer, which works at intervals of its own.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_request_gives_a_line_of_the_documented_schema() {
    let directory = tempfile::tempdir().unwrap();
    let (path, writer) = file_log(&directory, |config| config.headers.push("x-tenant".into()));
    let client = client();
    let mut headers = Fields::default();
    headers.append(b"User-Agent", b"curl/8 \"quoted\"\x1b[2J");
    headers.append(b"X-Tenant", b"t1\xff\nforged");
    headers.append(b"Cookie", b"secret");
    let verdicts = [VerdictRecord {
        plugin: "waf",
        version: "1.2.0",
        verdict: "deny",
        rules: &["942100", "942110"],
        reason: "sqli",
    }];
    let record = HttpRecord {
        headers: Some(&headers),
        status: 403,
        service: "shop",
        upstream: UpstreamRecord {
            id: "u1",
            line: "leased",
            node: Some("10.1.0.5:9000".parse().unwrap()),
            attempts: 2,
        },
        times: Times {
            total: Duration::from_micros(12_345),
            connect: Some(Duration::from_micros(300)),
            header: Some(Duration::from_millis(7)),
            upstream: Some(Duration::from_millis(9)),
        },
        reason: "denied",
        verdicts: &verdicts,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        ..request(&client)
    };
    writer.worker().http(&record);
    assert!(writer.close(Duration::from_secs(10)));

    let mut line = lines(&path).remove(0);
    let time = line.as_object_mut().unwrap().shift_remove("time").unwrap();
    assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
    let expected = serde_json::json!({
        "kind": "request", "gateway": "node-1", "request_id": "id-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "client_ip": "203.0.113.9", "client_port": 5000, "peer": "10.0.0.1:4000", "listener": "edge",
        "tls": {"version": "TLSv1.3", "cipher": "TLS13_AES_128_GCM_SHA256", "sni": "a.example", "alpn": "h2",
            "resumed": true},
        "protocol": "HTTP/2.0", "method": "GET", "scheme": "https", "host": "a.example", "uri": "/a?b=c",
        "status": 403, "bytes_in": 10, "bytes_out": 20, "route": "r1", "service": "shop",
        "upstream": "u1", "line": "leased", "node": "10.1.0.5:9000", "attempts": 2,
        "duration_ms": 12.345, "connect_ms": 0.3, "header_ms": 7.0, "upstream_ms": 9.0, "reason": "denied",
        "verdicts": [{"plugin": "waf", "version": "1.2.0", "verdict": "deny", "rules": ["942100", "942110"],
            "reason": "sqli"}],
        "user_agent": "curl/8 \"quoted\"\u{1b}[2J", "headers": {"x-tenant": "t1\u{fffd}\nforged"},
    });
    assert_eq!(line, expected);
}

#[test]
fn connections_and_blocked_calls_have_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let (path, writer) = file_log(&directory, |_| {});
    let client = Client { tls: None, ..client() };
    let log = writer.worker();
    log.connection(&ConnectionRecord {
        client: &client,
        listener: "im",
        protocol: "tlv",
        route: "im",
        upstream: UpstreamRecord { id: "im", line: "public", ..UpstreamRecord::default() },
        bytes_in: 100,
        bytes_out: 50,
        frames_in: 4,
        frames_out: 2,
        user: "42",
        times: Times { total: Duration::from_secs(60), ..Times::default() },
        reason: "bad_begin",
        verdicts: &[],
        request_id: "c-1",
    });
    log.blocked(&BlockedRecord {
        client: &client,
        client_ip: "198.51.100.7".parse().unwrap(),
        listener: "im",
        protocol: "tlv",
        route: "im",
        command: Some(0x0101),
        sequence: Some(7),
        user: "42",
        bytes_in: 30,
        verdict: VerdictRecord { plugin: "limit-req", verdict: "drop", reason: "rate", ..Default::default() },
        request_id: "c-1",
    });
    assert!(writer.close(Duration::from_secs(10)));
    let lines = lines(&path);
    assert_eq!(lines[0]["kind"], "connection");
    assert_eq!((&lines[0]["frames_in"], &lines[0]["reason"]), (&4.into(), &"bad_begin".into()));
    assert_eq!(lines[0]["duration_ms"], 60_000.0);
    assert_eq!(lines[1]["kind"], "blocked");
    assert_eq!((&lines[1]["command"], &lines[1]["reason"]), (&0x0101.into(), &"rate".into()));
    // The port is the connection's, so it is not shown for an address a header named.
    assert_eq!((&lines[1]["client_ip"], lines[1].get("client_port")), (&"198.51.100.7".into(), None));
}

#[test]
fn hostile_values_stay_on_one_short_line() {
    let directory = tempfile::tempdir().unwrap();
    let (path, writer) = file_log(&directory, |config| config.value_max = 100);
    let client = client();
    let log = writer.worker();
    let hostile: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for piece in hostile.chunks(997) {
        log.http(&HttpRecord { path: piece, host: piece, query: Some(piece), ..request(&client) });
    }
    assert!(writer.close(Duration::from_secs(10)));
    let text = std::fs::read(&path).unwrap();
    assert_eq!(lines(&path).len(), hostile.chunks(997).count());
    assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() < 3000));
}

#[test]
fn lines_reach_the_file_without_being_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (path, writer) = file_log(&directory, |_| {});
    let client = client();
    writer.worker().http(&request(&client));
    wait_for("the line is written", || lines(&path).len() == 1);
}

#[test]
fn rotation_continues_in_a_new_file_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (path, writer) = file_log(&directory, |_| {});
    let old = directory.path().join("access.log.1");
    let client = client();
    let log = writer.worker();
    log.http(&request(&client));
    std::fs::rename(&path, &old).unwrap();
    writer.reopen();
    wait_for("the file is opened again", || path.exists());
    log.http(&request(&client));
    assert!(writer.close(Duration::from_secs(10)));
    assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));
}

#[test]
fn a_full_buffer_drops_and_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    // Both ends held here: the writer's open does not wait, its writes do once the pipe is full.
    let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let config = LogConfig { access: LogTarget::File(path), buffer_max: 65_536, ..LogConfig::default() };
    let writer = LogWriter::start(&config, "").unwrap();
    let client = client();
    let log = writer.worker();
    let deadline = Instant::now() + Duration::from_secs(20);
    while writer.counters().dropped_full.load(Relaxed) == 0 {
        log.http(&request(&client));
        assert!(Instant::now() < deadline, "nothing was dropped");
    }
    assert!(!writer.close(Duration::from_millis(50)), "a stuck target does not hold up the end");
    drop(reader);
}

#[test]
fn a_failing_target_is_counted_and_the_workers_go_on() {
    let config = LogConfig { access: LogTarget::File("/dev/full".into()), ..LogConfig::default() };
    let writer = LogWriter::start(&config, "").unwrap();
    let client = client();
    for _ in 0..10 {
        writer.worker().http(&request(&client));
    }
    assert!(writer.close(Duration::from_secs(10)));
    assert_eq!(writer.counters().dropped_failed.load(Relaxed), 10);
    assert_eq!(writer.counters().written.load(Relaxed), 0);
}

#[test]
fn sampling_keeps_what_went_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let (path, writer) = file_log(&directory, |config| config.sample = 10);
    let client = client();
    let log = writer.worker();
    for _ in 0..100 {
        log.http(&request(&client));
    }
    log.http(&HttpRecord { status: 502, ..request(&client) });
    log.http(&HttpRecord { reason: "client_gone", ..request(&client) });
    assert!(writer.close(Duration::from_secs(10)));
    assert_eq!(lines(&path).len(), 12);
}

#[test]
fn a_log_that_is_off_costs_no_thread_and_takes_no_lines() {
    let writer = LogWriter::start(&LogConfig { access: LogTarget::Off, ..LogConfig::default() }, "").unwrap();
    assert!(!writer.worker().is_on());
    assert!(writer.close(Duration::ZERO));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let config = LogConfig { access: LogTarget::File("/nowhere/access.log".into()), ..LogConfig::default() };
    let error = LogWriter::start(&config, "").unwrap_err().to_string();
    assert!(error.starts_with("access log `/nowhere/access.log`: "), "{error}");
}

#[test]
fn the_clock_is_rfc_3339_in_utc() {
    let mut clock = Clock::default();
    for (millis, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_709_210_096_007, "2024-02-29T12:34:56.007Z"),
        (1_709_210_096_999, "2024-02-29T12:34:56.999Z"),
        (1_709_210_097_000, "2024-02-29T12:34:57.000Z"),
    ] {
        assert_eq!(clock.at(Duration::from_millis(millis)), text.as_bytes());
    }
}

#[test]
fn lines_between_two_looks_at_the_systems_clock_go_by_the_time_that_passed() {
    let mut clock = Clock::default();
    let start = Instant::now();
    clock.text(start);
    let (_, wall) = clock.anchor.unwrap();
    let step = Duration::from_millis(100);
    assert_eq!(clock.text(start + step), Clock::default().at(wall + step));
    clock.text(start + ANCHOR_AGE_MAX);
    assert_eq!(clock.anchor.unwrap().0, start + ANCHOR_AGE_MAX, "the system's clock was asked again");
}
