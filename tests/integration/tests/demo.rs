//! The demo does what its page says.

use std::process::Command;

use sluice_harness::program;

#[test]
fn every_command_of_the_demos_page_shows_what_it_promises() {
    let output = Command::new(program("sluice-demo")).arg("--check").output().expect("the demo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
}

#[test]
fn the_examples_are_valid_stores() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut checked = 0;
    for entry in std::fs::read_dir(examples).expect("there are examples") {
        let store = entry.expect("examples can be read").path();
        if !store.is_dir() {
            continue;
        }
        let output = Command::new(program("sluice")).arg("check").arg(&store).output().expect("sluice runs");
        assert!(output.status.success(), "{}: {}", store.display(), String::from_utf8_lossy(&output.stdout));
        checked += 1;
    }
    assert!(checked > 0, "no example was found");
}
