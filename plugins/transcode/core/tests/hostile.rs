//! What a client or an upstream should not send, and what it is told.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use common::{one, to_json, to_wire};
use serde_json::json;

const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum E { ZERO = 0; ONE = 1; }
message Inner { google.protobuf.Timestamp sent_at = 1; M m = 2; }
message M {
  int32 i = 1; uint64 u = 2; double d = 3; float f = 4; bool b = 5; string s = 6; bytes y = 7; E e = 8;
  repeated Inner messages = 9; map<string, int32> by_name = 10; map<int32, Inner> by_id = 11;
  oneof o { string p = 12; int32 q = 13; }
  M m = 14; google.protobuf.Value v = 15; google.protobuf.Any a = 16; repeated int32 r = 17;
  google.protobuf.Int64Value w = 18; repeated E es = 19; map<string, E> me = 20;
}
"#;

#[test]
fn bad_json_is_told_where_it_is_bad() {
    let transcoder = one(PROTO, json!({}));
    for (json, path, message) in [
        ("{", "", "the text ends where a field's name in quotes should be"),
        ("[]", "", "'[' at byte 0 where an object should be"),
        ("{} {}", "", "'{' at byte 3 where the end should be"),
        ("{\"i\":1,}", "", "'}' at byte 7 where a field's name in quotes should be"),
        ("{\"i\" 1}", "", "'1' at byte 5 where ':' should be"),
        ("{\"i\":1 \"u\":2}", "", "'\"' at byte 7 where ',' or '}' should be"),
        ("{i:1}", "", "'i' at byte 1 where a field's name in quotes should be"),
        ("{\"i\":1.5}", "i", "\"1.5\" is not an integer"),
        ("{\"i\":2147483648}", "i", "\"2147483648\" is out of range"),
        ("{\"i\":1e99}", "i", "\"1e99\" is out of range"),
        ("{\"i\":01}", "i", "a number with a leading zero"),
        ("{\"i\":+1}", "i", "'+' at byte 5 where a number should be"),
        ("{\"i\":--1}", "i", "'-' at byte 6 where a number should be"),
        ("{\"i\":true}", "i", "'t' at byte 5 where a number should be"),
        ("{\"i\":\" 1\"}", "i", "\" 1\" is not a number"),
        ("{\"u\":-1}", "u", "\"-1\" is out of range"),
        ("{\"u\":18446744073709551616}", "u", "\"18446744073709551616\" is out of range"),
        ("{\"d\":1e400}", "d", "\"1e400\" is out of range"),
        ("{\"d\":NaN}", "d", "'N' at byte 5 where a number should be"),
        ("{\"d\":\"nan\"}", "d", "\"nan\" is not a number"),
        ("{\"f\":3.5e38}", "f", "\"3.5e38\" is out of range"),
        ("{\"b\":\"true\"}", "b", "'\"' at byte 5 where true or false should be"),
        ("{\"b\":tru}", "b", "'t' at byte 5 where a value should be"),
        ("{\"s\":5}", "s", "'5' at byte 5 where a string should be"),
        ("{\"s\":\"\\ud800\"}", "s", "the lone surrogate \\ud800 in a string"),
        ("{\"s\":\"\\udc00\\ud800\"}", "s", "the lone surrogate \\udc00 in a string"),
        ("{\"s\":\"a\nb\"}", "s", "the control character 0x0a in a string"),
        ("{\"s\":\"\\q\"}", "s", "the escape \\q in a string"),
        ("{\"s\":\"abc", "s", "the text ends in a string"),
        ("{\"y\":\"a\"}", "y", "\"a\" is not base64"),
        ("{\"y\":\"a*==\"}", "y", "\"a*==\" is not base64"),
        ("{\"y\":[1]}", "y", "'[' at byte 5 where a string of base64 should be"),
        ("{\"e\":\"TWO\"}", "e", "\"TWO\" is no value of t.E"),
        ("{\"i\":1,\"i\":1}", "i", "is set twice"),
        ("{\"by_name\":{},\"byName\":{}}", "byName", "is set twice"),
        ("{\"byName\":{\"a\":1,\"b\":2,\"a\":1}}", "byName[\"a\"]", "is set twice"),
        ("{\"byName\":{\"a\":1,\"\\u0061\":1}}", "byName[\"a\"]", "is set twice"),
        ("{\"byId\":{\"1\":{},\"1.0\":{}}}", "byId[\"1\"]", "is set twice"),
        ("{\"byId\":{\"x\":{}}}", "byId[\"x\"]", "\"x\" is not a number"),
        (
            "{\"byId\":{\"7\":{\"sentAt\":5}}}",
            "byId[\"7\"].sentAt",
            "'5' at byte 23 where a string should be",
        ),
        ("{\"p\":\"a\",\"q\":1}", "q", "another field of the same oneof is set already"),
        ("{\"nothing\":1}", "nothing", "no field of t.M"),
        (
            "{\"messages\":[{},{},{},{\"sent_at\":\"yesterday\"}]}",
            "messages[3].sent_at",
            "\"yesterday\" is no timestamp such as \"2026-01-31T12:00:00.5Z\"",
        ),
        ("{\"messages\":[null]}", "messages[0]", "null in a list"),
        ("{\"byName\":{\"a\":null}}", "byName[\"a\"]", "null in a map"),
        ("{\"messages\":{}}", "messages", "'{' at byte 12 where a list should be"),
        ("{\"m\":{\"m\":{\"i\":\"x\"}}}", "m.m.i", "\"x\" is not a number"),
        ("{\"w\":\"x\"}", "w", "\"x\" is not a number"),
        ("{\"v\":{\"a\":1,\"a\":2}}", "v[\"a\"]", "is set twice"),
        ("{\"v\":1e999}", "v", "\"1e999\" is out of range"),
        ("{\"a\":{\"x\":1}}", "a", "an Any without \"@type\""),
        ("{\"a\":{\"@type\":\"x/none\"}}", "a.@type", "the type \"x/none\" is not in the definitions"),
        ("{\"a\":{\"@type\":\"x/t.M\",\"@type\":\"x/t.M\"}}", "a.@type", "is set twice"),
        ("{\"a\":{\"i\":\"x\",\"@type\":\"x/t.M\"}}", "a.i", "\"x\" is not a number"),
        (
            "{\"a\":{\"@type\":\"x/google.protobuf.Timestamp\"}}",
            "a",
            "an Any of this type has its content in \"value\"",
        ),
    ] {
        let problem = to_wire(&transcoder, json).expect_err(json);
        assert_eq!((problem.status, &*problem.path, &*problem.message), (400, path, message), "{json}");
    }
    let problem = to_wire(&transcoder, b"{\"s\":\"\xff\"}").expect_err("no UTF-8");
    assert_eq!(problem.message, "the JSON is not UTF-8 at byte 6");
}

#[test]
fn unknown_fields_are_left_out_where_that_is_configured() {
    let transcoder = one(PROTO, json!({"unknown_fields": "ignore"}));
    let json = r#"{"x": [1, {"y": "\u0041"}, null, true, -1.5e3], "e": "TWO", "es": ["ONE", "TWO", "ONE"],
        "me": {"a": "TWO", "b": "ONE"}, "i": 5, "m": {"z": {}}}"#;
    let wire = to_wire(&transcoder, json).unwrap();
    assert_eq!(to_json(&transcoder, &wire).unwrap(), r#"{"es":["ONE","ONE"],"me":{"b":"ONE"},"i":5,"m":{}}"#);
    for json in [r#"{"x": }"#, r#"{"x": [1,}"#, r#"{"x": {"a" 1}}"#, r#"{"x": "\ud800"}"#, r#"{"x": 01}"#] {
        assert!(to_wire(&transcoder, json).is_err(), "{json}");
    }
}

#[test]
fn bad_bytes_are_told_where_they_are_bad() {
    let transcoder = one(PROTO, json!({}));
    for (wire, path, message) in [
        (&b"\x08"[..], "", "the bytes end in a varint"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "", "a varint of more than 64 bits"),
        (b"\x32\x05ab", "", "a length of 5 where 2 bytes are left"),
        (
            b"\x32\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab",
            "",
            "a length of 18446744073709551615 where 2 bytes are left",
        ),
        (b"\x00\x00", "", "0 is no field's tag"),
        (b"\x0e\x00", "", "wire type 6 of field 1"),
        (b"\x0c", "", "wire type 4 of field 1"),
        (b"\x0b\x14", "", "the end of group 2 in group 1"),
        (b"\x32\x01\xff", "s", "\"\u{fffd}\" is not UTF-8"),
        (b"\x52\x03\x0a\x01\xff", "byName", "\"\u{fffd}\" is not UTF-8"),
        (b"\x4a\x00\x4a\x06\x0a\x04\x10\xff\xff\xff", "messages[1].sentAt", "the bytes end in a varint"),
        (
            b"\x4a\x00\x4a\x09\x0a\x07\x10\xff\xff\xff\xff\xff\x7f",
            "messages[1].sentAt",
            "a timestamp of 0 seconds and -1 nanoseconds is out of range",
        ),
        (b"\x8a\x01\x01\x80", "r[0]", "the bytes end in a varint"),
        (b"\x82\x01\x06\x0a\x04x/no", "a", "the type \"x/no\" of an Any is not in the definitions"),
        (b"\x7a\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x7f", "v", "inf has no form in a google.protobuf.Value"),
    ] {
        let problem = to_json(&transcoder, wire).expect_err(message);
        assert_eq!((problem.status, &*problem.path, &*problem.message), (502, path, message), "{wire:x?}");
    }
    let strict = one(PROTO, json!({"unknown_reply_fields": "reject"}));
    assert_eq!(
        to_json(&strict, b"\xf8\x3f\x01").unwrap_err().message,
        "field 1023 is not in the definitions"
    );
    assert_eq!(to_json(&strict, b"\x72\x03\xf8\x3f\x01").unwrap_err().path, "m");
}

#[test]
fn nesting_ends_at_its_limit_both_ways() {
    let transcoder = one(PROTO, json!({"depth_max": 10}));
    let nested = |depth: usize| format!("{}{{}}{}", "{\"m\":".repeat(depth), "}".repeat(depth));
    let wire = to_wire(&transcoder, nested(9)).unwrap();
    assert_eq!(to_json(&transcoder, &wire).unwrap(), nested(9));
    assert_eq!(to_wire(&transcoder, nested(10)).unwrap_err().message, "nested deeper than 10");
    let mut deeper = vec![0x72, wire.len() as u8];
    deeper.extend(wire);
    assert_eq!(to_json(&transcoder, &deeper).unwrap_err().message, "nested deeper than 10");
    // Far deeper than any stack: no recursion follows the text or the bytes.
    let transcoder = one(PROTO, json!({"unknown_fields": "ignore"}));
    for name in ["m", "v", "x"] {
        for open in ["[", "{\"m\":"] {
            let text = format!("{{\"{name}\":{}", open.repeat(1_000_000));
            assert!(to_wire(&transcoder, text).is_err());
        }
    }
    let mut wire = Vec::new();
    for _ in 0..200 {
        let mut outer = vec![0x72];
        let mut length = wire.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend(wire);
        wire = outer;
    }
    assert_eq!(to_json(&transcoder, &wire).unwrap_err().message, "nested deeper than 100");
    assert!(to_json(&transcoder, &[0xfb, 0x3f].repeat(500_000)).is_err(), "groups in groups");
}

#[test]
fn json_does_not_grow_past_its_limit() {
    let transcoder = one(PROTO, json!({"json_max": 2048, "emit_defaults": true}));
    // Four bytes on the wire are a hundred as text.
    let wire = b"\x4a\x02\x12\x00".repeat(1000);
    assert_eq!(to_json(&transcoder, &wire).unwrap_err().message, "the JSON is longer than 2048 bytes");
    let wire = [&[0x8a, 0x01, 0x90, 0x4e][..], &[0; 10_000]].concat();
    assert_eq!(to_json(&transcoder, &wire).unwrap_err().message, "the JSON is longer than 2048 bytes");
}

#[test]
fn many_keys_cost_no_more_than_they_should() {
    let transcoder = one(PROTO, json!({}));
    let keys: Vec<String> = (0..50_000).map(|key| format!("\"{key}\":1")).collect();
    let wire = to_wire(&transcoder, format!("{{\"byName\":{{{}}}}}", keys.join(","))).unwrap();
    assert!(to_json(&transcoder, &wire).is_ok());
    let twice = format!("{{\"byName\":{{{},\"777\":2}}}}", keys.join(","));
    assert_eq!(to_wire(&transcoder, twice).unwrap_err().path, "byName[\"777\"]");
    // The same entry twice on the wire: the last one counts.
    let twice = [&wire[..], b"\x52\x07\x0a\x03777\x10\x05"].concat();
    let json = to_json(&transcoder, &twice).unwrap();
    assert_eq!(json.matches("\"777\":").count(), 1);
    assert!(json.contains("\"777\":5"));
}

#[test]
fn bytes_in_any_order_merge_as_they_should() {
    let transcoder = one(PROTO, json!({}));
    for (wire, json) in [
        (&b"\x08\x01\x08\x02"[..], r#"{"i":2}"#),
        (b"\x08\x01\x08\x00", "{}"),
        (b"\x88\x01\x01\x08\x05\x88\x01\x02", r#"{"i":5,"r":[1,2]}"#),
        (b"\x88\x01\x01\x8a\x01\x02\x02\x03\x88\x01\x04", r#"{"r":[1,2,3,4]}"#),
        (b"\x62\x01a\x68\x05", r#"{"q":5}"#),
        (b"\x68\x05\x62\x01a", r#"{"p":"a"}"#),
        (b"\x72\x02\x08\x01\x08\x07\x72\x02\x10\x02", r#"{"i":7,"m":{"i":1,"u":"2"}}"#),
        (b"\x52\x05\x0a\x01a\x10\x01\x52\x05\x0a\x01a\x10\x02", r#"{"byName":{"a":2}}"#),
        (b"\x52\x00", r#"{"byName":{"":0}}"#),
        (b"\x52\x05\x10\x01\x0a\x01a", r#"{"byName":{"a":1}}"#),
        (b"\x8a\x01\x00", "{}"),
    ] {
        assert_eq!(to_json(&transcoder, wire).unwrap(), json, "{wire:x?}");
    }
}

#[test]
fn other_ways_to_write_a_value_are_read() {
    let transcoder = one(PROTO, json!({}));
    for (json, same) in [
        (r#"{"i": 1e2}"#, r#"{"i":100}"#),
        (r#"{"i": "100"}"#, r#"{"i":100}"#),
        (r#"{"i": 1.0}"#, r#"{"i":1}"#),
        (r#"{"u": 9007199254740993}"#, r#"{"u":"9007199254740993"}"#),
        (r#"{"d": "1.5"}"#, r#"{"d":1.5}"#),
        (r#"{"d": "-Infinity"}"#, r#"{"d":"-Infinity"}"#),
        (r#"{"f": "NaN"}"#, r#"{"f":"NaN"}"#),
        (r#"{"d": -0.0}"#, r#"{"d":-0.0}"#),
        (r#"{"y": "-_8"}"#, r#"{"y":"+/8="}"#),
        (r#"{"y": "+\/8="}"#, r#"{"y":"+/8="}"#),
        (r#"{"e": 1}"#, r#"{"e":"ONE"}"#),
        (r#"{"e": 77}"#, r#"{"e":77}"#),
        (r#"{"i": null, "messages": null, "byName": null, "m": null, "p": null, "q": 1}"#, r#"{"q":1}"#),
        (r#"{"v": null}"#, r#"{"v":null}"#),
        (r#"{"w": 0}"#, r#"{"w":"0"}"#),
        (r#"{"s": "\u0000\ud83d\ude00\/"}"#, r#"{"s":"\u0000😀/"}"#),
        (
            r#"{"by_name": {"": 1}, "messages": [{"sent_at": "2026-01-31T12:00:00+01:30"}]}"#,
            r#"{"byName":{"":1},"messages":[{"sentAt":"2026-01-31T10:30:00Z"}]}"#,
        ),
    ] {
        let wire = to_wire(&transcoder, json).unwrap_or_else(|problem| panic!("{json}: {problem}"));
        assert_eq!(to_json(&transcoder, &wire).unwrap(), same, "{json}");
    }
    let options = json!({"field_names": "original", "enum_values": "number"});
    let transcoder = one(PROTO, options);
    let wire = to_wire(&transcoder, r#"{"byName": {"a": 1}, "e": "ONE"}"#).unwrap();
    assert_eq!(to_json(&transcoder, &wire).unwrap(), r#"{"by_name":{"a":1},"e":1}"#);
}

#[test]
fn texts_are_found_wherever_they_are() {
    let transcoder = one(PROTO, json!({}));
    let wire = to_wire(
        &transcoder,
        r#"{"s": "one", "messages": [{"m": {"s": "two", "y": "AAAA"}}], "byName": {"three": 1},
            "v": {"four": ["five"]}, "a": {"@type": "x/t.M", "s": "six"}, "p": "", "q": null}"#,
    )
    .unwrap();
    assert_eq!(transcoder.text_fields(1, &wire).unwrap(), ["one", "two", "three", "four", "five", "six"]);
    assert_eq!(transcoder.text_fields(9, &wire).unwrap_err().status, 404);
    assert_eq!(transcoder.text_fields(1, b"\x32\x01\xff").unwrap_err().status, 400);
}

#[test]
fn messages_may_have_any_number_of_fields() {
    let fields: Vec<String> = (1..=300).map(|at| format!("int32 f{at} = {};", at * 7)).collect();
    let oneofs: Vec<String> = (0..70)
        .map(|at| format!("oneof o{at} {{ int32 a{at} = {}; int32 b{at} = {}; }}", 3000 + at, 4000 + at))
        .collect();
    let proto =
        format!("syntax = \"proto3\"; package t; message M {{ {} {} }}", fields.join(" "), oneofs.join(" "));
    let transcoder = one(&proto, json!({}));
    let json = r#"{"f1":1,"f299":2,"f300":3,"a0":0,"b69":5}"#;
    let wire = to_wire(&transcoder, json).unwrap();
    assert_eq!(to_json(&transcoder, &wire).unwrap(), json);
    for (json, path) in [(r#"{"f300":1,"f299":1,"f300":1}"#, "f300"), (r#"{"a69":1,"b68":1,"b69":1}"#, "b69")]
    {
        assert_eq!(to_wire(&transcoder, json).unwrap_err().path, path);
    }
    let twice = [&wire[..], &wire, &to_wire(&transcoder, r#"{"b0":9}"#).unwrap()].concat();
    assert_eq!(to_json(&transcoder, &twice).unwrap(), r#"{"f1":1,"f299":2,"f300":3,"b0":9,"b69":5}"#);
}
