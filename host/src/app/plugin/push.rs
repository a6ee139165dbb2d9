//! `sluice plugin push`, `promote`, `rollback` and `list`: versions of modules in
//! a running fleet, through the Admin API of any of its nodes.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{cli, describe, sign};
use crate::app::objects::{Client, Sent, encoded};
use crate::config::blob;
use crate::config::objects::{MODULE_VERSIONS_MAX, ModuleGrants};

/// Digits of a digest that name a version nobody named.
const NAME_DIGITS: usize = 12;

/// A module as it is in the store.
struct Held {
    /// Its fields; none of a new one.
    fields: Map<String, Value>,
    /// What it was read at; none of a new one.
    index: Option<String>,
}

impl Held {
    fn read(client: &Client, name: &str) -> Result<Option<Self>> {
        let Some(answer) = client.find(&path(name))? else { return Ok(None) };
        let Value::Object(fields) = answer["value"].clone() else { bail!("modules/{name} is no object") };
        Ok(Some(Self { fields, index: Some(answer["modifiedIndex"].to_string()) }))
    }

    /// The same, of one that must be there.
    fn known(client: &Client, name: &str) -> Result<Self> {
        Self::read(client, name)?.with_context(|| format!("there is no modules/{name}"))
    }

    fn versions(&self) -> Vec<Value> {
        self.fields.get("versions").and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// The name of the version that serves.
    fn serving(&self) -> Option<String> {
        let named = self.fields.get("active").and_then(Value::as_str).map(str::to_owned);
        named.or_else(|| Some(self.versions().last()?["version"].as_str()?.to_owned()))
    }

    /// The name of the version that is tried.
    fn tried(&self) -> Option<String> {
        Some(self.fields.get("canary")?.get("version")?.as_str()?.to_owned())
    }

    /// Has a version serve and, perhaps, another tried.
    fn set(&mut self, active: &str, canary: Option<Value>) {
        self.fields.insert("active".to_owned(), json!(active));
        match canary {
            Some(canary) => self.fields.insert("canary".to_owned(), canary),
            None => self.fields.shift_remove("canary"),
        };
    }

    /// Writes it, unless someone else did meanwhile.
    fn write(mut self, client: &Client, name: &str) -> Result<()> {
        self.fields.retain(|field, _| field != "update_time");
        let condition = match &self.index {
            Some(index) => ("If-Match", index.as_str()),
            None => ("If-None-Match", "*"),
        };
        let object = Value::Object(self.fields);
        let answer = client.put(&path(name), Sent::Json(&object), Some(condition))?;
        for problem in answer["quarantine"].as_array().into_iter().flatten() {
            let said = problem["message"].as_str().unwrap_or_default();
            eprintln!("warning: modules/{name} cannot be used as it is: {said}");
        }
        Ok(())
    }
}

fn path(name: &str) -> String {
    format!("modules/{}", encoded(name))
}

/// Sends a component, and has it serve or tried.
pub(super) fn push(flags: &cli::Push) -> Result<()> {
    let file = flags.file.display();
    let component = std::fs::read(&flags.file).with_context(|| format!("cannot read {file}"))?;
    let description = describe::Description::of(&component).with_context(|| file.to_string())?;
    let client = Client::new(&flags.server)?;
    let held = Held::read(&client, &flags.name)?;
    let mut held = held.unwrap_or(Held { fields: Map::new(), index: None });
    let version = match &flags.version {
        Some(version) => version.clone(),
        None => description.digest.trim_start_matches("sha256:").chars().take(NAME_DIGITS).collect(),
    };
    let grants =
        ModuleGrants { fetch: flags.fetch.clone(), kv: flags.kv.clone(), store: flags.store.clone() };
    if grants != ModuleGrants::default() {
        held.fields.insert("grants".to_owned(), serde_json::to_value(grants)?);
    }
    let mut entry = json!({"version": version, "digest": description.digest, "size": description.size});
    if flags.seal.key.is_some() {
        let grants = held.fields.get("grants").cloned().unwrap_or_else(|| json!({}));
        let grants: ModuleGrants = serde_json::from_value(grants).context("grants of the module")?;
        let signature = sign::signature(&component, &flags.name, &version, grants, &flags.seal)?;
        entry["signature"] = serde_json::to_value(signature)?;
    }
    // Before anything is sent.
    let gone = place(&mut held, &version, entry, flags)?;
    let (sent, count) = send(&client, &component, &description.digest)?;
    held.write(&client, &flags.name)?;
    for digest in gone {
        // Another module may name it, or it was never sent in pieces.
        let _ = client.ask("DELETE", &format!("blobs/{digest}"), None);
    }
    let size = describe::size(component.len());
    println!("{} {version}: {size}, {sent} of {count} pieces sent; {}", flags.name, fate(flags));
    Ok(())
}

/// What becomes of a version that is pushed.
fn fate(flags: &cli::Push) -> String {
    match canary(flags, "") {
        Some(canary) => format!("it is tried{}", share(&canary)),
        None => "it serves".to_owned(),
    }
}

/// On what a version is to be tried.
fn canary(flags: &cli::Push, version: &str) -> Option<Value> {
    if flags.canary.is_none() && flags.node.is_empty() && flags.region.is_empty() {
        return None;
    }
    let mut canary = json!({"version": version});
    if let Some(percent) = flags.canary {
        canary["percent"] = json!(percent);
    }
    for (field, names) in [("nodes", &flags.node), ("regions", &flags.region)] {
        if !names.is_empty() {
            canary[field] = json!(names);
        }
    }
    if flags.shadow {
        canary["shadow"] = json!(true);
    }
    Some(canary)
}

/// Puts a version into the object's list, and says what it is for. Gives the
/// digests of old versions that had to go.
fn place(held: &mut Held, version: &str, mut entry: Value, flags: &cli::Push) -> Result<Vec<String>> {
    let serving = held.serving();
    let mut versions = held.versions();
    match versions.iter_mut().find(|known| known["version"] == version) {
        Some(known) if known["digest"] == entry["digest"] => {
            // Who pushes the same again without a key does not unsign it.
            if entry.get("signature").is_none() && known["signature"].is_object() {
                entry["signature"] = known["signature"].take();
            }
            *known = entry;
        }
        Some(known) => {
            let digest = known["digest"].as_str().unwrap_or_default();
            bail!("version {version} is there with other bytes, {digest}: give this one another --version")
        }
        None => versions.push(entry),
    }
    let canary = canary(flags, version);
    let active = match (&canary, serving) {
        (None, _) => version.to_owned(),
        (Some(_), None) => {
            bail!("no version of {} serves beside which it could be tried: push it to serve", flags.name)
        }
        (Some(_), Some(serving)) if serving == version => {
            bail!("version {version} serves already: it cannot be tried as well")
        }
        (Some(_), Some(serving)) => serving,
    };
    // The oldest go; what runs stays.
    let mut gone = Vec::new();
    while versions.len() > MODULE_VERSIONS_MAX {
        let old =
            versions.iter().position(|known| known["version"] != *active && known["version"] != version);
        let Some(old) = old else { break };
        let old = versions.remove(old);
        gone.extend(old["digest"].as_str().map(str::to_owned));
    }
    gone.retain(|digest| versions.iter().all(|known| known["digest"] != **digest));
    held.fields.insert("versions".to_owned(), Value::Array(versions));
    held.set(&active, canary);
    Ok(gone)
}

/// Sends the pieces that are not there; says how many of how many.
fn send(client: &Client, component: &[u8], digest: &str) -> Result<(usize, usize)> {
    let place = format!("blobs/{digest}");
    let pieces = blob::split(component)?;
    let there = client.ask("GET", &place, None)?;
    let there: BTreeSet<u64> =
        there["pieces"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let bar = bar(pieces.iter().map(|piece| piece.len() as u64).sum());
    let mut sent = 0;
    for (number, piece) in pieces.iter().enumerate() {
        if !there.contains(&(number as u64)) {
            client.put(&format!("{place}/{number}"), Sent::Bytes(piece), None)?;
            sent += 1;
        }
        bar.inc(piece.len() as u64);
    }
    if client.ask("POST", &place, None).is_err() {
        // What was there is damaged, or of another upload: all anew, once.
        bar.reset();
        for (number, piece) in pieces.iter().enumerate() {
            client.put(&format!("{place}/{number}"), Sent::Bytes(piece), None)?;
            bar.inc(piece.len() as u64);
        }
        sent = pieces.len();
        client.ask("POST", &place, None)?;
    }
    bar.finish_and_clear();
    Ok((sent, pieces.len()))
}

/// A bar on a terminal, and nothing elsewhere.
fn bar(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// Has the version that is tried serve.
pub(super) fn promote(flags: &cli::Promote) -> Result<()> {
    let client = Client::new(&flags.server)?;
    let name = &flags.name;
    let mut held = Held::known(&client, name)?;
    let version = held.tried().with_context(|| format!("modules/{name}: no version of it is tried"))?;
    let back = &held.fields["canary"]["rolled_back"];
    if back.is_object() && !flags.force {
        let said = |field: &str| back[field].as_str().unwrap_or_default();
        bail!("version {version} was taken back by {}: {} (--force promotes it)", said("node"), said("why"));
    }
    held.set(&version, None);
    held.write(&client, name)?;
    println!("{name}: {version} serves");
    Ok(())
}

/// Takes back the version that is tried; where none is, goes back to the one
/// before the one that serves.
pub(super) fn rollback(flags: &cli::Rollback) -> Result<()> {
    let client = Client::new(&flags.server)?;
    let name = &flags.name;
    let mut held = Held::known(&client, name)?;
    let versions = held.versions();
    let names: Vec<&str> = versions.iter().filter_map(|version| version["version"].as_str()).collect();
    let serving = held.serving().unwrap_or_default();
    let tried = held.tried();
    let back_to = match (&flags.to, &tried) {
        (Some(version), _) if names.contains(&version.as_str()) => version.clone(),
        (Some(version), _) => bail!("modules/{name} has no version {version}; it has {}", names.join(", ")),
        (None, Some(_)) => serving.clone(),
        (None, None) => {
            let before =
                names.iter().position(|version| *version == serving).and_then(|at| at.checked_sub(1));
            let before =
                before.with_context(|| format!("modules/{name}: there is no version before {serving}"))?;
            names[before].to_owned()
        }
    };
    held.set(&back_to, None);
    held.write(&client, name)?;
    match tried.filter(|_| back_to == serving) {
        Some(tried) => println!("{name}: {tried} is taken back, {back_to} serves"),
        None => println!("{name}: {back_to} serves"),
    }
    Ok(())
}

/// Shows the modules of the store.
pub(super) fn list(flags: &cli::List) -> Result<()> {
    let client = Client::new(&flags.server)?;
    let answer = client.ask("GET", "modules", None)?;
    let objects: Vec<&Value> =
        answer["list"].as_array().into_iter().flatten().map(|item| &item["value"]).collect();
    if flags.output == cli::Output::Json {
        println!("{}", serde_json::to_string_pretty(&objects)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["MODULE", "SERVES", "TRIED", "VERSIONS"]);
    for object in objects {
        let Value::Object(fields) = object.clone() else { continue };
        let held = Held { fields, index: None };
        let shown = |version: &Value| {
            let signed = if version["signature"].is_object() { " (signed)" } else { "" };
            format!("{}{signed}", version["version"].as_str().unwrap_or_default())
        };
        let versions: Vec<String> = held.versions().iter().map(shown).collect();
        let name = object["id"].as_str().unwrap_or_default().to_owned();
        table.add_row([
            name,
            held.serving().unwrap_or_default(),
            trial(&object["canary"]),
            versions.join(", "),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// A canary in a few words.
fn trial(canary: &Value) -> String {
    let Some(version) = canary["version"].as_str() else { return "-".to_owned() };
    match canary["rolled_back"]["why"].as_str() {
        Some(why) => format!("{version}, taken back: {why}"),
        None => format!("{version}{}", share(canary)),
    }
}

/// What a version is tried on, in a few words.
fn share(canary: &Value) -> String {
    let mut text = canary["percent"].as_f64().map_or_else(String::new, |percent| format!(" on {percent} %"));
    for (field, word) in [("nodes", "nodes"), ("regions", "regions")] {
        if let Some(names) = canary[field].as_array() {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            text += &format!(" on {word} {}", names.join(", "));
        }
    }
    if canary["shadow"] == true { text + ", in the shadow" } else { text }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        push: cli::Push,
    }

    fn flags(more: &[&str]) -> cli::Push {
        let line = ["push", "waf", "waf.wasm"].into_iter().chain(more.iter().copied());
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).push
    }

    fn held(object: Value) -> Held {
        Held { fields: object.as_object().unwrap().clone(), index: Some("7".to_owned()) }
    }

    fn entry(version: &str, digest: &str) -> Value {
        json!({"version": version, "digest": digest})
    }

    #[test]
    fn a_version_serves_or_is_tried_beside_the_one_that_does() {
        let mut module = held(json!({}));
        place(&mut module, "1", entry("1", "a"), &flags(&[])).unwrap();
        assert_eq!(
            Value::Object(module.fields.clone()),
            json!({"versions": [entry("1", "a")], "active": "1"})
        );
        place(&mut module, "2", entry("2", "b"), &flags(&["--canary", "5", "--region", "hk", "--shadow"]))
            .unwrap();
        assert_eq!((module.serving().as_deref(), module.tried().as_deref()), (Some("1"), Some("2")));
        let canary = json!({"version": "2", "percent": 5.0, "regions": ["hk"], "shadow": true});
        assert_eq!(module.fields["canary"], canary);
        assert_eq!(share(&canary), " on 5 % on regions hk, in the shadow");
        place(&mut module, "2", entry("2", "b"), &flags(&[])).unwrap();
        assert_eq!((module.serving().as_deref(), module.tried()), (Some("2"), None));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_sent() {
        let one = json!({"versions": [entry("1", "a")]});
        for (object, version, digest, more, told) in [
            (json!({}), "1", "a", &["--canary", "1"][..], "no version of waf serves"),
            (one.clone(), "1", "a", &["--node", "n"], "version 1 serves already"),
            (one, "1", "b", &[], "is there with other bytes, a:"),
        ] {
            let error = place(&mut held(object), version, entry(version, digest), &flags(more)).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(Line::try_parse_from(["push", "waf", "waf.wasm", "--shadow"]).is_err(), "of what?");
    }

    #[test]
    fn the_oldest_versions_go_and_a_signature_stays() {
        let mut signed = entry("0", "d0");
        signed["signature"] = json!({"key": "ops"});
        let mut versions = vec![signed];
        versions.extend((1..MODULE_VERSIONS_MAX).map(|at| entry(&at.to_string(), &format!("d{at}"))));
        let mut module = held(json!({"versions": versions, "active": "0"}));
        let gone = place(&mut module, "new", entry("new", "d2"), &flags(&["--canary", "1"])).unwrap();
        assert_eq!(gone, ["d1"], "what serves stays");
        let gone = place(&mut module, "newer", entry("newer", "e"), &flags(&["--canary", "1"])).unwrap();
        assert!(gone.is_empty(), "its bytes are those of another version");
        place(&mut module, "0", entry("0", "d0"), &flags(&[])).unwrap();
        assert_eq!(module.versions()[0]["signature"]["key"], "ops");
    }
}
