//! The OpenAPI document, made of the tables that requests are routed by.

use serde_json::{Map, Value, json};

use super::Response;
use super::address::{Call, FIXED, Fixed, ROOT, list_pattern, one_pattern, singular};
use super::changes::OBJECTS_MAX;
use super::read::PAGE_SIZES;
use super::write::{has_patch, has_post};
use crate::config::blob::PIECES_MAX;
use crate::config::{ID_LENGTH_MAX, KINDS, Kind, Object};

/// Answers `openapi.json`.
pub(super) fn answer() -> Response {
    Response::json(200, &document())
}

fn document() -> Value {
    let mut paths = Map::new();
    for kind in KINDS {
        paths.insert(format!("{ROOT}/{}", list_pattern(kind)), list_operations(kind));
        paths.insert(format!("{ROOT}/{}", one_pattern(kind)), one_operations(kind));
    }
    for fixed in &FIXED {
        paths.insert(format!("{ROOT}/{}", fixed.pattern), fixed_operations(fixed));
    }
    let mut schemas: Map<String, Value> =
        KINDS.into_iter().map(|kind| (schema_name(kind), Object::schema(kind))).collect();
    schemas.extend(common_schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice Admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Reads and writes the objects of the store. A PATCH may name a field in its path, \
                behind the object's: /apisix/admin/routes/1/plugins/limit-req.",
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-KEY"}},
        },
    })
}

/// What can be done with all objects of a kind.
fn list_operations(kind: Kind) -> Value {
    let mut list = operation("list", kind, &[("200", "the objects", Some("List"))]);
    list["parameters"] = json!([
        query("page", "from 1", json!({"type": "integer", "minimum": 1})),
        query(
            "page_size",
            "objects of a page",
            json!({"type": "integer", "minimum": PAGE_SIZES.start(), "maximum": PAGE_SIZES.end()}),
        ),
        query("name", "a regular expression", json!({"type": "string"})),
        query("uri", "a regular expression", json!({"type": "string"})),
        query("label", "a label, or label:value", json!({"type": "string"})),
        query("filter", "fields and their values: service_id%3D1", json!({"type": "string"})),
    ]);
    let mut operations = json!({"parameters": path_parameters(list_pattern(kind)), "get": list});
    // The id of a credential or a secret has two parts, which stand in the path.
    if !matches!(kind, Kind::Credentials | Kind::Secrets) {
        let mut put = operation("put_by_body", kind, &WRITTEN);
        put["summary"] = json!(format!("write {}, by the id in the body", singular(kind)));
        put["requestBody"] = body(reference(&schema_name(kind)));
        operations["put"] = put;
    }
    if has_post(kind) {
        let mut post = operation("post", kind, &[("201", "it is new", Some("Object"))]);
        post["summary"] = json!(format!("write {} under a new id", singular(kind)));
        post["requestBody"] = body(reference(&schema_name(kind)));
        operations["post"] = post;
    }
    operations
}

const WRITTEN: [(&str, &str, Option<&str>); 2] =
    [("200", "it was there", Some("Object")), ("201", "it is new", Some("Object"))];

/// What can be done with one object.
fn one_operations(kind: Kind) -> Value {
    let mut put = operation("put", kind, &WRITTEN);
    put["requestBody"] = body(reference(&schema_name(kind)));
    put["parameters"] = json!([header("If-Match"), header("If-None-Match")]);
    let mut delete = operation("delete", kind, &[("200", "it is gone", Some("Deleted"))]);
    delete["parameters"] = json!([
        header("If-Match"),
        query("force", "also when others name it", json!({"type": "string", "enum": ["true", "false"]})),
    ]);
    let mut operations = json!({
        "parameters": path_parameters(&one_pattern(kind)),
        "get": operation("get", kind, &[("200", "the object", Some("Object"))]),
        "put": put,
        "delete": delete,
    });
    if has_patch(kind) {
        let mut patch = operation("patch", kind, &[("200", "it is changed", Some("Object"))]);
        patch["requestBody"] = body(json!({"type": "object"}));
        patch["parameters"] = json!([header("If-Match")]);
        operations["patch"] = patch;
    }
    operations
}

/// What can be done at a path that is not of objects.
fn fixed_operations(fixed: &Fixed) -> Value {
    let mut operations = json!({"parameters": path_parameters(fixed.pattern)});
    for (method, summary) in fixed.methods {
        let method = method.to_lowercase();
        let mut operation = json!({
            "operationId": format!("{method}_{}", fixed.pattern.replace(|c: char| !c.is_ascii_alphanumeric(), "_")),
            "summary": summary,
            "responses": responses(&[("200", "done", None)]),
        });
        let dry_run = query(
            "dry_run",
            "only say what would come of it",
            json!({"type": "string", "enum": ["true", "false"]}),
        );
        match fixed.call {
            Call::Changes => {
                operation["requestBody"] = body(reference("ChangeSet"));
                operation["parameters"] = json!([
                    dry_run,
                    query(
                        "force",
                        "delete what others name",
                        json!({"type": "string", "enum": ["true", "false"]})
                    ),
                ]);
            }
            Call::Rollback => {
                operation["requestBody"] = body(reference("Rollback"));
                operation["parameters"] = json!([dry_run]);
            }
            Call::Piece => {
                let bytes = json!({"schema": {"type": "string", "format": "binary"}});
                operation["requestBody"] =
                    json!({"required": true, "content": {"application/octet-stream": bytes}});
                operation["responses"] = responses(&[("201", "it is there", None)]);
            }
            Call::Validate => operation["requestBody"] = body(json!({"type": "object"})),
            Call::History => {
                operation["parameters"] = json!([
                    query("kind", "only of this kind", json!({"type": "string"})),
                    query("id", "only of this id", json!({"type": "string"})),
                    query("limit", "the most changes", json!({"type": "integer", "minimum": 1})),
                ]);
            }
            Call::Diff => {
                let mut kind = query("kind", "the kind", json!({"type": "string"}));
                let mut id = query("id", "the id", json!({"type": "string"}));
                (kind["required"], id["required"]) = (json!(true), json!(true));
                operation["parameters"] = json!([
                    kind,
                    id,
                    query("to", "the change after which it was so", json!({"type": "integer"})),
                ]);
            }
            _ => {}
        }
        operations[method] = operation;
    }
    operations
}

fn operation(verb: &str, kind: Kind, answers: &[(&str, &str, Option<&str>)]) -> Value {
    json!({
        "operationId": format!("{verb}_{kind}"),
        "summary": format!("{verb} {}", singular(kind)),
        "tags": [kind.name()],
        "responses": responses(answers),
    })
}

fn responses(answers: &[(&str, &str, Option<&str>)]) -> Value {
    let content = |schema: &str| json!({"application/json": {"schema": reference(schema)}});
    let mut all: Map<String, Value> = answers
        .iter()
        .map(|(status, text, schema)| {
            let mut response = json!({"description": text});
            if let Some(schema) = schema {
                response["content"] = content(schema);
            }
            ((*status).to_owned(), response)
        })
        .collect();
    all.insert("default".to_owned(), json!({"description": "it was refused", "content": content("Error")}));
    Value::Object(all)
}

fn path_parameters(pattern: &str) -> Vec<Value> {
    let open = pattern.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let schema = |name: &str| match name {
        "kind" => json!({"type": "string", "enum": KINDS.map(Kind::name)}),
        "change" => json!({"type": "integer", "minimum": 1}),
        "name" => json!({"type": "string"}),
        "digest" => json!({"type": "string", "pattern": "^sha256[-:][0-9a-f]{64}$"}),
        "piece" => json!({"type": "integer", "minimum": 0, "maximum": PIECES_MAX - 1}),
        _ => json!({"type": "string", "pattern": format!("^[a-zA-Z0-9_.-]{{1,{ID_LENGTH_MAX}}}$")}),
    };
    open.map(|name| json!({"name": name, "in": "path", "required": true, "schema": schema(name)})).collect()
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

fn header(name: &str) -> Value {
    let description = "the modifiedIndex or ETag the object must have, or *";
    json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}})
}

fn body(schema: Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A kind in the singular as one word.
fn schema_name(kind: Kind) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    singular(kind).split(' ').map(capital).collect()
}

/// What is sent and answered whatever the kind.
fn common_schemas() -> Map<String, Value> {
    let kind = || json!({"type": "string", "enum": KINDS.map(Kind::name)});
    let schemas = json!({
        "Object": {
            "type": "object",
            "required": ["key", "value", "createdIndex", "modifiedIndex"],
            "properties": {
                "key": {"type": "string"},
                "value": {"type": "object"},
                "createdIndex": {"type": "integer"},
                "modifiedIndex": {"type": "integer"},
                "quarantine": {"type": "array", "items": reference("Problem")},
                "warnings": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "what the write breaks for clients of what was before",
                },
            },
        },
        "List": {
            "type": "object",
            "required": ["total", "list"],
            "properties": {
                "total": {"type": "integer"},
                "list": {"type": "array", "items": reference("Object")},
            },
        },
        "Deleted": {
            "type": "object",
            "properties": {"deleted": {"type": "string"}, "key": {"type": "string"}},
        },
        "ChangeSet": {
            "type": "object",
            "required": ["objects"],
            "properties": {"objects": {"type": "array", "minItems": 1, "maxItems": OBJECTS_MAX, "items": {
                "type": "object",
                "required": ["kind", "id"],
                "properties": {
                    "kind": kind(),
                    "id": {"type": ["string", "integer"]},
                    "value": {"type": ["object", "null"], "description": "its fields; null deletes it"},
                    "modifiedIndex": {"type": ["integer", "null"], "description": "what it must be; null: not there"},
                },
            }}},
        },
        "Rollback": {
            "type": "object",
            "properties": {
                "change": {"type": "integer", "description": "the change that is taken back, with all it changed"},
                "kind": kind(),
                "id": {"type": "string"},
                "to": {"type": "integer", "description": "the change after which the object was as it is to be"},
            },
        },
        "Problem": {
            "type": "object",
            "properties": {
                "field": {"type": "string"},
                "message": {"type": "string"},
                "value": {"type": ["string", "null"]},
            },
        },
        "Error": {
            "type": "object",
            "required": ["error_msg"],
            "properties": {
                "error_msg": {"type": "string"},
                "problems": {"type": "array", "items": reference("Problem")},
            },
        },
    });
    match schemas {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_and_path_is_in_it_and_every_reference_leads_somewhere() {
        let document = document();
        for kind in KINDS {
            let path = format!("{ROOT}/{}", one_pattern(kind));
            let operations = &document["paths"][&path];
            for method in ["get", "put", "delete"] {
                assert!(operations[method].is_object(), "{kind} {method}");
            }
            assert_eq!(operations.get("patch").is_some(), has_patch(kind), "{kind}");
            let fields = document["components"]["schemas"][schema_name(kind)]["properties"].as_object();
            assert_eq!(fields.map_or(0, Map::len), Object::fields(kind).len(), "{kind}");
        }
        assert_eq!(document["paths"].as_object().unwrap().len(), 2 * KINDS.len() + FIXED.len());
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let name = reference.split('"').next().unwrap();
            let place = name.trim_start_matches('#');
            assert!(document.pointer(place).is_some(), "{name}");
        }
        let ids: Vec<&str> =
            text.split("\"operationId\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
    }
}
