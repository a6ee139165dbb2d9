//! Time for a message each way, for the demo's messages: this crate, the same by
//! prost-reflect's serde, and by compiled code (prost and serde_json).
//!
//! `cargo bench --package sluice-transcode` prints nanoseconds a message, the
//! median of rounds that take turns.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::{Deserialize, Serialize};
use serde_json::json;

const ROUNDS: usize = 31;

/// `im.v1.SendRequest`, compiled.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SendRequest {
    #[prost(uint32, tag = "1")]
    to: u32,
    #[prost(uint64, tag = "2")]
    #[serde(with = "text")]
    client_message_id: u64,
    #[prost(int32, tag = "3")]
    r#type: i32,
    #[prost(string, tag = "4")]
    text: String,
}

/// `im.v1.Message`, compiled.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Message {
    #[prost(uint64, tag = "1")]
    #[serde(with = "text")]
    message_id: u64,
    #[prost(uint64, tag = "2")]
    #[serde(with = "text")]
    conversation_id: u64,
    #[prost(uint32, tag = "3")]
    from: u32,
    #[prost(uint32, tag = "4")]
    to: u32,
    #[prost(int32, tag = "5")]
    r#type: i32,
    #[prost(string, tag = "6")]
    text: String,
    #[prost(int64, tag = "8")]
    #[serde(with = "text")]
    sent_at_ms: i64,
}

/// `im.v1.HistoryReply`, compiled.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HistoryReply {
    #[prost(uint64, tag = "1")]
    #[serde(with = "text")]
    conversation_id: u64,
    #[prost(message, repeated, tag = "2")]
    messages: Vec<Message>,
    #[prost(bool, tag = "3")]
    more: bool,
}

/// 64 bits as text.
mod text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: std::fmt::Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: std::str::FromStr, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom("not a number"))
    }
}

struct Case {
    name: &'static str,
    message: &'static str,
    json: String,
}

fn cases() -> Vec<Case> {
    let text = "Are we still on for tomorrow? \"Same place\" as last time, I will bring the drawings and the two samples. \
                 以及会议记录。";
    let message = json!({
        "messageId": "1773000000000000001", "conversationId": "42949672961002", "from": 1001, "to": 1002,
        "type": 1, "text": text, "sentAtMs": "1790000000000",
    });
    let send = json!({"to": 1002, "clientMessageId": "9007199254740993", "type": 1, "text": text});
    let history =
        json!({"conversationId": "42949672961002", "messages": vec![message.clone(); 20], "more": true});
    [
        ("SendRequest", "im.v1.SendRequest", send),
        ("Message", "im.v1.Message", message),
        ("HistoryReply of 20", "im.v1.HistoryReply", history),
    ]
    .map(|(name, message, json)| Case { name, message, json: json.to_string() })
    .into()
}

/// Nanoseconds a call, of contenders that take turns.
#[allow(clippy::type_complexity)]
fn measure(contenders: &mut [(&str, Box<dyn FnMut() + '_>)]) {
    let mut times = vec![Vec::new(); contenders.len()];
    for (_, run) in contenders.iter_mut() {
        run();
    }
    for _ in 0..ROUNDS {
        for (at, (_, run)) in contenders.iter_mut().enumerate() {
            let calls = 2000;
            let start = Instant::now();
            for _ in 0..calls {
                run();
            }
            times[at].push(start.elapsed().as_nanos() as f64 / f64::from(calls));
        }
    }
    let mut first = 0.0;
    for (at, (name, _)) in contenders.iter().enumerate() {
        times[at].sort_by(f64::total_cmp);
        let median = times[at][ROUNDS / 2];
        if at == 0 {
            first = median;
        }
        println!("    {name:<24} {median:>9.0} ns   {:>6.2}", median / first);
    }
}

fn reflected(descriptor: &MessageDescriptor, json: &str) -> DynamicMessage {
    let mut reader = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(descriptor.clone(), &mut reader).expect("good JSON")
}

#[allow(clippy::type_complexity)]
fn compiled<M: prost_reflect::prost::Message + Default + Serialize + for<'de> Deserialize<'de>>(
    wire: &[u8],
    json: &str,
) -> (Box<dyn Fn() -> Vec<u8>>, Box<dyn Fn() -> Vec<u8>>) {
    let (wire, json) = (wire.to_vec(), json.to_owned());
    (
        Box::new(move || serde_json::to_vec(&M::decode(&*wire).expect("good bytes")).expect("JSON")),
        Box::new(move || serde_json::from_str::<M>(&json).expect("good JSON").encode_to_vec()),
    )
}

fn main() {
    let mut compiler = protox::Compiler::with_file_resolver(Source);
    compiler.open_file("im.proto").expect("good definitions");
    let pool: DescriptorPool = compiler.descriptor_pool();
    for case in cases() {
        let commands =
            json!([{"cmd": 1, "reply": 2, "uri": "/m", "request": case.message, "response": case.message}]);
        let transcoder = common::im(json!({"commands": commands}));
        let wire = common::to_wire(&transcoder, &case.json).expect("good JSON");
        let descriptor = pool.get_message_by_name(case.message).expect("the message");
        let (to_json, to_wire) = match case.message {
            "im.v1.SendRequest" => compiled::<SendRequest>(&wire, &case.json),
            "im.v1.Message" => compiled::<Message>(&wire, &case.json),
            _ => compiled::<HistoryReply>(&wire, &case.json),
        };
        println!("{}: {} bytes of protobuf, {} of JSON", case.name, wire.len(), case.json.len());
        let (mut json_out, mut wire_out) = (Vec::new(), Vec::new());
        println!("  protobuf to JSON");
        measure(&mut [
            (
                "sluice-transcode",
                Box::new(|| {
                    json_out.clear();
                    transcoder.decode_reply(1, 2, black_box(&wire), &mut json_out).expect("good bytes");
                    black_box(&json_out);
                }),
            ),
            (
                "prost and serde_json",
                Box::new(|| {
                    black_box(to_json());
                }),
            ),
            (
                "prost-reflect",
                Box::new(|| {
                    let message =
                        DynamicMessage::decode(descriptor.clone(), black_box(&*wire)).expect("good bytes");
                    black_box(serde_json::to_vec(&message).expect("JSON"));
                }),
            ),
        ]);
        println!("  JSON to protobuf");
        measure(&mut [
            (
                "sluice-transcode",
                Box::new(|| {
                    wire_out.clear();
                    transcoder
                        .encode_request("POST", "/m", black_box(case.json.as_bytes()), None, &mut wire_out)
                        .expect("good JSON");
                    black_box(&wire_out);
                }),
            ),
            (
                "prost and serde_json",
                Box::new(|| {
                    black_box(to_wire());
                }),
            ),
            (
                "prost-reflect",
                Box::new(|| {
                    black_box(reflected(&descriptor, black_box(&case.json)).encode_to_vec());
                }),
            ),
        ]);
    }
}

/// The demo's definitions.
struct Source;

impl protox::file::FileResolver for Source {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        protox::file::File::from_source(name, common::IM_PROTO)
    }

    fn resolve_path(&self, path: &std::path::Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }
}
