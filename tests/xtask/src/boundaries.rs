//! Holds libraries to their modules.
//!
//! A library that is named in one place can be replaced in one place. The
//! sources are parsed, so that a word in a comment or a string counts for
//! nothing and a path counts wherever it stands: in `use`, in a type, in a call.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use syn::visit::{self, Visit};

/// Libraries of the host and the modules that may name them, as prefixes of the
/// path below `host/src`.
const BORDERS: &[(&str, &[&str])] = &[
    ("clap", &["app/", "main.rs"]),
    ("clap_complete", &["app/"]),
    ("comfy_table", &["admin/", "app/"]),
    ("etcd_client", &["config/source/"]),
    ("futures_util", &["proxy/im/"]),
    ("h2", &["net/http2/"]),
    ("hickory_resolver", &["upstream/"]),
    (
        "http",
        &["net/http1/response.rs", "net/http2/", "net/http_types.rs", "plugin/edge/", "plugin/host/fetch.rs"],
    ),
    ("httparse", &["net/http1/", "upstream/check.rs"]),
    ("hyper", &["admin/", "plugin/edge/outgoing.rs"]),
    ("mimalloc", &["main.rs"]),
    ("notify", &["config/source/"]),
    ("prometheus_client", &["observe/"]),
    ("regex", &["admin/api/", "config/objects/", "route/", "filter/", "net/tls/"]),
    ("rustls", &["net/tls/", "net/stream.rs", "plugin/edge/outgoing.rs", "upstream/"]),
    ("serde_saphyr", &["config/", "app/boot.rs", "app/plugin/test/cases.rs"]),
    ("socket2", &["net/", "server/", "upstream/"]),
    ("tokio_rustls", &["net/", "plugin/edge/outgoing.rs", "upstream/"]),
    ("tokio_tungstenite", &["proxy/im/"]),
    ("ureq", &["admin/", "app/"]),
    ("wasmtime", &["plugin/"]),
    ("wasmtime_wasi", &["plugin/"]),
    ("wasmtime_wizer", &["plugin/"]),
    ("wit_component", &["app/plugin/"]),
    ("wit_parser", &["app/plugin/"]),
    ("x509_parser", &["net/tls/"]),
];

/// The longest file, in lines without its tests, before it is named.
const LINES_MAX: usize = 500;

/// Fails when a library is named outside its modules.
pub(crate) fn check(root: &Path) -> Result<()> {
    let sources = root.join("host/src");
    let mut faults = Vec::new();
    for entry in walkdir::WalkDir::new(&sources).sort_by_file_name() {
        let entry = entry.context("cannot walk host/src")?;
        if entry.path().extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let path = entry.path().strip_prefix(&sources)?.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(entry.path())?;
        faults.extend(faults_of(&path, &text)?);
        let lines = lines_without_tests(&text);
        if lines > LINES_MAX && !path.contains("tests") {
            eprintln!("note: host/src/{path} has {lines} lines without its tests, {LINES_MAX} are aimed at");
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("libraries named outside their modules:\n{}", faults.join("\n"))
    }
}

/// What one file names that it may not.
fn faults_of(path: &str, text: &str) -> Result<Vec<String>> {
    let file = syn::parse_file(text).with_context(|| format!("host/src/{path}"))?;
    let mut names = Names::default();
    names.visit_file(&file);
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    Ok(BORDERS
        .iter()
        .filter(|(_, modules)| !is_test && !modules.iter().any(|module| path.starts_with(module)))
        .filter_map(|(library, modules)| {
            let line = names.first.get(*library)?;
            Some(format!("  host/src/{path}:{line}: {library} belongs to {}", modules.join(", ")))
        })
        .collect())
}

/// First segments of the paths of a file, outside its tests, with a line each.
#[derive(Default)]
struct Names {
    first: BTreeMap<String, usize>,
}

impl Names {
    fn note(&mut self, ident: &proc_macro2::Ident) {
        let line = ident.span().start().line;
        self.first.entry(ident.to_string()).or_insert(line);
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|ident| ident == "test")
        });
        if !is_test {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1
            && let Some(segment) = path.segments.first()
        {
            self.note(&segment.ident);
        }
        visit::visit_path(self, path);
    }
}

impl Names {
    fn note_tree(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => self.note(&path.ident),
            syn::UseTree::Name(name) => self.note(&name.ident),
            syn::UseTree::Rename(rename) => self.note(&rename.ident),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(tree)),
            syn::UseTree::Glob(_) => {}
        }
    }
}

fn lines_without_tests(text: &str) -> usize {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        faults_of(path, text).unwrap().len()
    }

    #[test]
    fn a_library_is_found_however_it_is_named() {
        for text in [
            "use h2::client;",
            "use {h2 as other, std::fmt};",
            "fn f(_: h2::Error) {}",
            "fn f() { let _ = h2::client::Builder::new(); }",
            "impl From<h2::Error> for E {}",
        ] {
            assert_eq!(faults("proxy/http.rs", text), 1, "{text}");
            assert_eq!(faults("net/http2/io.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn words_and_own_modules_of_the_same_name_are_not_libraries() {
        for text in [
            "// h2::client\nfn f() { let h2 = 1; let _ = h2; }",
            "fn f() -> &'static str { \"h2::client\" }",
            "use crate::net::h2::client;",
            "use super::http::serve;",
            "#[cfg(test)]\nmod tests { use h2::client; }",
        ] {
            assert_eq!(faults("proxy/http.rs", text), 0, "{text}");
        }
    }
}
