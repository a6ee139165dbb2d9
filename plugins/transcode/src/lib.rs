//! The plugin `transcode`: JSON for clients, protobuf in frames for the service.
//!
//! A thin layer: what it does is in the crate `sluice-transcode`, what operators
//! write in `docs/transcode.md`.

use sluice_sdk::prelude::*;
use sluice_transcode::{Plan, Settings, Transcoder as Core};

struct Transcode {
    core: Core,
}

impl Plugin for Transcode {
    type Config = Settings;

    fn new(settings: Settings) -> Result<Self, ConfigError> {
        let plan = Plan::from_settings(&settings).map_err(ConfigError::whole)?;
        Ok(Self { core: Core::new(plan) })
    }

    fn interest(&self) -> Interest {
        // Called for conversions alone, whatever the phases.
        Interest::new()
    }
}

impl Transcoder for Transcode {
    fn encode_request(
        &mut self,
        head: RequestHead<'_>,
        body: &[u8],
        user: Option<u64>,
    ) -> Result<Outgoing, Problem> {
        let Ok(target) = std::str::from_utf8(head.target()) else {
            return Err(Problem::bad_input("", "the path is not UTF-8"));
        };
        let mut out = Vec::with_capacity(body.len());
        let head = self.core.encode_request(head.method(), target, body, user, &mut out).map_err(problem)?;
        Ok(Outgoing { command: head.command, reply: head.reply, body: out })
    }

    fn decode_reply(&mut self, request: u32, reply: u32, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut out = Vec::new();
        self.core.decode_reply(request, reply, body, &mut out).map_err(problem)?;
        Ok(out)
    }

    fn encode_message(&mut self, text: &[u8], user: Option<u64>) -> Result<Message, Problem> {
        let mut out = Vec::with_capacity(text.len());
        let head = self.core.encode_message(text, user, &mut out).map_err(problem)?;
        let outgoing = Outgoing { command: head.request.command, reply: head.request.reply, body: out };
        Ok(Message { outgoing, id: head.id })
    }

    fn decode_message(&mut self, command: u32, id: Option<&str>, body: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut out = Vec::new();
        self.core.decode_message(command, id, body, &mut out).map_err(problem)?;
        Ok(out)
    }

    fn text_fields(&mut self, command: u32, body: &[u8]) -> Result<Vec<String>, Problem> {
        self.core.text_fields(command, body).map_err(problem)
    }
}

impl Comparison for Transcode {
    fn breaking(&self, old: Settings) -> Result<Vec<String>, ConfigError> {
        let old = Plan::from_settings(&old).map_err(ConfigError::whole)?;
        let found = sluice_transcode::breaking(&old, self.core.plan());
        Ok(found.iter().map(ToString::to_string).collect())
    }
}

fn problem(problem: sluice_transcode::Problem) -> Problem {
    Problem { status: problem.status, path: problem.path, message: problem.message }
}

sluice_sdk::export!(Transcode: Transcoder, Comparison);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Host, Request, Tester};

    use super::*;

    /// A configuration as the host hands it over.
    const CONFIG: &str = r#"{
        "proto_id": "chat",
        "protos": {"chat": "syntax = \"proto3\"; package c; message Say { uint64 to = 1; string text = 2; } message Said { uint64 id = 1; }"},
        "commands": [{"cmd": 769, "reply": "0x0302", "uri": "/say/{to}", "request": "c.Say", "response": "c.Said"}]
    }"#;

    #[test]
    fn a_request_becomes_a_frame_and_its_reply_json() {
        let settings = settings_of(CONFIG);
        let mut plugin = Transcode::new(settings).expect("a good configuration");
        let (bytes, spans) = Request::new("POST", "/say/9007199254740993").pack(&[]);
        let outgoing = plugin
            .encode_request(RequestHead::new(&bytes, &spans), br#"{"text": "hi"}"#, Some(7))
            .expect("a good request");
        assert_eq!((outgoing.command, outgoing.reply), (0x0301, Some(0x0302)));
        assert_eq!(outgoing.body, b"\x08\x81\x80\x80\x80\x80\x80\x80\x10\x12\x02hi");
        let json = plugin
            .decode_reply(0x0301, 0x0302, b"\x08\x81\x80\x80\x80\x80\x80\x80\x10")
            .expect("a good reply");
        assert_eq!(json, br#"{"id":"9007199254740993"}"#);
    }

    #[test]
    fn a_text_message_keeps_its_id() {
        let mut plugin = Transcode::new(settings_of(CONFIG)).expect("a good configuration");
        let message = plugin
            .encode_message(br#"{"body": {"text": "hi"}, "id": 5, "cmd": "0x0301"}"#, None)
            .expect("a good message");
        assert_eq!((message.outgoing.command, message.id.as_deref()), (0x0301, Some("5")));
        let json = plugin.decode_message(0x0302, message.id.as_deref(), b"\x08\x05").expect("a good reply");
        assert_eq!(json, br#"{"cmd":770,"id":5,"body":{"id":"5"}}"#);
        assert_eq!(plugin.text_fields(0x0301, &message.outgoing.body).expect("texts"), ["hi"]);
    }

    #[test]
    fn a_bad_configuration_names_field_and_value() {
        let _host = Host::install();
        let error = |from: &str, to: &str| {
            Tester::<Transcode>::new(&CONFIG.replace(from, to))
                .err()
                .expect("a bad configuration")
                .to_string()
        };
        assert!(error("c.Say\"", "d.Say\"").starts_with("commands[0].request: \"d.Say\""));
        assert!(error("\"0x0302\"", "\"x\"").starts_with("commands[0].reply: \"x\""));
        assert!(error("uint64 to = 1", "uint64 to 1").contains("chat.proto:1:"));
    }

    #[test]
    fn what_breaks_clients_of_an_old_configuration_is_told() {
        let _host = Host::install();
        let tester = |config: &str| Tester::<Transcode>::new(config).expect("a good configuration");
        let told = |config: String| tester(&config).breaking(CONFIG).expect("a comparison");
        assert_eq!(told(CONFIG.to_owned()), [""; 0]);
        assert_eq!(told(CONFIG.replace("string text = 2;", "string text = 2; bool loud = 3;")), [""; 0]);
        assert_eq!(
            told(CONFIG.replace("string text", "string words")),
            ["c.Say.text: number 2 is now words"]
        );
        assert_eq!(
            told(CONFIG.replace("uint64 id = 1", "string id = 1")),
            ["c.Said.id: was uint64, is string"]
        );
        assert_eq!(
            told(CONFIG.replace("/say/{to}", "/tell/{to}")),
            ["command 0x0301: POST /say/{to} is now POST /tell/{to}"]
        );
    }

    fn settings_of(text: &str) -> Settings {
        Settings::parse(text).expect("settings")
    }
}
