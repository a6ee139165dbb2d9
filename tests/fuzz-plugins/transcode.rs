//! What the two targets of the transcoder share: one message with all there is.

use std::sync::LazyLock;

use sluice_transcode::{Plan, Transcoder};

static TRANSCODER: LazyLock<Transcoder> = LazyLock::new(|| {
    let proto = include_str!("../../plugins/transcode/core/tests/reference/all.proto");
    let config = serde_json::json!({
        "proto_id": "all",
        "protos": {"all": proto},
        // What serde_json reads nests at most 128 deep, and messages in lists
        // are two levels.
        "depth_max": 40,
        "commands": [{"cmd": 1, "reply": 2, "uri": "/all", "request": "t.All", "response": "t.All"}],
    });
    Transcoder::new(Plan::new(&config.to_string()).expect("a good configuration"))
});

fn json_of(wire: &[u8]) -> Option<Vec<u8>> {
    let mut json = Vec::new();
    TRANSCODER.decode_reply(1, 2, wire, &mut json).ok()?;
    Some(json)
}

fn wire_of(json: &[u8]) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    TRANSCODER.encode_request("POST", "/all", json, None, &mut wire).ok()?;
    Some(wire)
}

/// JSON that was written is JSON, is read, and comes back the same.
fn check(wire: &[u8]) {
    let Some(json) = json_of(wire) else { return };
    let value: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    let back = wire_of(&json).unwrap_or_else(|| panic!("not read: {}", String::from_utf8_lossy(&json)));
    let again = json_of(&back).expect("what was read is written");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&again).expect("it is JSON"), value);
}

/// Starts at bytes.
#[allow(dead_code)]
pub fn from_wire(wire: &[u8]) {
    check(wire);
    let _ = TRANSCODER.text_fields(1, wire);
}

/// Starts at a text.
#[allow(dead_code)]
pub fn from_json(json: &[u8]) {
    if let Some(wire) = wire_of(json) {
        check(&wire);
    }
    let _ = TRANSCODER.encode_message(json, Some(7), &mut Vec::new());
}
