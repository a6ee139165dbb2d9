//! `sluice get|apply|delete|diff|history|rollback`: the Admin API's client.
//!
//! Exit codes: 0 done, or nothing is different; 1 it failed; 2 (`diff`, and
//! what has `--dry-run`) something is different.

pub mod cli;
mod client;
mod files;
mod show;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use cli::{Consent, Output};
pub use client::ClientError;
use client::query;
pub(in crate::app) use client::{Client, Sent, encoded};
use files::Objects;

/// Exit code: something is different.
const DIFFERENT: u8 = 2;

/// What a command comes to: an exit code.
pub type Outcome = Result<u8, ClientError>;

/// Runs a command and says what went wrong with it.
#[must_use]
pub fn run(command: impl FnOnce() -> Outcome) -> ExitCode {
    match command() {
        Ok(code) => ExitCode::from(code),
        // `| head` has seen enough.
        Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Shows objects of a kind, or one of them.
///
/// # Errors
/// See [`ClientError`].
pub fn get(flags: &cli::Get) -> Outcome {
    let client = Client::new(&flags.server)?;
    let path = match &flags.id {
        Some(id) => format!("{}/{}", flags.kind, encoded(id)),
        None => {
            let filters = [
                ("name", flags.name.as_deref()),
                ("label", flags.label.as_deref()),
                ("uri", flags.uri.as_deref()),
            ];
            format!("{}{}", flags.kind, query(&filters))
        }
    };
    let answer = client.ask("GET", &path, None)?;
    let values: Vec<Value> = match answer["list"].as_array() {
        Some(list) => list.iter().map(written).collect(),
        None => vec![written(&answer)],
    };
    let shown = match (flags.output.form, &flags.id) {
        (Output::Table, _) => show::table(&values),
        (form, Some(_)) => show::data(form, &values[0]),
        // The form that `apply` reads.
        (form, None) => show::data(form, &json!({&flags.kind: values})),
    };
    print(&shown)?;
    Ok(0)
}

/// An object with the id it is written under.
fn written(item: &Value) -> Value {
    let mut value = item["value"].clone();
    let key: Vec<&str> =
        item["key"].as_str().unwrap_or_default().trim_start_matches('/').split('/').collect();
    let id = match key[..] {
        [_, "consumers", consumer, "credentials", id] => Some(format!("{consumer}.{id}")),
        [_, "secrets", manager, id] => Some(format!("{manager}.{id}")),
        _ => None,
    };
    if let Some(id) = id {
        value["id"] = json!(id);
    }
    value
}

/// Writes the objects of files, after showing what is different.
///
/// # Errors
/// See [`ClientError`].
pub fn apply(flags: &cli::Apply) -> Outcome {
    let client = Client::new(&flags.server)?;
    let objects = Objects::read(&flags.files)?;
    let different = try_all(&client, &objects, flags.output.form)?;
    if flags.consent.dry_run || !different {
        return Ok(if different { DIFFERENT } else { 0 });
    }
    agree(flags.consent, "apply this?")?;
    let changes = objects.changes();
    if changes.len() > 1 {
        eprintln!("too much for one change: applied as {}, one after the other", changes.len());
    }
    for objects in changes {
        let answer = client.ask("POST", "changes", Some(&json!({"objects": objects})))?;
        say_change(&answer);
    }
    Ok(0)
}

/// Shows what applying would make different; says whether anything is.
fn try_all(client: &Client, objects: &Objects, form: Output) -> Result<bool, ClientError> {
    let trials = objects.trials();
    let mut told = Vec::new();
    let mut different = false;
    for set in &trials {
        match client.ask("POST", "changes?dry_run=true", Some(&json!({"objects": set}))) {
            Ok(answer) => told.extend(answer["objects"].as_array().cloned().unwrap_or_default()),
            // A later part may name what an earlier one makes.
            Err(ClientError::Refused(why)) if trials.len() > 1 => {
                eprintln!("a part cannot be judged before the others are applied: {why}");
                different = true;
            }
            Err(error) => return Err(error),
        }
    }
    different |= told.iter().any(|object| object["action"] != "unchanged");
    print(&match form {
        Output::Table => show::differences(&told),
        form => show::data(form, &json!({"objects": told})),
    })?;
    Ok(different)
}

/// Deletes an object.
///
/// # Errors
/// See [`ClientError`].
pub fn delete(flags: &cli::Delete) -> Outcome {
    let client = Client::new(&flags.server)?;
    let path = format!("{}/{}", flags.kind, encoded(&flags.id));
    if flags.consent.dry_run {
        let object = json!({"kind": flags.kind, "id": flags.id, "value": null});
        let force = query(&[("dry_run", Some("true")), ("force", flags.force.then_some("true"))]);
        let answer = client.ask("POST", &format!("changes{force}"), Some(&json!({"objects": [object]})))?;
        print(&show::differences(answer["objects"].as_array().map_or(&[], Vec::as_slice)))?;
        return Ok(DIFFERENT);
    }
    if !flags.consent.yes {
        // Who is asked sees what would go.
        let answer = client.ask("GET", &path, None)?;
        print(&show::table(&[written(&answer)]))?;
    }
    agree(flags.consent, "delete this?")?;
    let force = query(&[("force", flags.force.then_some("true"))]);
    client.ask("DELETE", &format!("{path}{force}"), None)?;
    eprintln!("{}/{} deleted", flags.kind, flags.id);
    Ok(0)
}

/// Shows what is different between an object and an earlier state of it, or files.
///
/// # Errors
/// See [`ClientError`].
pub fn diff(flags: &cli::Diff) -> Outcome {
    let client = Client::new(&flags.server)?;
    let (Some(kind), Some(id)) = (&flags.kind, &flags.id) else {
        let different = try_all(&client, &Objects::read(&flags.files)?, flags.output.form)?;
        return Ok(if different { DIFFERENT } else { 0 });
    };
    let to = flags.to.map(|to| to.to_string());
    let arguments = query(&[("kind", Some(kind)), ("id", Some(id)), ("to", to.as_deref())]);
    let answer = client.ask("GET", &format!("diff{arguments}"), None)?;
    let is_same = answer["differences"].as_array().is_none_or(Vec::is_empty);
    print(&match flags.output.form {
        Output::Table if is_same => show::differences(&[]),
        Output::Table => show::differences(std::slice::from_ref(&answer)),
        form => show::data(form, &answer),
    })?;
    Ok(if is_same { 0 } else { DIFFERENT })
}

/// Shows what was changed, when and by whom.
///
/// # Errors
/// See [`ClientError`].
pub fn history(flags: &cli::History) -> Outcome {
    let client = Client::new(&flags.server)?;
    let limit = flags.limit.to_string();
    let arguments =
        [("kind", flags.kind.as_deref()), ("id", flags.id.as_deref()), ("limit", Some(limit.as_str()))];
    let answer = match flags.change {
        Some(change) => client.ask("GET", &format!("history/{change}"), None)?,
        None => client.ask("GET", &format!("history{}", query(&arguments)), None)?,
    };
    print(&match (flags.output.form, flags.change) {
        (Output::Table, None) => show::history(answer["list"].as_array().map_or(&[], Vec::as_slice)),
        (Output::Table, Some(_)) => show::data(Output::Yaml, &answer),
        (form, _) => show::data(form, &answer),
    })?;
    Ok(0)
}

/// Brings an object back to an earlier state, or takes a change back, after
/// showing what that makes different.
///
/// # Errors
/// See [`ClientError`].
pub fn rollback(flags: &cli::Rollback) -> Outcome {
    let client = Client::new(&flags.server)?;
    let wanted = [
        ("change", json!(flags.change)),
        ("kind", json!(flags.kind)),
        ("id", json!(flags.id)),
        ("to", json!(flags.to)),
    ];
    let body: Value = wanted
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let trial = client.ask("POST", "rollback?dry_run=true", Some(&body))?;
    let objects = trial["objects"].as_array().cloned().unwrap_or_default();
    let different = objects.iter().any(|object| object["action"] != "unchanged");
    print(&match flags.output.form {
        Output::Table => show::differences(&objects),
        form => show::data(form, &trial),
    })?;
    if flags.consent.dry_run || !different {
        return Ok(if different { DIFFERENT } else { 0 });
    }
    agree(flags.consent, "go back to this?")?;
    say_change(&client.ask("POST", "rollback", Some(&body))?);
    Ok(0)
}

/// Asks, unless it was said beforehand.
fn agree(consent: Consent, question: &str) -> Result<(), ClientError> {
    if consent.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(ClientError::NotAgreed("nothing was changed: there is no terminal to ask at; say --yes"));
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(ClientError::NotAgreed("nothing was changed")),
    }
}

fn say_change(answer: &Value) {
    match answer["change"].as_u64() {
        Some(change) => eprintln!("applied as change {change}"),
        None => eprintln!("nothing is different"),
    }
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("breaks clients: {warning}");
    }
}

fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}
