//! What the tests share: the demo's definitions and its map of commands.

// Not every test needs everything here.
#![allow(dead_code)]

use serde_json::{Value, json};
use sluice_transcode::{Plan, Problem, Transcoder};

pub(crate) const IM_PROTO: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../proto/im/v1/im.proto"));

/// The demo's commands; `more` overlays fields at the top level.
pub(crate) fn im_config(more: Value) -> Value {
    let mut config = json!({
        "proto_id": "im",
        "protos": {"im": IM_PROTO},
        "commands": [
            {"cmd": "0x0301", "reply": "0x0302", "method": "POST", "uri": "/im/messages",
             "request": "im.v1.SendRequest", "response": "im.v1.SendReply"},
            {"cmd": 0x0320, "reply": 0x0321, "method": "GET", "uri": "/im/conversations/{conversation_id}/messages",
             "request": "im.v1.HistoryRequest", "response": "im.v1.HistoryReply"},
            {"cmd": 0x0311, "reply": 0x0312, "request": "im.v1.AckRequest", "response": "im.v1.AckReply"},
            {"cmd": 0x0310, "push": "im.v1.Message"},
            {"cmd": 0x00FF, "error": "im.v1.Error", "message_field": "text", "code_field": "code",
             "statuses": {"ERROR_CODE_FORBIDDEN": 403, "ERROR_CODE_RATE_LIMITED": 429}},
        ],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    config
}

pub(crate) fn im(more: Value) -> Transcoder {
    Transcoder::new(Plan::new(&im_config(more).to_string()).expect("a good configuration"))
}

/// A transcoder between `t.M` of `proto` and JSON: path `/m`, commands 1 and 2.
pub(crate) fn one(proto: &str, more: Value) -> Transcoder {
    let mut config = json!({
        "proto_id": "p",
        "protos": {"p": proto},
        "commands": [{"cmd": 1, "reply": 2, "uri": "/m", "request": "t.M", "response": "t.M"}],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    Transcoder::new(Plan::new(&config.to_string()).expect("a good configuration"))
}

pub(crate) fn to_wire(transcoder: &Transcoder, json: impl AsRef<[u8]>) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::new();
    let done = transcoder.encode_request("POST", "/m", json.as_ref(), None, &mut out);
    if done.is_err() {
        assert!(out.is_empty(), "nothing is left of what failed");
    }
    done.map(|_| out)
}

pub(crate) fn to_json(transcoder: &Transcoder, wire: &[u8]) -> Result<String, Problem> {
    let mut out = Vec::new();
    let done = transcoder.decode_reply(1, 2, wire, &mut out);
    if done.is_err() {
        assert!(out.is_empty(), "nothing is left of what failed");
    }
    done.map(|()| String::from_utf8(out).expect("JSON is UTF-8"))
}
