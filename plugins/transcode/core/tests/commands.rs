//! The map of commands: what a request, a reply, a text message become.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod common;

use common::{IM_PROTO, im, im_config};
use serde_json::{Value, json};
use sluice_transcode::{Plan, breaking};

const BIG: u64 = u64::MAX - 1;

fn send(
    method: &str,
    target: &str,
    body: &str,
    user: Option<u64>,
    more: Value,
) -> Result<(u32, Vec<u8>), String> {
    let mut out = Vec::new();
    im(more)
        .encode_request(method, target, body.as_bytes(), user, &mut out)
        .map(|head| (head.command, out))
        .map_err(|problem| format!("{} {problem}", problem.status))
}

#[test]
fn ids_of_64_bits_survive_both_ways() {
    let transcoder = im(json!({}));
    for id in [u64::MAX, BIG, (1 << 53) + 1, 1_690_000_000_000 << 20 | 1] {
        for json in [format!(r#"{{"clientMessageId": "{id}"}}"#), format!(r#"{{"client_message_id": {id}}}"#)]
        {
            let mut wire = Vec::new();
            transcoder.encode_request("POST", "/im/messages", json.as_bytes(), None, &mut wire).unwrap();
            // The reply has an id of its own in field 1, and the client's in 4.
            wire[0] = 0x20;
            let mut out = Vec::new();
            transcoder.decode_reply(0x0301, 0x0302, &wire, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!(r#"{{"clientMessageId":"{id}"}}"#));
        }
    }
}

#[test]
fn paths_and_queries_are_fields() {
    let target = format!("/im/conversations/{BIG}/messages?limit=20&before_message_id=7");
    let (command, bound) = send("GET", &target, "", None, json!({})).unwrap();
    assert_eq!(command, 0x0320);
    let mut body = Vec::new();
    let text = format!(
        r#"{{"cmd": "0x0320", "body": {{"conversationId": "{BIG}", "limit": 20, "beforeMessageId": "7"}}}}"#
    );
    im(json!({})).encode_message(text.as_bytes(), None, &mut body).unwrap();
    bound.iter().for_each(|byte| assert!(body.contains(byte)));
    assert_eq!(bound.len(), body.len());
}

#[test]
fn what_is_set_outside_the_body_cannot_be_set_in_it() {
    let path = "/im/conversations/5/messages";
    for (target, body, wanted) in [
        (path.to_owned(), r#"{"conversationId": 6}"#, "400 conversationId: is set in the path already"),
        (format!("{path}?limit=1"), r#"{"limit": 2}"#, "400 limit: is set in the query already"),
        (format!("{path}?conversation_id=6"), "", "400 conversation_id: is set in the path already"),
        (format!("{path}?limit=1&limit=2"), "", "400 limit: is set twice in the query"),
        (format!("{path}?limit=many"), "", "400 limit: \"many\" is not a number"),
        (format!("{path}?limit=4294967296"), "", "400 limit: \"4294967296\" is out of range"),
        (format!("{path}?nothing=1"), "", "400 nothing: no field of im.v1.HistoryRequest, in the query"),
        ("/im/conversations/x/messages".to_owned(), "", "400 conversation_id: \"x\" is not a number"),
        (
            "/im/conversations/%zz/messages".to_owned(),
            "",
            "400 conversation_id: \"%zz\": % without two hexadecimal digits",
        ),
    ] {
        assert_eq!(send("GET", &target, body, None, json!({})).unwrap_err(), wanted, "{target} {body}");
    }
    let ignoring = json!({"query_ignore": ["token"]});
    assert!(send("GET", "/im/conversations/5/messages?token=secret", "", None, ignoring).is_ok());
    assert!(
        send("GET", "/im/conversations/5/messages?x=1", "", None, json!({"unknown_fields": "ignore"}))
            .is_ok()
    );
}

#[test]
fn paths_and_methods_that_are_not_there_say_so() {
    assert_eq!(
        send("POST", "/im/other", "{}", None, json!({})).unwrap_err(),
        "404 no command has the path \"/im/other\""
    );
    assert_eq!(send("PUT", "/im/messages", "{}", None, json!({})).unwrap_err(), "405 PUT is not one of POST");
}

#[test]
fn the_identity_comes_from_the_session_alone() {
    let mut config = im_config(json!({}));
    config["commands"][0]["user_field"] = json!("to");
    let commands = json!({"commands": config["commands"]});
    let (_, wire) = send("POST", "/im/messages", r#"{"text": "x"}"#, Some(7), commands.clone()).unwrap();
    assert_eq!(wire, b"\x08\x07\x22\x01x");
    for body in [r#"{"to": 8}"#, r#"{"t\u006f": 8}"#, r#"{"to": null}"#] {
        let error = send("POST", "/im/messages", body, Some(7), commands.clone()).unwrap_err();
        assert_eq!(error, "400 to: is set from the caller's identity", "{body}");
    }
    let query = send("POST", "/im/messages?to=8", "{}", Some(7), commands.clone()).unwrap_err();
    assert_eq!(query, "400 to: is set from the caller's identity");
    let nobody = send("POST", "/im/messages", "{}", None, commands.clone()).unwrap_err();
    assert_eq!(nobody, "401 this command needs an authenticated caller");
    let large = send("POST", "/im/messages", "{}", Some(u64::MAX), commands).unwrap_err();
    assert_eq!(large, "400 to: \"18446744073709551615\" is out of range");
}

#[test]
fn an_error_frame_becomes_a_problem() {
    let transcoder = im(json!({}));
    let error = |body: &[u8]| {
        let problem = transcoder.decode_reply(0x0301, 0x00FF, body, &mut Vec::new()).unwrap_err();
        (problem.status, problem.message)
    };
    assert_eq!(error(b"\x08\x05\x12\x02no"), (403, "no".to_owned()));
    assert_eq!(error(b"\x08\x07"), (429, "the upstream answered with error 7".to_owned()));
    assert_eq!(error(b"\x08\x09\x12\x04oops"), (502, "oops".to_owned()));
    assert_eq!(error(b"\x08").0, 502);
}

#[test]
fn replies_are_told_apart() {
    let transcoder = im(json!({}));
    let status = |request, reply| {
        transcoder.decode_reply(request, reply, b"", &mut Vec::new()).map_err(|problem| problem.status)
    };
    assert_eq!(status(0x0301, 0x0302), Ok(()));
    assert_eq!(status(0x0301, 0x0321), Err(502));
    assert_eq!(status(0x0301, 0x9999), Err(502));
}

#[test]
fn text_messages_have_one_form() {
    let transcoder = im(json!({}));
    let read = |text: &str| {
        let mut out = Vec::new();
        transcoder
            .encode_message(text.as_bytes(), None, &mut out)
            .map(|head| (head.request.command, head.id))
            .map_err(|problem| format!("{} {problem}", problem.status))
    };
    assert_eq!(
        read(r#" {"id":"a\"b","body":{"text":"x"},"cmd":769} "#),
        Ok((0x0301, Some(r#""a\"b""#.to_owned())))
    );
    assert_eq!(read(r#"{"cmd":"0x0311"}"#), Ok((0x0311, None)));
    assert_eq!(read(r#"{"cmd":769,"id":null}"#), Ok((0x0301, None)));
    for (text, wanted) in [
        ("", "400 the text ends where an object should be"),
        ("[]", "400 '[' at byte 0 where an object should be"),
        ("{}", "400 cmd: is missing"),
        (r#"{"cmd":1}"#, "404 no command 0x0001 in the map of commands"),
        (r#"{"cmd":"x"}"#, "400 cmd: is no command such as 769 or \"0x0301\""),
        (r#"{"cmd":7.5}"#, "400 cmd: is no command such as 769 or \"0x0301\""),
        (r#"{"cmd":769,"cmd":769}"#, "400 cmd: is set twice"),
        (r#"{"cmd":769,"id":1,"id":1}"#, "400 id: is set twice"),
        (r#"{"cmd":769,"id":{}}"#, "400 id: '{' at byte 16 where a number should be"),
        (r#"{"cmd":769,"user":5}"#, "400 user: is none of cmd, id and body"),
        (r#"{"cmd":769,"body":{"to":"x"}}"#, "400 body.to: \"x\" is not a number"),
        (r#"{"cmd":769,"body":5}"#, "400 body: '5' at byte 0 where an object should be"),
        (r#"{"cmd":769}x"#, "400 'x' at byte 11 where the end should be"),
    ] {
        assert_eq!(read(text).unwrap_err(), wanted, "{text}");
    }
    let long = format!(r#"{{"cmd":769,"id":"{}"}}"#, "x".repeat(200));
    assert_eq!(read(&long).unwrap_err(), "400 id: is longer than 128 bytes");
    let mut out = Vec::new();
    transcoder.decode_message(0x0310, None, b"\x32\x02hi", &mut out).unwrap();
    assert_eq!(out, br#"{"cmd":784,"body":{"text":"hi"}}"#);
}

#[test]
fn bad_configurations_name_field_and_value() {
    let error = |edit: &dyn Fn(&mut Value)| {
        let mut config = im_config(json!({}));
        edit(&mut config);
        Plan::new(&config.to_string()).map(|_| ()).expect_err("a bad configuration").to_string()
    };
    let entry = |at: usize, name: &'static str, value: Value| {
        error(&move |config| config["commands"][at][name] = value.clone())
    };
    assert_eq!(
        entry(0, "request", json!("im.SendRequest")),
        "commands[0].request: \"im.SendRequest\" is no message of the definitions; \"im.v1.SendRequest\" is"
    );
    assert_eq!(
        entry(3, "push", json!("im.v1.X")),
        "commands[3].push: \"im.v1.X\" is no message of the definitions"
    );
    assert_eq!(entry(1, "cmd", json!(0x0301)), "commands[1].cmd: 0x0301 is there twice");
    assert_eq!(
        entry(1, "reply", json!("0x0302")),
        "commands[1].reply: 0x0302 is the message im.v1.SendReply in another entry"
    );
    assert_eq!(
        entry(2, "uri", json!("/im/messages")),
        "commands[2].uri: POST \"/im/messages\" is that of 0x0301 too"
    );
    assert_eq!(
        entry(1, "uri", json!("/im/{conversation}")),
        "commands[1].uri: \"/im/{conversation}\": {conversation}: no field of im.v1.HistoryRequest"
    );
    assert_eq!(entry(1, "uri", json!("im")), "commands[1].uri: \"im\": does not begin with /");
    assert!(entry(0, "cmd", json!("0xzz")).starts_with("commands[0].cmd: invalid value: string \"0xzz\""));
    assert!(entry(0, "cmd", json!(1_u64 << 32)).contains("command 4294967296 has more than 32 bits"));
    assert!(entry(0, "colour", json!(1)).starts_with("commands[0].colour: unknown field `colour`"));
    assert_eq!(
        entry(0, "user_field", json!("nobody")),
        "commands[0].user_field: \"nobody\" is no field of im.v1.SendRequest"
    );
    assert_eq!(
        entry(0, "user_field", json!("data")),
        "commands[0].user_field: \"data\" is neither an integer nor a string"
    );
    assert_eq!(entry(3, "uri", json!("/x")), "commands[3].uri: belongs to entries with request");
    assert_eq!(
        error(&|config| config["commands"][4]["statuses"]["NOTHING"] = json!(400)),
        "commands[4].statuses.NOTHING: \"NOTHING\" is no value of the code_field"
    );
    assert_eq!(
        error(&|config| config["proto_id"] = json!("x")),
        "proto_id: \"x\": no protos object has this id"
    );
    assert_eq!(error(&|config| config["depth_max"] = json!(0)), "depth_max: 0 is not within 1 to 200");
    let broken =
        error(&|config| config["protos"]["im"] = json!(IM_PROTO.replace("uint32 to = 1;", "uint32 to 1;")));
    assert!(broken.starts_with("protos.im: im.proto:"), "{broken}");
    let group = "syntax = \"proto2\"; message G { optional group A = 1 { } }";
    let group = error(&|config| config["protos"]["im"] = json!(group));
    assert_eq!(group, "protos.im: G.a: groups have no JSON form");
}

#[test]
fn what_would_break_a_client_is_told() {
    let old = Plan::new(&im_config(json!({})).to_string()).unwrap();
    let change = |from: &str, to: &str| {
        let config = im_config(json!({"protos": {"im": IM_PROTO.replace(from, to)}}));
        let found = breaking(&old, &Plan::new(&config.to_string()).unwrap());
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(change("", ""), [] as [&str; 0]);
    assert_eq!(change("bytes data = 5;", "bytes data = 5; string more = 6;"), [] as [&str; 0]);
    assert_eq!(change("bytes data = 5;", ""), ["im.v1.SendRequest.data: is gone"]);
    assert_eq!(
        change("bytes data = 5;", "bytes data = 9;"),
        ["im.v1.SendRequest.data: had the number 5, has 9"]
    );
    assert_eq!(
        change("bytes data = 5;", "string data = 5;"),
        ["im.v1.SendRequest.data: was bytes, is string"]
    );
    assert_eq!(
        change("bytes data = 5;", "repeated bytes data = 5;"),
        ["im.v1.SendRequest.data: was a single value, is a list"]
    );
    assert_eq!(
        change("bytes data = 5;", "bytes blob = 5;"),
        ["im.v1.SendRequest.data: number 5 is now blob"]
    );
    assert_eq!(
        change("bytes data = 5;", "bytes data = 5 [json_name = \"blob\"];"),
        ["im.v1.SendRequest.data: was \"data\" in JSON, is \"blob\""]
    );
    assert_eq!(change("CONTENT_TYPE_FILE = 3;", ""), ["im.v1.ContentType.CONTENT_TYPE_FILE: is gone"]);
    let mut config = im_config(json!({}));
    config["commands"]
        .as_array_mut()
        .unwrap()
        .retain(|entry| entry["cmd"] != 0x0311 && entry["cmd"] != 0x0310);
    config["commands"][0]["uri"] = json!("/im/send");
    let found = breaking(&old, &Plan::new(&config.to_string()).unwrap());
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "command 0x0301: POST /im/messages is now POST /im/send",
            "command 0x0311: is gone",
            "command 0x0310: is no longer sent to clients",
            "command 0x0312: is no longer sent to clients",
        ]
    );
}

#[test]
fn definitions_may_import_each_other() {
    let config = json!({
        "proto_id": "a",
        "protos": {
            "a": "syntax = \"proto3\"; package a; import \"b.proto\"; message A { b.B b = 1; }",
            "b": "syntax = \"proto3\"; package b; message B { int32 x = 1; }",
        },
        "commands": [{"cmd": 1, "request": "a.A", "method": "GET", "uri": "/a/:b.x"}],
    });
    let transcoder = sluice_transcode::Transcoder::new(Plan::new(&config.to_string()).unwrap());
    let mut out = Vec::new();
    transcoder.encode_request("GET", "/a/5", b"", None, &mut out).unwrap();
    assert_eq!(out, b"\x0A\x02\x08\x05");
}
