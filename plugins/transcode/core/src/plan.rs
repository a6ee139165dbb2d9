//! A configuration, checked and made ready: tables, commands, routes.

use std::collections::BTreeMap;

use crate::compile::compile;
use crate::routes::{Binding, Routes, Template};
use crate::schema::{Field, Kind, MessageId, Schema, Shape};
use crate::settings::{CommandSettings, ConfigFault, EnumValues, Number, Settings};
use crate::to_json::JsonOptions;
use crate::to_wire::WireOptions;

/// What transcoding needs, made of a configuration once.
#[derive(Debug)]
pub struct Plan {
    pub(crate) schema: Schema,
    pub(crate) json: JsonOptions,
    pub(crate) wire: WireOptions,
    /// Entries with a request.
    pub(crate) requests: Vec<Request>,
    /// The index in `requests` by command.
    pub(crate) by_command: BTreeMap<u32, usize>,
    /// What comes from the upstream, by command.
    pub(crate) incoming: BTreeMap<u32, Incoming>,
    pub(crate) routes: Routes,
    pub(crate) query_ignore: Vec<String>,
}

/// A command clients may send.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) command: u32,
    pub(crate) reply: Option<u32>,
    pub(crate) message: MessageId,
    /// The field that is set from the caller's identity.
    pub(crate) user_field: Option<usize>,
    /// Method and path as they are written, for comparisons.
    pub(crate) route: Option<(String, String)>,
}

/// A frame that comes from the upstream.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) message: MessageId,
    pub(crate) error: Option<ErrorReply>,
}

/// How an error frame becomes an HTTP response.
#[derive(Debug)]
pub(crate) struct ErrorReply {
    pub(crate) message_field: Option<u32>,
    pub(crate) code_field: Option<u32>,
    pub(crate) statuses: BTreeMap<i32, u16>,
}

impl Plan {
    /// Checks a configuration, JSON as `configure` gets it, and makes it ready.
    ///
    /// # Errors
    ///
    /// The fault names the field, as in `commands[3].request`, and the value.
    pub fn new(json: &str) -> Result<Self, ConfigFault> {
        Self::from_settings(&Settings::parse(json)?)
    }

    /// The same of settings that have been read.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`].
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigFault> {
        settings.check()?;
        let id = &settings.proto_id.0;
        let pool = compile(id, &settings.protos)?;
        let schema = crate::schema::build(&pool, settings.field_names)
            .map_err(|message| ConfigFault::new(format!("protos.{id}"), message))?;
        let mut plan = Self {
            schema,
            json: JsonOptions {
                emit_defaults: settings.emit_defaults,
                enum_numbers: settings.enum_values == EnumValues::Number,
                unknown: settings.unknown_reply_fields,
                depth_max: settings.depth_max,
                output_max: settings.json_max,
            },
            wire: WireOptions { unknown: settings.unknown_fields, depth_max: settings.depth_max },
            requests: Vec::new(),
            by_command: BTreeMap::new(),
            incoming: BTreeMap::new(),
            routes: Routes::default(),
            query_ignore: settings.query_ignore.clone(),
        };
        for (index, command) in settings.commands.iter().enumerate() {
            let entry = Entry { index, command, user_field: settings.user_field.as_deref() };
            plan.add(&entry)?;
        }
        plan.routes.sort();
        Ok(plan)
    }

    /// The commands clients may send, for a host that wants to know.
    pub fn commands(&self) -> impl Iterator<Item = u32> {
        self.requests.iter().map(|request| request.command)
    }

    fn add(&mut self, entry: &Entry<'_>) -> Result<(), ConfigFault> {
        let command = entry.command;
        match (&command.request, &command.push, &command.error) {
            (Some(name), None, None) => self.add_request(entry, name),
            (None, Some(name), None) => {
                entry.only_with_request()?;
                entry.only_with_error()?;
                let message = entry.message(&self.schema, "push", name)?;
                self.add_incoming(entry, "cmd", command.cmd, Incoming { message, error: None })
            }
            (None, None, Some(name)) => self.add_error(entry, name),
            (None, None, None) => Err(entry.fault("", "names none of request, push and error")),
            _ => Err(entry.fault("", "names more than one of request, push and error")),
        }
    }

    fn add_request(&mut self, entry: &Entry<'_>, name: &str) -> Result<(), ConfigFault> {
        let command = entry.command;
        entry.only_with_error()?;
        let message = entry.message(&self.schema, "request", name)?;
        match (command.reply, &command.response) {
            (Some(reply), Some(name)) => {
                let message = entry.message(&self.schema, "response", name)?;
                self.add_incoming(entry, "reply", reply, Incoming { message, error: None })?;
            }
            (Some(reply), None) => {
                return Err(entry.fault("reply", format_args!("{reply}: its message is missing in response")));
            }
            (None, Some(name)) => {
                return Err(
                    entry.fault("response", format_args!("{name:?}: its command is missing in reply"))
                );
            }
            (None, None) => {}
        }
        let at = self.requests.len();
        if self.by_command.insert(command.cmd.0, at).is_some() {
            return Err(entry.fault("cmd", format_args!("{} is there twice", command.cmd)));
        }
        let user_field = self.user_field(entry, message)?;
        let route = self.add_route(entry, at, message, user_field)?;
        let reply = command.reply.map(|reply| reply.0);
        self.requests.push(Request { command: command.cmd.0, reply, message, user_field, route });
        Ok(())
    }

    fn user_field(&self, entry: &Entry<'_>, id: MessageId) -> Result<Option<usize>, ConfigFault> {
        let name = match entry.command.user_field.as_deref().or(entry.user_field) {
            None | Some("") => return Ok(None),
            Some(name) => name,
        };
        let message = self.schema.message(id);
        let Some(index) = message.find(name.as_bytes(), usize::MAX) else {
            return Err(entry.fault("user_field", format_args!("{name:?} is no field of {}", message.name)));
        };
        let field = &message.fields[index];
        let is_fit = !matches!(field.shape, Shape::Repeated | Shape::Map)
            && !matches!(field.kind, Kind::Message(_) | Kind::Enum(_) | Kind::Bool | Kind::Bytes)
            && !matches!(field.kind, Kind::Double | Kind::Float);
        if !is_fit {
            let message = format_args!("{name:?} is neither an integer nor a string");
            return Err(entry.fault("user_field", message));
        }
        Ok(Some(index))
    }

    fn add_route(
        &mut self,
        entry: &Entry<'_>,
        request: usize,
        id: MessageId,
        user_field: Option<usize>,
    ) -> Result<Option<(String, String)>, ConfigFault> {
        let command = entry.command;
        let Some(uri) = &command.uri else {
            return match &command.method {
                Some(method) => Err(entry.fault("method", format_args!("{method:?} without a uri"))),
                None => Ok(None),
            };
        };
        let method = command.method.as_deref().unwrap_or("POST").to_ascii_uppercase();
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
            return Err(entry.fault("method", format_args!("{method:?} is no method")));
        }
        let template =
            Template::parse(uri).map_err(|message| entry.fault("uri", format_args!("{uri:?}: {message}")))?;
        let mut bindings: Vec<Binding> = Vec::new();
        for name in template.names() {
            let binding = bind(&self.schema, id, name)
                .map_err(|message| entry.fault("uri", format_args!("{uri:?}: {{{name}}}: {message}")))?;
            if bindings.contains(&binding) {
                return Err(entry.fault("uri", format_args!("{uri:?}: {{{name}}} is there twice")));
            }
            if user_field == binding.first().copied() {
                let message = format_args!("{uri:?}: {{{name}}} is set from the caller's identity");
                return Err(entry.fault("uri", message));
            }
            bindings.push(binding);
        }
        if let Some(other) = self.routes.add(&method, template, bindings, request) {
            let other = &self.requests[other];
            let message = format_args!("{method} {uri:?} is that of {} too", Number(other.command));
            return Err(entry.fault("uri", message));
        }
        Ok(Some((method, uri.clone())))
    }

    /// Two entries may share a reply when it is the same message.
    fn add_incoming(
        &mut self,
        entry: &Entry<'_>,
        field: &str,
        command: Number,
        incoming: Incoming,
    ) -> Result<(), ConfigFault> {
        let message = incoming.message;
        let has_error = incoming.error.is_some();
        if let Some(other) = self.incoming.insert(command.0, incoming)
            && (other.message != message || other.error.is_some() || has_error)
        {
            let other = &self.schema.message(other.message).name;
            let message = format_args!("{command} is the message {other} in another entry");
            return Err(entry.fault(field, message));
        }
        Ok(())
    }

    fn add_error(&mut self, entry: &Entry<'_>, name: &str) -> Result<(), ConfigFault> {
        entry.only_with_request()?;
        let command = entry.command;
        let message = entry.message(&self.schema, "error", name)?;
        let find = |field: &str, name: &Option<String>, fits: fn(&Field) -> bool| match name {
            None => Ok(None),
            Some(name) => {
                let index = self.schema.message(message).find(name.as_bytes(), usize::MAX);
                match index.map(|index| &self.schema.message(message).fields[index]) {
                    Some(found) if fits(found) => Ok(Some(found)),
                    Some(_) => Err(entry.fault(field, format_args!("{name:?} is of another type"))),
                    None => Err(entry.fault(field, format_args!("{name:?} is no field of the message"))),
                }
            }
        };
        let text = find("message_field", &command.message_field, |field| {
            field.kind == Kind::String && matches!(field.shape, Shape::Implicit | Shape::Explicit)
        })?;
        let code = find("code_field", &command.code_field, |field| {
            matches!(field.kind, Kind::Enum(_) | Kind::Int32 | Kind::Uint32)
                && matches!(field.shape, Shape::Implicit | Shape::Explicit)
        })?;
        let mut statuses = BTreeMap::new();
        for (name, status) in &command.statuses {
            let field = format!("statuses.{name}");
            if !(400..600).contains(status) {
                return Err(entry.fault(&field, format_args!("{status} is no status of an error")));
            }
            let named = match code.map(|code| code.kind) {
                None => return Err(entry.fault("statuses", "without a code_field")),
                Some(Kind::Enum(id)) => self.schema.enumeration(id).numbers.get(name.as_bytes()).copied(),
                Some(_) => None,
            };
            let Some(number) = named.or_else(|| name.parse().ok()) else {
                return Err(entry.fault(&field, format_args!("{name:?} is no value of the code_field")));
            };
            statuses.insert(number, *status);
        }
        let error = ErrorReply {
            message_field: text.map(|field| field.number),
            code_field: code.map(|field| field.number),
            statuses,
        };
        self.add_incoming(entry, "cmd", command.cmd, Incoming { message, error: Some(error) })
    }
}

struct Entry<'a> {
    index: usize,
    command: &'a CommandSettings,
    user_field: Option<&'a str>,
}

impl Entry<'_> {
    fn fault(&self, field: &str, message: impl std::fmt::Display) -> ConfigFault {
        let dot = if field.is_empty() { "" } else { "." };
        ConfigFault::new(format!("commands[{}]{dot}{field}", self.index), message)
    }

    fn message(&self, schema: &Schema, field: &str, name: &str) -> Result<MessageId, ConfigFault> {
        match schema.by_name.get(name.trim_start_matches('.')) {
            Some(id) => Ok(*id),
            None => {
                let message =
                    format_args!("{name:?} is no message of the definitions{}", Nearest(schema, name));
                Err(self.fault(field, message))
            }
        }
    }

    fn only_with_request(&self) -> Result<(), ConfigFault> {
        let command = self.command;
        let named = [
            ("reply", command.reply.is_some()),
            ("response", command.response.is_some()),
            ("method", command.method.is_some()),
            ("uri", command.uri.is_some()),
            ("user_field", command.user_field.is_some()),
        ];
        self.none_of(named, "request")
    }

    fn only_with_error(&self) -> Result<(), ConfigFault> {
        let command = self.command;
        let named = [
            ("message_field", command.message_field.is_some()),
            ("code_field", command.code_field.is_some()),
            ("statuses", !command.statuses.is_empty()),
        ];
        self.none_of(named, "error")
    }

    fn none_of<const N: usize>(&self, named: [(&str, bool); N], owner: &str) -> Result<(), ConfigFault> {
        match named.into_iter().find(|(_, is_there)| *is_there) {
            Some((field, _)) => Err(self.fault(field, format_args!("belongs to entries with {owner}"))),
            None => Ok(()),
        }
    }
}

/// Says which message was perhaps meant: the one with the same last word.
struct Nearest<'a>(&'a Schema, &'a str);

impl std::fmt::Display for Nearest<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let mut names: Vec<&str> = self.0.by_name.keys().map(|name| &**name).collect();
        names.sort_unstable();
        match names.into_iter().find(|name| last(name) == last(self.1)) {
            Some(name) => write!(formatter, "; {name:?} is"),
            None => Ok(()),
        }
    }
}

/// The fields a dotted name goes through, from the message outwards. The last
/// one can be written as a text.
pub(crate) fn bind(schema: &Schema, mut id: MessageId, name: &str) -> Result<Binding, String> {
    let mut binding = Binding::new();
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let message = schema.message(id);
        let Some(index) = message.find(part.as_bytes(), usize::MAX) else {
            return Err(format!("no field of {}", message.name));
        };
        let field = &message.fields[index];
        binding.push(index);
        match (field.kind, parts.peek()) {
            (Kind::Message(inner), Some(_)) if matches!(field.shape, Shape::Implicit | Shape::Explicit) => {
                id = inner
            }
            (_, Some(_)) => return Err(format!("{part} is no message")),
            (_, None) if field.shape == Shape::Map => {
                return Err("a map cannot be written as a text".to_owned());
            }
            (Kind::Message(inner), None) if !crate::bind::is_textual(schema.message(inner)) => {
                return Err("a message cannot be written as a text".to_owned());
            }
            (_, None) => {}
        }
    }
    Ok(binding)
}
