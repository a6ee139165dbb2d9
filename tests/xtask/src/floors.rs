//! Least versions of dependencies with known holes below them.
//!
//! An advisory database is not reachable from everywhere this check runs, so
//! the floors that matter to a gateway stand here, with their reason.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// A dependency, its least version, its line if it must stay on one, and why.
struct Floor {
    name: &'static str,
    least: [u64; 3],
    line: Option<u64>,
    why: &'static str,
}

const FLOORS: &[Floor] = &[
    Floor { name: "h2", least: [0, 4, 16], line: None, why: "floods that 0.4.15 and before do not bound" },
    Floor { name: "rustls", least: [0, 23, 18], line: None, why: "a reachable panic before" },
    Floor {
        name: "wasmtime",
        least: [48, 0, 6],
        line: Some(48),
        why: "the long-term line; sandbox escapes before",
    },
];

/// Fails when `Cargo.lock` holds a version below its floor.
pub(crate) fn check(root: &Path) -> Result<()> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let faults = faults(&lock)?;
    if faults.is_empty() { Ok(()) } else { bail!("dependencies below their floor:\n{}", faults.join("\n")) }
}

fn faults(lock: &str) -> Result<Vec<String>> {
    let lock: toml::Table = lock.parse().context("Cargo.lock is not TOML")?;
    let packages =
        lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock names no package")?;
    let mut faults = Vec::new();
    for package in packages {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        for floor in FLOORS.iter().filter(|floor| floor.name == name) {
            let numbers = numbers(version);
            let is_off_line = floor.line.is_some_and(|line| numbers[0] != line);
            if numbers < floor.least || is_off_line {
                faults.push(format!("  {name} {version}, least {:?}: {}", floor.least, floor.why));
            }
        }
    }
    Ok(faults)
}

fn numbers(version: &str) -> [u64; 3] {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, version: &str) -> String {
        format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n")
    }

    #[test]
    fn a_version_below_its_floor_or_off_its_line_is_found() {
        for (name, version, is_fault) in [
            ("h2", "0.4.15", true),
            ("h2", "0.4.16", false),
            ("h2", "0.5.0", false),
            ("wasmtime", "47.9.9", true),
            ("wasmtime", "48.0.6", false),
            ("wasmtime", "49.0.0", true),
            ("serde", "0.0.1", false),
        ] {
            assert_eq!(!faults(&lock(name, version)).unwrap().is_empty(), is_fault, "{name} {version}");
        }
    }
}
