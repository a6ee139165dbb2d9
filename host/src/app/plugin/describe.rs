//! What a component says about itself: read from its types, without compiling it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldItem, WorldKey};

use crate::config::Digest;

/// What a component imports, exports and needs.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    /// Bytes of the component.
    pub(super) size: usize,
    /// As module objects write it.
    pub(super) digest: String,
    /// Interfaces it imports, with the functions it uses of each.
    pub(super) imports: BTreeMap<String, Vec<String>>,
    /// Interfaces it exports, with their functions.
    pub(super) exports: BTreeMap<String, Vec<String>>,
    /// Fields of the module object's `grants` it cannot do without, with what
    /// each is a list of.
    pub(super) grants: BTreeMap<&'static str, &'static str>,
}

/// Imports that are nothing without a grant, by the beginning of their names.
const GRANTS: &[(&str, &str, &str)] = &[
    ("sluice:plugin/key-value", "kv", "namespaces"),
    ("wasi:keyvalue/", "kv", "namespaces"),
    ("sluice:plugin/fetch", "fetch", "hosts"),
    ("wasi:http/outgoing-handler", "fetch", "hosts"),
    ("wasi:http/client", "fetch", "hosts"),
];

impl Description {
    /// Reads a component.
    pub(super) fn of(bytes: &[u8]) -> Result<Self> {
        if !is_component(bytes) {
            bail!("not a component: {}", what_it_is(bytes));
        }
        let decoded = wit_component::decode(bytes).context("not a component that can be read")?;
        let DecodedWasm::Component(resolve, world) = decoded else {
            bail!("not a component: a package of interfaces");
        };
        let world = &resolve.worlds[world];
        let imports = interfaces(&resolve, &world.imports);
        let exports = interfaces(&resolve, &world.exports);
        let grants = GRANTS
            .iter()
            .filter(|(import, ..)| imports.keys().any(|name| name.starts_with(import)))
            .map(|(_, grant, of)| (*grant, *of))
            .collect();
        let digest = Digest::of(bytes).to_string();
        Ok(Self { size: bytes.len(), digest, imports, exports, grants })
    }

    /// Names of what it exports, those of plugins without package and version.
    pub(super) fn interfaces(&self) -> Vec<&str> {
        self.exports.keys().map(|name| short(name)).collect()
    }
}

/// `request-filter` of `sluice:plugin/request-filter@0.1.0`; other names as they
/// are.
fn short(name: &str) -> &str {
    let own = name.strip_prefix("sluice:plugin/").and_then(|name| name.split('@').next());
    own.unwrap_or(name)
}

/// Names of a world's interfaces with their functions. Interfaces of types alone
/// are left out: nothing is called in them.
fn interfaces(
    resolve: &Resolve,
    items: &wit_parser::IndexMap<WorldKey, WorldItem>,
) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for (key, item) in items {
        match item {
            WorldItem::Interface { id, .. } => {
                let functions: Vec<String> = resolve.interfaces[*id].functions.keys().cloned().collect();
                if !functions.is_empty() {
                    found.insert(resolve.name_world_key(key), functions);
                }
            }
            WorldItem::Function(function) => {
                found.insert(function.name.clone(), Vec::new());
            }
            WorldItem::Type { .. } => {}
        }
    }
    found
}

/// The beginning of a component: magic, version 13, layer 1.
fn is_component(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm") && bytes.get(6..8) == Some(&[1, 0])
}

fn what_it_is(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"\0asm") {
        "a core module; `sluice plugin build` makes a component of a crate"
    } else if bytes.is_empty() {
        "an empty file"
    } else {
        "no WebAssembly at all"
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_called_what_it_is() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"#!/bin/sh", "no WebAssembly"),
            (b"\0asm\x01\0\0\0", "core module"),
            (b"\0asm\x0d\0\x01\0\xff\xff", "cannot be read|not a component"),
        ] {
            let error = format!("{:#}", Description::of(bytes).unwrap_err());
            assert!(word.split('|').any(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([size(1023), size(1024), size(1_677_722)], ["1023 bytes", "1 KiB", "1.6 MiB"]);
    }
}
