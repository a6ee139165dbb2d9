//! Edge functions: components of other toolchains that answer requests.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::guest::write_whole;
use sluice_harness::{Curl, HttpEcho, Reply, Sluice, within};

/// Compiling an interpreter takes long where the compiler itself is not optimised.
const COMPILING: Duration = Duration::from_secs(240);

/// A component of `plugins/`, as `cargo xtask plugins` builds it.
fn component(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/plugins/{name}.wasm"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask plugins` builds it", path.display()))
}

/// Hot-loads a function: a gateway waits with its start for modules that are
/// there, and compiling takes longer than tests wait for a start.
fn load(sluice: &Sluice, name: &str, object: Value) {
    write_whole(&sluice.conf().join(format!("modules/{name}.wasm")), &component(name));
    sluice.put("modules", name, object);
    sluice.put("routes", "function", json!({"uri": "/function", "plugins": {name: {}}}));
}

fn get(sluice: &Sluice, path: &str) -> Reply {
    Curl::get(format!("{}{path}", sluice.url("edge"))).run()
}

fn greeting(reply: &Reply) -> Value {
    serde_json::from_str(&reply.text()).unwrap_or_else(|error| panic!("{}: {error}", reply.text()))
}

fn answers(name: &str) {
    let origin = HttpEcho::start("origin");
    let sluice = Sluice::builder()
        .listener("edge", json!({}))
        .put("routes", "free", json!({"uri": "/free", "upstream": {"nodes": {origin.node(): 1}}}))
        .start();
    load(&sluice, name, json!({"limits": {"deadline": "5s"}}));
    within(COMPILING, "the function to answer", || (get(&sluice, "/function").status == 200).then_some(()));
    let reply = get(&sluice, "/function?name=anna");
    assert_eq!(greeting(&reply)["greeting"], "hello, anna");
    // It is told who the client is, as an upstream would be.
    assert_eq!(greeting(&reply)["address"], "127.0.0.1");
    // An answer of its own is no failure of the host's.
    let refused = Curl::get(format!("{}/function", sluice.url("edge"))).method("DELETE").run();
    assert_eq!(refused.status, 405);
    assert_eq!(get(&sluice, "/free").status, 200);
    sluice.logged("the function's call", |line| line["route"] == "function" && line["status"] == 200);
}

#[test]
fn a_function_made_from_javascript_answers() {
    answers("hello-js-function");
}

#[test]
fn a_function_made_from_python_answers() {
    answers("hello-python-function");
}
