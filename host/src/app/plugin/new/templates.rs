//! What `sluice plugin new` writes. The filters are plugins of `plugins/`, which
//! are built and tested there.

use anyhow::{Result, bail};

use super::super::cli::{Kind, Lang};

/// Files of one kind in one language.
pub(super) struct Template {
    lang: Lang,
    kind: Kind,
}

macro_rules! plugin {
    ($path:literal) => {
        include_str!(concat!("../../../../../plugins/", $path))
    };
}

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../../../guest-sdk/templates/", $path))
    };
}

impl Template {
    /// The template; an error when there is none for the kind in the language.
    pub(super) fn of(lang: Lang, kind: Kind) -> Result<Self> {
        if lang != Lang::Rust && matches!(kind, Kind::Transcode | Kind::Timer | Kind::Frame) {
            bail!(
                "there is no template for --kind {} in --lang {}; Rust has one for every kind",
                word(&kind),
                word(&lang)
            );
        }
        Ok(Self { lang, kind })
    }

    /// Features of the crate `sluice-sdk` it needs, as in a `Cargo.toml`.
    pub(super) fn features(&self) -> &'static str {
        if self.kind == Kind::Function { "\"http\"" } else { "" }
    }

    /// Paths and texts, with `{{name}}`, `{{sdk}}` and `{{features}}` to be filled
    /// in.
    pub(super) fn files(&self) -> Vec<(&'static str, String)> {
        match self.lang {
            Lang::Rust => self.rust(),
            Lang::Js => self.js(),
            Lang::Python => self.python(),
        }
    }

    fn rust(&self) -> Vec<(&'static str, String)> {
        let (source, cases) = match self.kind {
            Kind::Filter => (plugin!("hello-rust/src/lib.rs"), plugin!("hello-rust/cases.yaml")),
            Kind::Frame => (template!("frame.rs.in"), template!("frame.yaml.in")),
            Kind::Transcode => (template!("transcode.rs.in"), template!("transcode.yaml.in")),
            Kind::Function => (template!("function.rs.in"), template!("function.yaml.in")),
            Kind::Timer => (template!("timer.rs.in"), template!("timer.yaml.in")),
        };
        with_cases(vec![("Cargo.toml", template!("Cargo.toml.in")), ("src/lib.rs", source)], cases)
    }

    fn js(&self) -> Vec<(&'static str, String)> {
        let (own, manifest, source, cases) = match self.kind {
            Kind::Function => (
                "hello-js-function",
                plugin!("hello-js-function/package.json"),
                plugin!("hello-js-function/plugin.js"),
                plugin!("hello-js-function/cases.yaml"),
            ),
            _ => (
                "hello-js",
                plugin!("hello-js/package.json"),
                plugin!("hello-js/plugin.js"),
                plugin!("hello-js/cases.yaml"),
            ),
        };
        let manifest = named(own, manifest);
        with_cases(vec![("package.json", &manifest), ("plugin.js", source)], cases)
    }

    fn python(&self) -> Vec<(&'static str, String)> {
        let (own, manifest, source, cases) = match self.kind {
            Kind::Function => (
                "hello-python-function",
                plugin!("hello-python-function/pyproject.toml"),
                plugin!("hello-python-function/plugin.py"),
                plugin!("hello-python-function/cases.yaml"),
            ),
            _ => (
                "hello-python",
                plugin!("hello-python/pyproject.toml"),
                plugin!("hello-python/plugin.py"),
                plugin!("hello-python/cases.yaml"),
            ),
        };
        let manifest = named(own, manifest);
        with_cases(vec![("pyproject.toml", &manifest), ("plugin.py", source)], cases)
    }
}

/// The manifest of a plugin of ours under another name.
fn named(own: &str, manifest: &str) -> String {
    manifest.replace(&format!("\"{own}\""), "\"{{name}}\"")
}

/// The files with the cases, and what version control leaves out.
fn with_cases(files: Vec<(&'static str, &str)>, cases: &str) -> Vec<(&'static str, String)> {
    let all = files.into_iter().chain([("cases.yaml", cases), (".gitignore", "/target\n")]);
    all.map(|(path, text)| (path, text.to_owned())).collect()
}

/// How a value is written on the command line.
fn word(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
