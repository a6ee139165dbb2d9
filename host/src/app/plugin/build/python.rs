//! Python, by `componentize-py`, which brings CPython.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::super::tools;
use super::{Guest, Manifest, js, wasi_http};

/// The component and the name of the folder's project.
pub(super) fn build(folder: &Path) -> Result<(String, Vec<u8>)> {
    let manifest = manifest(folder)?;
    let program = tools::componentize_py()?;
    let out = js::tempfile(folder, &manifest.name)?;
    let mut command = Command::new(program);
    command.current_dir(folder).arg("-d");
    match manifest.kind {
        Guest::Function => command.arg(wasi_http()?),
        Guest::Filter | Guest::Frame => command.arg(tools::wit()?),
    };
    command.arg("-w").arg(manifest.kind.world()).arg("componentize").arg(&manifest.main);
    if manifest.kind != Guest::Function {
        // Filters run without WASI; what Python asks of it while it starts is
        // answered at build time.
        command.arg("--stub-wasi");
    }
    command.arg("-o").arg(&out);
    let result = tools::run(&mut command).with_context(|| format!("{} does not build", folder.display()));
    let component = result.and_then(|()| std::fs::read(&out).context("no component came out"));
    let _ = std::fs::remove_file(&out);
    Ok((manifest.name, component?))
}

/// The few lines of a `pyproject.toml` that are read: `name` under `[project]`,
/// `kind` and `main` under `[tool.sluice]`, each a string on a line of its own.
fn manifest(folder: &Path) -> Result<Manifest> {
    let file = folder.join("pyproject.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = value(&text, "project", "name");
    let kind = value(&text, "tool.sluice", "kind");
    Ok(Manifest {
        name: name.with_context(|| format!("{}: project.name is missing", file.display()))?.to_owned(),
        main: value(&text, "tool.sluice", "main").unwrap_or("plugin").to_owned(),
        kind: Guest::parse(kind, "pyproject.toml: tool.sluice.kind")?,
    })
}

fn value<'a>(text: &'a str, table: &str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) == Some(table))?;
    lines.take_while(|line| !line.starts_with('[')).find_map(|line| {
        let (name, rest) = line.split_once('=')?;
        let quoted = rest.trim().strip_prefix('"')?;
        (name.trim() == key).then(|| quoted.split_once('"').map(|(value, _)| value))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_their_table() {
        let text = "[project]\nname = \"a\" # the name\n\n[tool.sluice]\nkind=\"filter\"\n";
        assert_eq!(value(text, "project", "name"), Some("a"));
        assert_eq!(value(text, "tool.sluice", "kind"), Some("filter"));
        assert_eq!((value(text, "project", "kind"), value(text, "tool", "name")), (None, None));
    }
}
