//! The demo does what its page says.

use std::path::Path;
use std::process::Command;

use sluice_harness::program;

#[test]
fn every_command_of_the_demos_page_shows_what_it_promises() {
    let output = Command::new(program("sluice-demo")).arg("--check").output().expect("the demo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate stands two folders deep")
}

/// Copies a store, with the component of each module beside its object.
fn stage(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("an example can be read") {
        let path = entry.expect("an example can be read").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            std::fs::create_dir(&target).expect("a folder can be made");
            stage(&path, &target);
            continue;
        }
        std::fs::copy(&path, &target).expect("a file can be copied");
        if from.ends_with("modules") {
            let name = target.with_extension("wasm");
            let built = root().join("target/plugins").join(name.file_name().expect("a file has a name"));
            std::fs::copy(&built, &name).unwrap_or_else(|error| {
                panic!("{}: {error}; `cargo xtask plugins` builds it", built.display())
            });
        }
    }
}

#[test]
fn the_examples_have_the_definitions_as_they_are() {
    let definitions = std::fs::read_to_string(root().join("proto/im/v1/im.proto")).expect("they are there");
    for example in std::fs::read_dir(root().join("examples")).expect("there are examples") {
        let file = example.expect("examples can be read").path().join("protos/im.yaml");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let (_, content) = text.split_once("content: |\n").expect("the content comes last");
        let content: Vec<&str> =
            content.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let wanted: Vec<&str> = definitions.lines().collect();
        assert!(content == wanted, "{} differs from proto/im/v1/im.proto", file.display());
    }
}

#[test]
fn the_examples_are_valid_stores() {
    let examples = root().join("examples");
    let mut checked = 0;
    for entry in std::fs::read_dir(examples).expect("there are examples") {
        let store = entry.expect("examples can be read").path();
        if !store.is_dir() {
            continue;
        }
        let staged = tempfile::tempdir().expect("a folder can be made");
        stage(&store, staged.path());
        let output =
            Command::new(program("sluice")).arg("check").arg(staged.path()).output().expect("sluice runs");
        assert!(output.status.success(), "{}: {}", store.display(), String::from_utf8_lossy(&output.stdout));
        checked += 1;
    }
    assert!(checked > 0, "no example was found");
}
