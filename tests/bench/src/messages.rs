//! What a message costs each way between JSON and protobuf: by the module as it is
//! shipped, by the same code without Wasm, which is its ceiling, and in Lua.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_transcode::{Plan, Transcoder};

use crate::cases::{Goal, TRANSCODER};
use crate::compare;
use crate::load::{HOST, message};
use crate::process::thread_time;
use crate::proxy::{Contender, Kit, Program, Proxy, Stage};
use crate::report::{self, Circumstances, Line};

/// Messages of a round.
const MESSAGES: u32 = 10_000;
/// How long Lua may take for them.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: u32 = 0x0301;
const REPLY: u32 = 0x0302;
const PATH: &str = "/im/messages";

/// One way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// Its name in reports and in the history.
    pub(crate) name: &'static str,
    goal: Goal,
}

/// Both ways.
pub(crate) const WAYS: [Way; 2] = [
    Way { name: "message-to-protobuf", goal: Goal { aim: 0.30, limit: 0.30 } },
    Way { name: "message-to-json", goal: Goal { aim: 0.20, limit: 0.20 } },
];

/// Nanoseconds a message, in the order of `WAYS`.
type Times = [f64; 2];

/// One round of a contender.
type Measure<'a> = Box<dyn Fn() -> Result<Times> + 'a>;

/// Measures on all contenders that go between the two, in turns.
pub(crate) fn run(
    circumstances: &Circumstances,
    contenders: &[Contender],
    stage: &Stage,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let native = Native::new()?;
    let mut ways: Vec<(String, Measure<'_>)> = Vec::new();
    for contender in contenders.iter().filter_map(Contender::as_translator) {
        let name = contender.name.clone();
        match &contender.program {
            Program::SluiceIm(program) => {
                let cases = native.write_cases(&stage.directory)?;
                let program = program.clone();
                ways.push((name, Box::new(move || by_module(&program, &cases))));
            }
            _ => {
                let proxy = Proxy::start(&contender, stage, Kit::Plain, 800)?;
                let native = &native;
                ways.push((name, Box::new(move || in_lua(&proxy, native))));
            }
        }
    }
    ways.push(("native".to_owned(), Box::new(|| native.measure())));
    let mut times: Vec<Vec<Times>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..circumstances.rounds {
        for turn in 0..ways.len() {
            let index = (round + turn) % ways.len();
            let (name, measure) = &ways[index];
            times[index].push(measure().with_context(|| format!("{name} between JSON and protobuf"))?);
        }
    }
    for (at, way) in WAYS.iter().enumerate() {
        let costs: Vec<Vec<f64>> =
            times.iter().map(|rounds| rounds.iter().map(|times| times[at] / 1e3).collect()).collect();
        let names = ways.iter().map(|(name, _)| name.as_str());
        let found = compare(way.name, names, &costs, ways.iter().map(|_| None))?;
        let title =
            format!("{}: {} bytes of JSON, {} of protobuf", way.name, native.json.len(), native.wire.len());
        report::print(&title, "us/message", &found, way.goal, true);
        lines.extend(found);
    }
    Ok(())
}

/// The module's code in this program, with what it makes of the message.
struct Native {
    config: Value,
    transcoder: Transcoder,
    json: String,
    wire: Vec<u8>,
    /// What comes back from protobuf.
    told: String,
}

impl Native {
    fn new() -> Result<Self> {
        let config = json!({
            "proto_id": "im",
            "protos": {"im": include_str!("../../../proto/im/v1/im.proto")},
            "commands": [{
                "cmd": REQUEST, "reply": REPLY, "method": "POST", "uri": PATH,
                "request": "im.v1.SendRequest", "response": "im.v1.SendRequest",
            }],
        });
        let plan = Plan::new(&config.to_string()).map_err(|error| anyhow::anyhow!("{error}"))?;
        let (transcoder, json) = (Transcoder::new(plan), message());
        let (mut wire, mut told) = (Vec::new(), Vec::new());
        to_wire(&transcoder, &json, &mut wire)?;
        to_json(&transcoder, &wire, &mut told)?;
        Ok(Self { config, transcoder, json, wire, told: String::from_utf8(told)? })
    }

    fn measure(&self) -> Result<Times> {
        let mut out = Vec::with_capacity(4 * self.json.len());
        let to_wire =
            thread_time(MESSAGES, || to_wire(&self.transcoder, std::hint::black_box(&self.json), &mut out))?;
        let to_json =
            thread_time(MESSAGES, || to_json(&self.transcoder, std::hint::black_box(&self.wire), &mut out))?;
        Ok([to_wire, to_json])
    }

    /// A file of cases for `sluice plugin test`, which hold the module to what this made.
    fn write_cases(&self, directory: &Path) -> Result<PathBuf> {
        let wire = json!({"hex": HEXLOWER.encode(&self.wire)});
        let cases = json!({
            "config": self.config,
            "cases": [
                {
                    "name": WAYS[0].name, "encode": {"path": PATH, "body": self.json},
                    "expect": {"command": REQUEST, "body": wire},
                },
                {
                    "name": WAYS[1].name, "decode": {"request": REQUEST, "reply": REPLY, "body": wire},
                    "expect": {"body": self.told},
                },
            ],
        });
        let path = directory.join("messages.json");
        fs::write(&path, cases.to_string())?;
        Ok(path)
    }
}

fn to_wire(transcoder: &Transcoder, json: &str, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    match transcoder.encode_request("POST", PATH, json.as_bytes(), None, out) {
        Ok(_) => Ok(()),
        Err(problem) => bail!("{problem}"),
    }
}

fn to_json(transcoder: &Transcoder, wire: &[u8], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    transcoder.decode_reply(REQUEST, REPLY, wire, out).map_err(|problem| anyhow::anyhow!("{problem}"))
}

/// The module in the engine of a Sluice, without a gateway around it.
fn by_module(program: &Path, cases: &Path) -> Result<Times> {
    #[derive(Deserialize)]
    struct Report {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        nanoseconds: f64,
    }
    let mut command = Command::new(program);
    command.args(["plugin", "test", TRANSCODER, "--output", "json", "--cases"]).arg(cases);
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "plugin test: {}", String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_slice(&output.stdout).context("what plugin test printed")?;
    let [to_wire, to_json] = &report.cases[..] else { bail!("{} cases", report.cases.len()) };
    Ok([to_wire.nanoseconds, to_json.nanoseconds])
}

/// Lua in nginx, which times itself.
fn in_lua(proxy: &Proxy, native: &Native) -> Result<Times> {
    #[derive(Deserialize)]
    struct Answer {
        to_wire: f64,
        to_json: f64,
        wire: String,
        json: String,
    }
    let mut stream = TcpStream::connect(proxy.ports.http)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = &native.json;
    write!(
        stream,
        "POST /messages?n={MESSAGES} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let told = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    let told: Answer = told
        .and_then(|body| serde_json::from_str(body).ok())
        .with_context(|| format!("the answer is `{answer}`\n{}", proxy.log()))?;
    let is_same = told.wire == HEXLOWER.encode(&native.wire)
        && serde_json::from_str::<Value>(&told.json)? == serde_json::from_str::<Value>(&native.told)?;
    ensure!(is_same, "it makes {} and {}", told.wire, told.json);
    Ok([told.to_wire, told.to_json])
}
