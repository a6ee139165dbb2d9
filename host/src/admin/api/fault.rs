//! Why a request is refused, in APISIX's form.

use serde_json::{Map, Value, json};

use crate::admin::exchange::Response;
use crate::config::Problem;
use crate::config::source::WriteError;

/// What an answer is made of.
pub(super) type Answer = Result<Response, Fault>;

/// A refusal; boxed, as faults travel through results.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault(Box<Parts>);

#[derive(Debug, Clone, PartialEq)]
struct Parts {
    status: u16,
    message: String,
    /// Further members of the answer.
    more: Map<String, Value>,
    headers: Vec<(&'static str, String)>,
}

impl Fault {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self(Box::new(Parts { status, message: message.into(), more: Map::new(), headers: Vec::new() }))
    }

    /// Something is wrong with the request.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// There is no such object; `message` is where APISIX says it.
    pub(super) fn not_found() -> Self {
        Self::new(404, "Key not found").with("message", "Key not found")
    }

    /// A method that a path does not have.
    pub(super) fn method(method: &str, allowed: &str) -> Self {
        let mut fault = Self::new(405, format!("not supported `{method}` method"));
        fault.0.headers.push(("allow", allowed.to_owned()));
        fault
    }

    /// An object that is not valid, with what to mend and where.
    pub(super) fn invalid(head: &str, problems: &[Problem]) -> Self {
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        Self::bad(format!("{head}: {}", told.join("; "))).with("problems", json!(problems))
    }

    /// The same, said of a place in the request.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.more.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn status(&self) -> u16 {
        self.0.status
    }
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Self {
        let status = match &error {
            WriteError::Conflict(..) | WriteError::ReadOnly { .. } => 409,
            WriteError::NotFound(..) => return Self::not_found(),
            WriteError::HiddenId(_) | WriteError::Twice(..) | WriteError::TooMany(_) => 400,
            WriteError::TooLarge(..) | WriteError::TooLargeTogether(..) | WriteError::RecordTooLarge(_) => {
                413
            }
            _ => 503,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Fault> for Response {
    fn from(fault: Fault) -> Self {
        let fault = *fault.0;
        let mut body = json!({"error_msg": fault.message});
        if let Value::Object(fields) = &mut body {
            fields.extend(fault.more);
        }
        let mut response = Self::json(fault.status, &body);
        for (name, value) in &fault.headers {
            response = response.with(name, value);
        }
        response
    }
}
