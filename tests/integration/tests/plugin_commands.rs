//! `sluice plugin`: the commands for authors of plugins, as a shell runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sluice_harness::{Guest, Port, Sluice};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// A folder to write plugins in. Builds share the target folder of `plugins/`, so
/// that std is not built for each, and the tools that set-up keeps.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder for the test") }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(self.folder.path())
            .env("CARGO_TARGET_DIR", root().join("plugins/target"))
            .env("SLUICE_TOOLS", root().join("target/guest-tools"))
            .env("CARGO_TERM_COLOR", "never");
        // The registries are outside, unlike what other tests reach.
        let proxies = std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy"));
        command.envs(proxies);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Sluice::command(&[&["plugin"][..], arguments].concat());
        self.prepare(&mut command);
        command.output().expect("sluice runs")
    }

    /// What the command prints; it must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// What the command says; it must fail.
    fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeds");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Has a built plugin pass the cases it came with.
    fn passes(&self, name: &str) {
        let (component, cases) = (format!("{name}/target/{name}.wasm"), format!("{name}/cases.yaml"));
        let tested = self.ok(&["test", &component, "--cases", &cases]);
        assert!(tested.contains("cases passed") && tested.contains("\u{b5}s"), "{name}: {tested}");
    }

    fn new_rust(&self, name: &str, kind: &str) {
        let sdk = root().join("guest-sdk");
        self.ok(&["new", name, "--kind", kind, "--sdk", &sdk.to_string_lossy()]);
        // The versions the plugins of the workspace have, so that they are built
        // once.
        std::fs::copy(root().join("plugins/Cargo.lock"), self.path(name).join("Cargo.lock"))
            .expect("plugins/Cargo.lock is there");
    }

    fn inspect(&self, name: &str) -> Value {
        let file = format!("{name}/target/{name}.wasm");
        serde_json::from_str(&self.ok(&["inspect", &file, "--output", "json"])).expect("JSON")
    }
}

fn names(interfaces: &Value) -> Vec<String> {
    interfaces.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn every_template_in_rust_builds_and_passes_its_tests() {
    let desk = Desk::new();
    for (kind, interface) in [
        ("filter", "sluice:plugin/request-filter@0.1.0"),
        ("frame", "sluice:plugin/frame-filter@0.1.0"),
        ("transcode", "sluice:plugin/transcoder@0.1.0"),
        ("timer", "sluice:plugin/timer@0.1.0"),
        ("function", "wasi:http/incoming-handler@0.2.12"),
    ] {
        let name = format!("my-{kind}");
        desk.new_rust(&name, kind);
        let built = desk.ok(&["build", &name]);
        assert!(built.contains(&format!("{name}/target/{name}.wasm")), "{built}");
        desk.passes(&name);
        let exports = names(&desk.inspect(&name)["exports"]);
        assert!(exports.contains(&"sluice:plugin/lifecycle@0.1.0".to_owned()), "{kind}: {exports:?}");
        assert!(exports.contains(&interface.to_owned()), "{kind}: {exports:?}");
        assert_eq!(exports.len(), 2, "{kind}: {exports:?}");

        let mut tests = Command::new("cargo");
        desk.prepare(&mut tests);
        tests.current_dir(desk.path(&name)).args(["test", "--quiet"]);
        let output = tests.output().expect("cargo runs");
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_component_imports_what_it_uses_and_tells_its_grants() {
    let desk = Desk::new();
    desk.new_rust("refresh", "timer");
    desk.ok(&["build", "refresh"]);
    let description = desk.inspect("refresh");
    assert_eq!(description["imports"]["sluice:plugin/fetch@0.1.0"], serde_json::json!(["send"]));
    assert_eq!(description["imports"]["sluice:plugin/key-value@0.1.0"], serde_json::json!(["set"]));
    assert_eq!(description["imports"].get("sluice:plugin/health@0.1.0"), None);
    assert_eq!(description["grants"], serde_json::json!({"fetch": "hosts", "kv": "namespaces"}));
    let table = desk.ok(&["inspect", "refresh/target/refresh.wasm"]);
    assert!(table.contains("fetch: [hosts], kv: [namespaces]"), "{table}");
    assert!(table.contains(description["digest"].as_str().expect("a digest")), "{table}");
}

#[test]
fn filters_in_javascript_and_python_build_without_wasi() {
    let desk = Desk::new();
    for lang in ["js", "python"] {
        let name = format!("my-{lang}");
        desk.ok(&["new", &name, "--kind", "filter", "--lang", lang]);
        desk.ok(&["build", &name]);
        let description = desk.inspect(&name);
        let exports = names(&description["exports"]);
        assert!(exports.contains(&"sluice:plugin/request-filter@0.1.0".to_owned()), "{lang}: {exports:?}");
        let imports = names(&description["imports"]);
        assert!(imports.iter().all(|import| import.starts_with("sluice:plugin/")), "{lang}: {imports:?}");
        desk.passes(&name);
    }
}

#[test]
fn functions_in_javascript_and_python_are_components_of_wasi_http() {
    let desk = Desk::new();
    for lang in ["js", "python"] {
        let name = format!("my-{lang}");
        desk.ok(&["new", &name, "--kind", "function", "--lang", lang]);
        desk.ok(&["build", &name]);
        let exports = names(&desk.inspect(&name)["exports"]);
        assert!(exports.contains(&"wasi:http/incoming-handler@0.2.10".to_owned()), "{lang}: {exports:?}");
        desk.passes(&name);
    }
}

#[test]
fn a_case_that_differs_says_what_and_fails() {
    let desk = Desk::new();
    std::fs::write(desk.path("guest.wasm"), Guest::new("one").build()).expect("a component");
    let cases = |cases: &str| {
        std::fs::write(desk.path("cases.yaml"), format!("cases:\n{cases}")).expect("a file of cases");
    };
    cases(
        "  - {name: others are marked, request: {path: /}, expect: {verdict: edit, headers: {x-guest: one}}}
  - {name: evil is denied, request: {path: /evil}, expect: {verdict: deny, status: 403, rule: evil, body: 'no'}}
",
    );
    let told = desk.ok(&["test", "guest.wasm"]);
    assert!(told.contains("2 cases passed") && told.contains("KiB"), "{told}");
    let told = desk.ok(&["test", "guest.wasm", "--output", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["cases"][1]["name"], "evil is denied");
    assert_eq!(told["cases"][1]["passed"], true);
    assert!(told["cases"][1]["nanoseconds"].as_f64() > Some(0.0), "{told}");
    for (case, difference) in [
        ("request: {path: /}, expect: {verdict: deny}", "odd: verdict: edit, expected deny"),
        ("request: {path: /evil}, expect: {status: 404}", "odd: status: 403, expected 404"),
        ("request: {path: /evil}, expect: {rule: good}", "odd: rule: \"evil\", expected \"good\""),
        (
            "request: {path: /}, expect: {headers: {X-Guest: two}}",
            "headers.x-guest: \"one\", expected \"two\"",
        ),
        ("request: {path: /}, expect: {headers: {x-guest: ''}}", "headers.x-guest: \"one\", expected \"\""),
        ("response: {status: 200}, expect: {}", "odd: the plugin does not ask for responses"),
        ("frames: [{}], expect: [{verdict: pass}]", "odd: the plugin does not ask for frames"),
    ] {
        cases(&format!("  - {{name: odd, {case}}}\n  - {{name: even, request: {{}}, expect: {{}}}}\n"));
        let error = desk.error(&["test", "guest.wasm"]);
        assert!(error.contains("1 of 2 cases failed") && error.contains(difference), "{case}: {error}");
    }
    cases("  - {name: odd, request: {}, expect: {verdikt: deny}}\n");
    let error = desk.error(&["test", "guest.wasm"]);
    assert!(error.contains("case \"odd\": expect.verdikt"), "{error}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("empty")).expect("a folder");
    std::fs::write(desk.path("text.wasm"), "hello").expect("a file");
    for (arguments, words) in [
        (&["build", "empty"][..], "holds no Cargo.toml"),
        (&["build", "nowhere"], "cannot open nowhere"),
        (&["new", "empty", "--kind", "filter"], "empty is there already"),
        (&["new", "Bad_Name", "--kind", "filter"], "\"Bad_Name\" is no name"),
        (&["new", "a", "--kind", "timer", "--lang", "js"], "no template for --kind timer"),
        (&["inspect", "text.wasm"], "no WebAssembly at all"),
        (&["inspect", "none.wasm"], "cannot read none.wasm"),
        (&["test", "none.wasm"], "cannot read none.wasm"),
        (&["test", "text.wasm"], "cannot read ./cases.yaml"),
    ] {
        let error = desk.error(arguments);
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
}

#[test]
fn a_fault_in_the_sources_is_shown_and_leaves_the_component_before() {
    let desk = Desk::new();
    desk.new_rust("broken", "filter");
    desk.ok(&["build", "broken"]);
    let component = desk.path("broken/target/broken.wasm");
    let before = std::fs::read(&component).expect("a component");
    std::fs::write(desk.path("broken/src/lib.rs"), "fn nothing( {").expect("written");
    let error = desk.error(&["build", "broken"]);
    assert!(error.contains("src/lib.rs:1"), "{error}");
    assert_eq!(std::fs::read(&component).expect("still there"), before);
}

/// The commands of the page, in the order in which they stand, on ports that are
/// free.
#[test]
fn the_commands_of_the_documentation_work() {
    let page = std::fs::read_to_string(root().join("docs/plugins.md")).expect("docs/plugins.md is there");
    // Whatever happens, the gateway does not outlive the page.
    let mut script = String::from("set -e\ntrap 'test -z \"$!\" || kill $! 2>/dev/null || true' EXIT\n");
    for block in page.split("```sh\n").skip(1) {
        script.push_str(block.split("```").next().unwrap_or_default());
    }
    assert!(script.contains("sluice plugin new hello"), "the page begins with a plugin");
    let ports = [9080, 9180, 9090, 9091].map(|port| (port, Port::free()));
    for (port, free) in &ports {
        let theirs = format!("127.0.0.1:{port}");
        assert!(script.contains(&theirs), "the page names {theirs}");
        script = script.replace(&theirs, &free.loopback().to_string());
    }
    let desk = Desk::new();
    let program = PathBuf::from(Sluice::command(&[]).get_program());
    let folder = program.parent().expect("the program is in a folder");
    let path = std::env::join_paths(
        std::iter::once(folder.to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut shell = Command::new("sh");
    desk.prepare(&mut shell);
    let output = shell.args(["-c", &script]).env("PATH", path.expect("a path")).output().expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for words in ["request-filter", "cases passed", "good day\n", "good day, and welcome\n", "MODULE"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
}
