//! Both directions agree with the reference implementation: the same
//! definitions, compiled by `protoc`, and Python's protobuf as the judge.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use sluice_transcode::{Plan, Transcoder};

const REQUEST: u32 = 1;
const REPLY: u32 = 2;
/// Messages a run makes; every one is compared in both directions.
const MESSAGES: usize = 4000;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

/// The definitions as `protoc` compiles them.
fn descriptor_set() -> PathBuf {
    let set =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("all-{:?}.pb", std::thread::current().id()));
    let status = Command::new("protoc")
        .args(["--include_imports", "-I"])
        .arg(here())
        .arg(format!("--descriptor_set_out={}", set.display()))
        .arg("all.proto")
        .status()
        .expect("protoc is installed by cargo xtask setup");
    assert!(status.success(), "protoc: {status}");
    set
}

fn python(set: &Path, arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).expect("three folders above");
    let packages = root.join("target/python/protobuf");
    assert!(packages.is_dir(), "{} is missing: run cargo xtask setup", packages.display());
    let mut command = Command::new("python3");
    command.arg(here().join("reference.py")).arg(set).args(arguments).env("PYTHONPATH", packages);
    command
}

fn transcoder(content: &str, more: &str) -> Transcoder {
    let config = format!(
        r#"{{"proto_id": "all", "protos": {{"all": {}}}, {more}
            "commands": [{{"cmd": {REQUEST}, "reply": {REPLY}, "uri": "/all", "request": "t.All", "response": "t.All"}}]}}"#,
        serde_json::to_string(content).unwrap()
    );
    Transcoder::new(Plan::new(&config).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim_start_matches('-').as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn json_of(transcoder: &Transcoder, wire: &[u8]) -> String {
    let mut out = Vec::new();
    transcoder
        .decode_reply(REQUEST, REPLY, wire, &mut out)
        .unwrap_or_else(|problem| panic!("{problem}: {}", hex(wire)));
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn wire_of(transcoder: &Transcoder, json: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let done = transcoder.encode_request("POST", "/all", json.as_bytes(), None, &mut out);
    done.unwrap_or_else(|problem| panic!("{problem}: {json}"));
    out
}

/// The same without the order of a map's entries.
fn value_of(transcoder: &Transcoder, wire: &[u8]) -> serde_json::Value {
    serde_json::from_str(&json_of(transcoder, wire)).expect("JSON")
}

/// Makes messages, takes them through both directions and asks the judge.
fn compare(content: &str, set: &Path, seed: &str) {
    let plain = transcoder(content, "");
    let full = transcoder(content, r#""emit_defaults": true,"#);
    let made =
        python(set, &["generate", seed, &MESSAGES.to_string()]).stderr(Stdio::inherit()).output().unwrap();
    assert!(made.status.success(), "reference.py: {}", made.status);
    let mut lines = String::new();
    for line in String::from_utf8(made.stdout).unwrap().lines() {
        let mut parts = line.split('\t');
        let wire = unhex(parts.next().unwrap());
        let (theirs, theirs_full) = (parts.next().unwrap(), parts.next().unwrap());
        let ours = json_of(&plain, &wire);
        let back = wire_of(&plain, theirs);
        // What is written is read, in each form.
        let wanted = value_of(&plain, &back);
        assert_eq!(value_of(&plain, &wire_of(&plain, &ours)), wanted, "{line}");
        assert_eq!(value_of(&plain, &wire_of(&plain, theirs_full)), wanted, "{line}");
        let columns = [hex(&wire), ours, json_of(&full, &wire), hex(&back)];
        lines += &columns.join("\t");
        lines.push('\n');
    }
    let mut judge = python(set, &["check"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = judge.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = judge.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    writer.join().unwrap().unwrap();
    assert!(text.ends_with(&format!("checked {MESSAGES}\n")), "{text}");
}

#[test]
fn both_directions_agree_with_the_reference_by_the_text_of_the_definitions() {
    let text = std::fs::read_to_string(here().join("all.proto")).unwrap();
    compare(&text, &descriptor_set(), "1");
}

#[test]
fn both_directions_agree_with_the_reference_by_a_descriptor_set() {
    let set = Path::new(env!("CARGO_TARGET_TMPDIR")).join("second.pb");
    std::fs::copy(descriptor_set(), &set).unwrap();
    let content = base64::engine::general_purpose::STANDARD.encode(std::fs::read(&set).unwrap());
    compare(&content, &set, "2");
}
