//! `sluice plugin new`: a plugin to begin with.

mod sdk;
mod templates;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cli::{self, Lang};
use templates::Template;

/// The longest name, so that it fits where modules are named.
const NAME_MAX: usize = 64;

/// Writes the folder and says what to do next.
pub(super) fn run(flags: &cli::New) -> Result<()> {
    let name = &flags.name;
    check_name(name)?;
    let template = Template::of(flags.lang, flags.kind)?;
    let folder = Path::new(name);
    if folder.exists() {
        bail!("{name} is there already");
    }
    let sdk = match (flags.lang, &flags.sdk) {
        (Lang::Rust, Some(given)) => given_sdk(given)?,
        (Lang::Rust, None) => sdk::lay()?,
        _ => PathBuf::new(),
    };
    let mut paths = Vec::new();
    for (path, text) in template.files() {
        let text = fill(&text, name, &sdk, template.features());
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        paths.push(path);
    }
    println!("wrote {name}: {}", paths.join(", "));
    println!("next:");
    println!("  sluice plugin build {name}");
    println!("  sluice plugin test {name}");
    if flags.lang == Lang::Rust {
        println!("  (cd {name} && cargo test)");
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let is_good = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_good {
        bail!("{name:?} is no name of a plugin: [a-z][a-z0-9-]*, at most {NAME_MAX} characters");
    }
    Ok(())
}

fn given_sdk(folder: &Path) -> Result<PathBuf> {
    let path = folder.canonicalize().with_context(|| format!("--sdk: cannot open {}", folder.display()))?;
    if !path.join("Cargo.toml").is_file() {
        bail!("--sdk: {} holds no Cargo.toml", folder.display());
    }
    Ok(path)
}

fn fill(text: &str, name: &str, sdk: &Path, features: &str) -> String {
    text.replace("{{name}}", name)
        .replace("{{sdk}}", &sdk.display().to_string())
        .replace("{{features}}", features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_modules() {
        for name in ["a", "my-filter", "x2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "A", "2x", "-a", "a_b", "../a", "a/b", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
