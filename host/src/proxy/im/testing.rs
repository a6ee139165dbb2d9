//! A transcoder for tests: bodies of frames are the texts of `body`.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::objects::TlvConf;
use crate::frame::FrameFormat;
use crate::message::{CallerId, Outgoing, RequestHead, TextMessage, Transcode, TranscodeProblem};
use crate::snapshot::TlvSettings;

/// Every command is answered by the next one.
#[derive(Debug)]
pub(super) struct Double;

pub(super) fn settings() -> Arc<TlvSettings> {
    Arc::new(TlvSettings::new(&TlvConf::default(), Arc::new(FrameFormat::im20())).unwrap())
}

fn problem(status: u16, path: &str, message: &str) -> TranscodeProblem {
    TranscodeProblem { status, path: path.to_owned(), message: message.to_owned() }
}

impl Transcode for Double {
    fn encode_request(
        &self,
        head: &RequestHead,
        _: IpAddr,
        body: &[u8],
        _: CallerId,
    ) -> Result<Outgoing, TranscodeProblem> {
        let command: u32 = head
            .path()
            .rsplit('/')
            .next()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| problem(404, "", "no such command"))?;
        if body == b"bad" {
            return Err(problem(400, "body", "must not be bad"));
        }
        let reply = (command != 9).then_some(command + 1);
        Ok(Outgoing { command, reply, body: body.to_vec() })
    }

    fn decode_reply(&self, _: u32, reply: u32, body: &[u8]) -> Result<Vec<u8>, TranscodeProblem> {
        Ok(json!({"reply": reply, "body": String::from_utf8_lossy(body)}).to_string().into_bytes())
    }

    fn encode_message(&self, text: &[u8], _: CallerId) -> Result<TextMessage, TranscodeProblem> {
        let value: Value = serde_json::from_slice(text).map_err(|_| problem(400, "", "is no JSON"))?;
        let command = value["cmd"].as_u64().ok_or_else(|| problem(400, "cmd", "must be a number"))? as u32;
        let body = value["body"].as_str().ok_or_else(|| problem(400, "body", "must be a text"))?;
        let id = value.get("id").map(Value::to_string);
        let outgoing = Outgoing { command, reply: Some(command + 1), body: body.as_bytes().to_vec() };
        Ok(TextMessage { outgoing, id })
    }

    fn decode_message(
        &self,
        command: u32,
        id: Option<&str>,
        body: &[u8],
    ) -> Result<Vec<u8>, TranscodeProblem> {
        if command == 0x00FF {
            return Err(problem(404, "", "no such command"));
        }
        let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
        let body = Value::from(String::from_utf8_lossy(body));
        Ok(format!("{{\"cmd\":{command},{id}\"body\":{body}}}").into_bytes())
    }

    fn text_fields(&self, _: u32, body: &[u8]) -> Result<Vec<String>, TranscodeProblem> {
        Ok(vec![String::from_utf8_lossy(body).into_owned()])
    }
}
