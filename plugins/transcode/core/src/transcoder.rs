//! The calls of the plugin, on plain types.

use crate::bind::{put_path, put_query, put_user};
use crate::fault::{Problem, quoted};
use crate::plan::{ErrorReply, Incoming, Plan, Request};
use crate::routes::Match;
use crate::schema::MessageId;
use crate::settings::{Number, Unknown};
use crate::to_json::to_json;
use crate::to_wire::{Seen, ToWire, WireOptions, check_utf8, to_wire_with};
use crate::wire::{LENGTH, Reader, VARINT};

/// The longest `id` of a text message, in bytes of JSON.
const ID_MAX: usize = 128;

/// What a frame needs besides its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// The frame's command.
    pub command: u32,
    /// The command of the reply; none when none is awaited.
    pub reply: Option<u32>,
}

/// The same of a text message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageHead {
    /// What the frame needs.
    pub request: RequestHead,
    /// What the client calls the message: raw JSON, a string or a number.
    pub id: Option<String>,
}

/// Turns JSON into the bodies of frames and back. All calls append to a buffer
/// of the caller's, which is as before when they fail.
#[derive(Debug)]
pub struct Transcoder {
    plan: Plan,
}

impl Transcoder {
    /// A transcoder by a plan.
    pub fn new(plan: Plan) -> Self {
        Self { plan }
    }

    /// What it was made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The body of the frame an HTTP request becomes. `target` is the path with
    /// its query; `user` is who the authenticated caller is.
    ///
    /// # Errors
    ///
    /// 404 when no command has this path, 405 when one has with another method,
    /// 401 when the command needs an identity and there is none, 400 with the
    /// field's path otherwise.
    pub fn encode_request(
        &self,
        method: &str,
        target: &str,
        json: &[u8],
        user: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<RequestHead, Problem> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (route, values) = match self.plan.routes.find(method, path) {
            Match::Route(route, values) => (route, values),
            Match::OtherMethod(others) => {
                let message = format!("{method} is not one of {}", others.join(", "));
                return Err(Problem::new(405, "", message));
            }
            Match::None => {
                return Err(Problem::new(
                    404,
                    "",
                    format!("no command has the path {}", quoted(path.as_bytes())),
                ));
            }
        };
        let request = &self.plan.requests[route.request];
        let start = out.len();
        let mut seen = Seen::new(self.plan.schema.message(request.message));
        let done = put_user(&self.plan, request, user, &mut seen, out)
            .and_then(|()| put_path(&self.plan, request, &route.bindings, &values, &mut seen, out))
            .and_then(|()| put_query(&self.plan, request, query, &mut seen, out))
            .and_then(|()| {
                if json.iter().all(u8::is_ascii_whitespace) {
                    return Ok(());
                }
                to_wire_with(&self.plan.schema, &self.plan.wire, request.message, json, out, &mut seen)
            });
        match done {
            Ok(()) => Ok(request.head()),
            Err(problem) => {
                out.truncate(start);
                Err(problem)
            }
        }
    }

    /// The JSON of the response to a request that was sent as `request`.
    ///
    /// # Errors
    ///
    /// 502 when the bytes are not what the command says or the command is not
    /// the reply of the request. An error frame becomes a problem with the
    /// status and text its configuration gives it.
    pub fn decode_reply(
        &self,
        request: u32,
        reply: u32,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        let incoming = self.incoming(reply)?;
        if let Some(error) = &incoming.error {
            return Err(self.error_reply(incoming.message, error, body));
        }
        let wanted = self.plan.by_command.get(&request).and_then(|at| self.plan.requests[*at].reply);
        if wanted != Some(reply) {
            let message = format!("the reply {} is not that of {}", Number(reply), Number(request));
            return Err(Problem::new(502, "", message));
        }
        self.json_of(incoming.message, body, out)
    }

    /// The body of the frame a text message becomes:
    /// `{"cmd": …, "id": …, "body": {…}}`, of which only `cmd` is needed.
    ///
    /// # Errors
    ///
    /// 404 when there is no such command, 401 when it needs an identity and
    /// there is none, 400 with the field's path otherwise.
    pub fn encode_message(
        &self,
        text: &[u8],
        user: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<MessageHead, Problem> {
        check_utf8(text)?;
        let start = out.len();
        let envelope = Envelope::read(&self.plan, text, out).map_err(|fault| fault.into_problem(400))?;
        let Some(command) = envelope.command else {
            return Err(Problem::new(400, "cmd", "is missing"));
        };
        let request = self.request(command)?;
        let mut seen = Seen::new(self.plan.schema.message(request.message));
        let done = put_user(&self.plan, request, user, &mut seen, out).and_then(|()| match envelope.body {
            Some((from, to)) => {
                let body = &text[from..to];
                to_wire_with(&self.plan.schema, &self.plan.wire, request.message, body, out, &mut seen)
            }
            None => Ok(()),
        });
        match done {
            Ok(()) => Ok(MessageHead { request: request.head(), id: envelope.id }),
            Err(mut problem) => {
                out.truncate(start);
                if problem.status == 400 {
                    let dot = if problem.path.is_empty() || problem.path.starts_with('[') { "" } else { "." };
                    problem.path.insert_str(0, dot);
                    problem.path.insert_str(0, "body");
                }
                Err(problem)
            }
        }
    }

    /// A reply or a push as a text message. `id` is that of the message it
    /// answers.
    ///
    /// # Errors
    ///
    /// 502 when the bytes are not what the command says, or nothing is known of
    /// the command.
    pub fn decode_message(
        &self,
        command: u32,
        id: Option<&str>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        let incoming = self.incoming(command)?;
        let start = out.len();
        out.extend_from_slice(b"{\"cmd\":");
        out.extend_from_slice(itoa::Buffer::new().format(command).as_bytes());
        if let Some(id) = id {
            out.extend_from_slice(b",\"id\":");
            out.extend_from_slice(id.as_bytes());
        }
        out.extend_from_slice(b",\"body\":");
        match self.json_of(incoming.message, body, out) {
            Ok(()) => {
                out.push(b'}');
                Ok(())
            }
            Err(problem) => {
                out.truncate(start);
                Err(problem)
            }
        }
    }

    /// The texts of a frame's body, whichever way it goes.
    ///
    /// # Errors
    ///
    /// 404 when nothing is known of the command, 400 when the bytes are not what
    /// it says.
    pub fn text_fields(&self, command: u32, body: &[u8]) -> Result<Vec<String>, Problem> {
        let outgoing = self.plan.by_command.get(&command).map(|at| self.plan.requests[*at].message);
        let incoming = self.plan.incoming.get(&command).map(|incoming| incoming.message);
        let Some(id) = outgoing.or(incoming) else {
            return Err(unknown_command(404, command));
        };
        crate::text_fields::text_fields(&self.plan.schema, self.plan.wire.depth_max, id, body)
            .map_err(|fault| fault.into_problem(400))
    }

    fn request(&self, command: u32) -> Result<&Request, Problem> {
        match self.plan.by_command.get(&command) {
            Some(at) => Ok(&self.plan.requests[*at]),
            None => Err(unknown_command(404, command)),
        }
    }

    fn incoming(&self, command: u32) -> Result<&Incoming, Problem> {
        self.plan.incoming.get(&command).ok_or_else(|| unknown_command(502, command))
    }

    fn json_of(&self, id: MessageId, body: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        // Most messages are a little longer as text.
        out.reserve(body.len() * 2 + 64);
        to_json(&self.plan.schema, &self.plan.json, id, body, out)
    }

    #[cold]
    fn error_reply(&self, id: MessageId, error: &ErrorReply, body: &[u8]) -> Problem {
        let message = self.plan.schema.message(id);
        let (mut code, mut text) = (0, String::new());
        let mut reader = Reader::new(body);
        let mut read = || -> crate::fault::Checked {
            while !reader.is_empty() {
                let (number, wire) = reader.tag()?;
                let raw = reader.value(number, wire)?;
                if wire == VARINT && error.code_field == Some(number) {
                    code = raw.number as i32;
                } else if wire == LENGTH && error.message_field == Some(number) {
                    text = String::from_utf8_lossy(raw.bytes).into_owned();
                }
            }
            Ok(())
        };
        if let Err(fault) = read() {
            let mut problem = fault.into_problem(502);
            problem.message = format!("the upstream's error is no {}: {}", message.name, problem.message);
            return problem;
        }
        if text.is_empty() {
            text = format!("the upstream answered with error {code}");
        }
        Problem::new(error.statuses.get(&code).copied().unwrap_or(502), "", text)
    }
}

impl Request {
    fn head(&self) -> RequestHead {
        RequestHead { command: self.command, reply: self.reply }
    }
}

fn unknown_command(status: u16, command: u32) -> Problem {
    Problem::new(status, "", format!("no command {} in the map of commands", Number(command)))
}

/// The outer object of a text message.
#[derive(Default)]
struct Envelope {
    command: Option<u32>,
    id: Option<String>,
    /// Where the body's JSON is.
    body: Option<(usize, usize)>,
}

impl Envelope {
    /// Reads around the body, which is looked at later: `cmd`, which says what it
    /// is, may come after it.
    fn read(plan: &Plan, text: &[u8], out: &mut Vec<u8>) -> crate::fault::Checked<Self> {
        let options = WireOptions { unknown: Unknown::Reject, depth_max: plan.wire.depth_max + 1 };
        let mut reader =
            ToWire { schema: &plan.schema, options: &options, input: text, at: 0, out, scratch: Vec::new() };
        let mut envelope = Self::default();
        let (mut has_id, mut has_more) = (false, false);
        reader.skip_space();
        if !reader.begin(b'{', b'}', "an object")? {
            has_more = true;
        }
        while has_more {
            let key = reader.key()?;
            let name = reader.bytes(key).to_vec();
            let is_again = match &*name {
                b"cmd" => envelope.command.is_some(),
                b"id" => std::mem::replace(&mut has_id, true),
                b"body" => envelope.body.is_some(),
                _ => false,
            };
            let done = if is_again {
                crate::fault::fault("is set twice")
            } else {
                envelope.field(&mut reader, &name)
            };
            done.map_err(|fault| fault.in_field(&String::from_utf8_lossy(&name)))?;
            has_more = reader.another(b'}')?;
        }
        reader.end()?;
        Ok(envelope)
    }

    fn field(&mut self, reader: &mut ToWire<'_, '_, '_>, name: &[u8]) -> crate::fault::Checked {
        let start = reader.at;
        match name {
            b"cmd" => {
                let number = if reader.peek() == b'"' {
                    let text = reader.text("a command")?;
                    std::str::from_utf8(reader.bytes(text)).ok().and_then(Number::parse)
                } else {
                    std::str::from_utf8(reader.number()?).ok().and_then(Number::parse)
                };
                self.command = match number {
                    Some(number) => Some(number.0),
                    None => return crate::fault::fault("is no command such as 769 or \"0x0301\""),
                };
            }
            b"id" => {
                match reader.peek() {
                    b'"' => reader.text("a string").map(|_| ())?,
                    b'n' => reader.word("null")?,
                    _ => reader.number().map(|_| ())?,
                }
                let raw = &reader.input[start..reader.at];
                if raw.len() > ID_MAX {
                    return crate::fault::fault(format_args!("is longer than {ID_MAX} bytes"));
                }
                self.id = (raw != b"null").then(|| String::from_utf8_lossy(raw).into_owned());
            }
            b"body" => {
                reader.skip(reader.options.depth_max)?;
                self.body = Some((start, reader.at));
            }
            _ => return crate::fault::fault("is none of cmd, id and body"),
        }
        Ok(())
    }
}
