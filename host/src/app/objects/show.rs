//! How the commands show objects: tables for people, JSON and YAML for programs.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::cli::Output;

/// The longest value shown in a diff, in characters.
const VALUE_SHOWN_MAX: usize = 160;

/// Objects as rows: the id and what says most about them.
pub(super) fn table(values: &[Value]) -> String {
    let mut table = plain();
    table.set_header(["ID", "NAME", "WHAT", "UPDATED"]);
    for value in values {
        let text = |name: &str| value.get(name).map(short).unwrap_or_default();
        let what =
            ["uri", "uris", "nodes", "lines", "snis", "sni", "bind", "upstream_id", "service_id", "group_id"];
        let what = what.iter().find_map(|name| Some((*name, value.get(*name)?)));
        let what = what.map(|(name, value)| format!("{name} {}", short(value)));
        let plugins = value.get("plugins").and_then(Value::as_object);
        let plugins = plugins.filter(|plugins| !plugins.is_empty());
        let plugins = plugins
            .map(|plugins| format!("plugins {}", plugins.keys().cloned().collect::<Vec<_>>().join(" ")));
        let what: Vec<String> = what.into_iter().chain(plugins).collect();
        let updated = value.get("update_time").and_then(Value::as_i64).map(time).unwrap_or_default();
        table.add_row([text("id"), text("name"), what.join(", "), updated]);
    }
    table.trim_fmt() + "\n"
}

/// Changes as rows.
pub(super) fn history(changes: &[Value]) -> String {
    let mut table = plain();
    table.set_header(["CHANGE", "WHEN", "BY", "BY WHAT", "OBJECTS"]);
    for change in changes {
        let objects = change["objects"].as_array().into_iter().flatten().map(|object| {
            format!("{} {}/{}", short(&object["action"]), short(&object["kind"]), short(&object["id"]))
        });
        let when = change["time"].as_i64().map(|millis| time(millis / 1000)).unwrap_or_default();
        let objects: Vec<String> = objects.collect();
        table.add_row([
            short(&change["id"]),
            when,
            short(&change["by"]),
            short(&change["action"]),
            objects.join("\n"),
        ]);
    }
    table.trim_fmt() + "\n"
}

/// What is different, object by object.
pub(super) fn differences(objects: &[Value]) -> String {
    let mut text = String::new();
    for object in objects {
        let action = object["action"].as_str().unwrap_or("differs");
        if action == "unchanged" {
            continue;
        }
        let _ = writeln!(text, "{}/{} {action}", short(&object["kind"]), short(&object["id"]));
        for difference in object["differences"].as_array().into_iter().flatten() {
            let field = difference["field"].as_str().unwrap_or_default();
            let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
            if let Some(before) = difference.get("before") {
                let _ = writeln!(text, "  - {field}{}", short(before));
            }
            if let Some(after) = difference.get("after") {
                let _ = writeln!(text, "  + {field}{}", short(after));
            }
        }
        if object["secrets_changed"] == true {
            text.push_str("  ~ a secret\n");
        }
    }
    if text.is_empty() {
        text.push_str("nothing is different\n");
    }
    text
}

/// A value for programs or files.
pub(super) fn data(form: Output, value: &Value) -> String {
    match form {
        Output::Yaml => crate::config::to_yaml(value),
        Output::Table | Output::Json => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// A value in one line, without what a terminal would obey.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(VALUE_SHOWN_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_object_and_obeys_nothing() {
        let route =
            json!({"id": "1", "name": "a\u{1b}[2J", "uri": "/a", "plugins": {"cors": {}}, "update_time": 0});
        let text = table(&[route]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("uri /a, plugins cors") && text.contains("1970-01-01T00:00:00Z"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn differences_show_before_and_after() {
        let objects = [
            json!({"kind": "routes", "id": "1", "action": "updated", "secrets_changed": true,
                "differences": [{"field": "uri", "before": "/a", "after": "/b"}]}),
            json!({"kind": "routes", "id": "2", "action": "unchanged", "differences": []}),
        ];
        assert_eq!(differences(&objects), "routes/1 updated\n  - uri: /a\n  + uri: /b\n  ~ a secret\n");
        assert_eq!(differences(&objects[1..]), "nothing is different\n");
    }
}
