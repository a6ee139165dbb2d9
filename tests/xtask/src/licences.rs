//! Licences and origins of every dependency.
//!
//! Reads what `cargo metadata` knows from the registry; asks nothing of the
//! network that the build itself does not.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use spdx::{Expression, LicenseItem, ParseMode};

use crate::shell::cargo;

/// Licences that go with ours, Apache-2.0, and ask for nothing but a notice.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages that are not to come in, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "rustls is the one TLS library"),
    ("native-tls", "rustls is the one TLS library"),
    ("serde_yaml", "no longer maintained; serde-saphyr reads YAML"),
];

/// Fails when a dependency has another licence, comes from elsewhere than the
/// registry, or is banned.
pub(crate) fn check() -> Result<()> {
    let output = cargo(&["metadata", "--format-version", "1", "--locked"])
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no package")?;
    let faults: BTreeSet<String> = packages.iter().filter_map(fault).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let faults: Vec<String> = faults.into_iter().collect();
    bail!("dependencies that may not be:\n{}", faults.join("\n"))
}

fn fault(package: &Value) -> Option<String> {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
        return Some(format!("  {name} {version} is banned: {why}"));
    }
    let source = package["source"].as_str()?;
    if !source.starts_with("registry+") {
        return Some(format!("  {name} {version} comes from {source}, not from the registry"));
    }
    let licence = text("license");
    if is_allowed(licence) { None } else { Some(format!("  {name} {version} has licence {licence:?}")) }
}

fn is_allowed(licence: &str) -> bool {
    let Ok(expression) = Expression::parse_mode(licence, ParseMode::LAX) else { return false };
    expression.evaluate(|required| match &required.license {
        // An exception only ever permits more.
        LicenseItem::Spdx { id, .. } => ALLOWED.contains(&id.name),
        LicenseItem::Other { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_are_read_as_expressions() {
        for licence in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception",
            "(MIT OR X11) AND ISC",
        ] {
            assert!(is_allowed(licence), "{licence}");
        }
        for licence in ["", "GPL-3.0", "MIT AND GPL-2.0", "LicenseRef-own", "nonsense licence"] {
            assert!(!is_allowed(licence), "{licence:?}");
        }
    }

    #[test]
    fn origins_and_bans_are_seen() {
        let package = |name: &str, source: Value| json!({"name": name, "version": "1.0.0", "source": source, "license": "MIT"});
        assert_eq!(fault(&package("good", json!("registry+somewhere"))), None);
        assert_eq!(fault(&package("own", Value::Null)), None);
        assert!(fault(&package("far", json!("git+elsewhere"))).is_some());
        assert!(fault(&package("openssl-sys", json!("registry+somewhere"))).is_some());
    }
}
