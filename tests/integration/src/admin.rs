//! The Admin API as operators' scripts use it: by curl.

use serde_json::Value;
use sluice_harness::{Curl, Etcd, Reply, Sluice, SluiceBuilder};

/// A key of an admin.
pub const ADMIN_KEY: &str = "edd1c9f034335f136f87ad84b625c8f1";
/// A key of a viewer.
pub const VIEWER_KEY: &str = "4054f7cf07e344346cd3f287985e76a2";

/// A gateway whose Admin API has both keys, one in a file and one in a variable.
pub fn with_keys(builder: SluiceBuilder) -> SluiceBuilder {
    let keys = serde_json::json!([
        {"name": "ops", "role": "admin", "env": "TEST_ADMIN_KEY"},
        {"name": "eyes", "role": "viewer", "env": "TEST_VIEWER_KEY"},
    ]);
    builder
        .environment("TEST_ADMIN_KEY", ADMIN_KEY)
        .environment("TEST_VIEWER_KEY", VIEWER_KEY)
        .boot("admin", serde_json::json!({"keys": keys}))
}

/// One call as the admin; `body` is sent as it is.
pub fn call(sluice: &Sluice, method: &str, path: &str, body: &str) -> Reply {
    ask(sluice, method, path, body).header(&format!("X-API-KEY: {ADMIN_KEY}")).run()
}

/// The same, not run yet and without a key.
pub fn ask(sluice: &Sluice, method: &str, path: &str, body: &str) -> Curl {
    let url = sluice.admin_url(path);
    let curl = if body.is_empty() { Curl::get(url) } else { Curl::post(url, body) };
    curl.method(method)
}

/// One call as the admin that must be answered with `status`; gives the JSON.
pub fn expect(sluice: &Sluice, method: &str, path: &str, body: &str, status: u16) -> Value {
    let reply = call(sluice, method, path, body);
    assert_eq!(reply.status, status, "{method} {path} {body}: {} {}", reply.text(), reply.error);
    if reply.body.is_empty() { Value::Null } else { reply.json() }
}

/// Runs a test against a gateway with a directory store, then against one with
/// etcd; the second argument is that etcd.
pub fn on_both_stores(test: impl Fn(&Sluice, Option<&Etcd>)) {
    test(&with_keys(Sluice::builder()).start(), None);
    let etcd = Etcd::start();
    let sluice = with_keys(Sluice::builder().etcd(&etcd, serde_json::json!({"timeout": "2s"}))).start();
    test(&sluice, Some(&etcd));
}
