//! Asking the Admin API of a node.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::cli::Server;
use crate::app::boot::ADMIN_KEY_VARIABLE;
use crate::config::{Format, parse_value};

/// Whom to ask when nothing says so.
const SERVER: &str = "http://127.0.0.1:9180";
/// The longest one question may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("no answer from {server}: {source} (is `sluice run` up, and is admin.api this address?)")]
    Unreachable {
        /// Whom we asked.
        server: String,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// The address, the key or the client's file cannot be used.
    #[error("{0}")]
    Settings(String),
    /// Files that cannot be read as objects.
    #[error("{0}")]
    Files(String),
    /// Nobody said yes.
    #[error("{0}")]
    NotAgreed(&'static str),
    /// The terminal or file that is written to is gone.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// The client's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    server: Option<String>,
    key_file: Option<PathBuf>,
}

impl Settings {
    /// The file that was named, or the one in its usual place if there is one.
    fn load(named: Option<&Path>) -> Result<Self, ClientError> {
        let usual = || {
            let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
            let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
            Some(home.join("sluice/client.yaml")).filter(|path| path.is_file())
        };
        let Some(path) = named.map(Path::to_owned).or_else(usual) else { return Ok(Self::default()) };
        let wrong =
            |error: &dyn std::fmt::Display| ClientError::Settings(format!("{}: {error}", path.display()));
        let bytes = std::fs::read(&path).map_err(|error| wrong(&error))?;
        let value = parse_value(&bytes, Format::Yaml).map_err(|error| wrong(&error.message))?;
        let mut settings: Self = serde_json::from_value(value).map_err(|error| wrong(&error))?;
        if let (Some(file), Some(folder)) = (&mut settings.key_file, path.parent()) {
            *file = folder.join(&*file);
        }
        Ok(settings)
    }
}

/// Whom to ask, and with which key.
pub(in crate::app) struct Client {
    agent: ureq::Agent,
    server: String,
    key: Option<String>,
}

impl Client {
    pub(in crate::app) fn new(flags: &Server) -> Result<Self, ClientError> {
        let settings = Settings::load(flags.client.as_deref())?;
        let by_variable = std::env::var(ADMIN_KEY_VARIABLE).ok().filter(|key| !key.is_empty());
        let key = match (&flags.key_file, by_variable, &settings.key_file) {
            (Some(file), _, _) | (None, None, Some(file)) => Some(key_in(file)?),
            (None, key, _) => key,
        };
        let server = flags.server.clone().or(settings.server).unwrap_or_else(|| SERVER.to_owned());
        let server = server.trim_end_matches('/');
        let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        if !server.starts_with("http://") {
            let message = format!("server {server}: the Admin API is served over http:// only");
            return Err(ClientError::Settings(message));
        }
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { agent, server, key })
    }

    /// Asks, and gives the answer if it is no refusal.
    pub(in crate::app) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let (status, value) = self.send(method, path, body.map_or(Sent::Nothing, Sent::Json), None)?;
        accepted(status, value, path)
    }

    /// What is at a path; none where nothing is.
    pub(in crate::app) fn find(&self, path: &str) -> Result<Option<Value>, ClientError> {
        match self.send("GET", path, Sent::Nothing, None)? {
            (404, value) if value["message"] == "Key not found" => Ok(None),
            (status, value) => accepted(status, value, path).map(Some),
        }
    }

    /// Puts something at a path, where a condition, a header field, holds.
    pub(in crate::app) fn put(
        &self,
        path: &str,
        body: Sent<'_>,
        condition: Option<(&str, &str)>,
    ) -> Result<Value, ClientError> {
        let (status, value) = self.send("PUT", path, body, condition)?;
        accepted(status, value, path)
    }

    /// Asks; gives status and answer.
    fn send(
        &self,
        method: &str,
        path: &str,
        body: Sent<'_>,
        condition: Option<(&str, &str)>,
    ) -> Result<(u16, Value), ClientError> {
        let url = format!("{}/apisix/admin/{path}", self.server);
        let unreachable =
            |source| ClientError::Unreachable { server: self.server.clone(), source: Box::new(source) };
        let key = self.key.as_deref().unwrap_or_default();
        let mut response = match method {
            "POST" | "PUT" => {
                let request = if method == "POST" { self.agent.post(&url) } else { self.agent.put(&url) };
                let mut request = request.header("X-API-KEY", key);
                if let Some((name, value)) = condition {
                    request = request.header(name, value);
                }
                match body {
                    Sent::Nothing => request.send_empty(),
                    Sent::Json(value) => request.send_json(value),
                    Sent::Bytes(bytes) => request.content_type("application/octet-stream").send(bytes),
                }
            }
            "DELETE" => self.agent.delete(&url).header("X-API-KEY", key).call(),
            _ => self.agent.get(&url).header("X-API-KEY", key).call(),
        }
        .map_err(unreachable)?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(unreachable)?;
        let value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if value.is_null() && (200..300).contains(&status) {
            let message = format!("{} does not answer as an Admin API", self.server);
            return Err(ClientError::Refused(message));
        }
        Ok((status, value))
    }
}

/// What goes with a question.
#[derive(Debug, Clone, Copy)]
pub(in crate::app) enum Sent<'a> {
    Nothing,
    Json(&'a Value),
    Bytes(&'a [u8]),
}

/// An answer, if it is no refusal.
fn accepted(status: u16, value: Value, path: &str) -> Result<Value, ClientError> {
    if (200..300).contains(&status) {
        return Ok(value);
    }
    Err(ClientError::Refused(refusal(status, &value, path)))
}

fn key_in(file: &Path) -> Result<String, ClientError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| ClientError::Settings(format!("{}: {error}", file.display())))?;
    Ok(text.trim_end().to_owned())
}

/// A refusal in one line.
fn refusal(status: u16, value: &Value, path: &str) -> String {
    let said = value["error_msg"].as_str();
    match (status, said) {
        (401, _) => format!(
            "{}: {} (set {ADMIN_KEY_VARIABLE} or --key-file)",
            said.unwrap_or("refused"),
            value["description"].as_str().unwrap_or("no reason is given")
        ),
        (404, _) if value["message"] == "Key not found" => {
            format!("there is no {}", path.split('?').next().unwrap_or(path))
        }
        (_, Some(said)) => said.to_owned(),
        (status, None) => format!("refused with status {status}"),
    }
}

/// A part of a path; the slash of `secrets` and `credentials` stays.
pub(in crate::app) fn encoded(id: &str) -> String {
    escaped(id, "-_./")
}

/// Arguments behind a path, `?` included.
pub(super) fn query(arguments: &[(&str, Option<&str>)]) -> String {
    let pairs: Vec<String> = arguments
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escaped((*value)?, "-_."))))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn escaped(text: &str, kept: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || kept.contains(c) {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(encoded("a b?c#d/e"), "a%20b%3Fc%23d/e");
        assert_eq!(query(&[("name", Some("a&b=ü")), ("id", None)]), "?name=a%26b%3D%C3%BC");
        assert_eq!(query(&[]), "");
    }

    #[test]
    fn the_clients_file_is_read_strictly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.yaml");
        std::fs::write(&path, "server: http://a:1\nkey_file: key\n").unwrap();
        let settings = Settings::load(Some(&path)).unwrap();
        assert_eq!(settings.server.as_deref(), Some("http://a:1"));
        assert_eq!(settings.key_file, Some(folder.path().join("key")));
        std::fs::write(&path, "sever: http://a:1\n").unwrap();
        let error = Settings::load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("client.yaml") && error.contains("sever"), "{error}");
    }
}
