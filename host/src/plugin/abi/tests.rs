use sluice_harness::guest::hollow;

use crate::plugin::{
    CallError, Component, Engine, EngineOptions, Interface, LoadError, Plugin, PoolSize, Services, Settings,
};

/// What trying out a component comes to, whose every call is a trap.
fn tried(bytes: &[u8]) -> LoadError {
    let options = EngineOptions { pool: PoolSize { instances: 8 }, ..EngineOptions::default() };
    let engine = Engine::new(&options).expect("the engine runs here");
    let component = Component::compile(&engine, bytes).expect("the component is sound");
    let settings = Settings::new("hollow", serde_json::json!({}));
    Plugin::open(&component, settings, &Services::alone(".".into()), &|| Ok(bytes.to_vec()))
        .expect_err("every call is a trap")
}

fn names() -> Vec<&'static str> {
    Interface::ALL.into_iter().map(Interface::name).collect()
}

#[test]
fn every_interface_has_the_types_of_the_host() {
    // Only when all functions fit is the first of them called.
    let error = tried(&hollow(&names(), None));
    assert!(matches!(error, LoadError::Tried(CallError::Trap(_))), "{error}");
}

#[test]
fn an_interface_with_another_type_is_refused_by_name() {
    for (from, to, export) in [
        ("type exchange-id = u64;", "type exchange-id = u32;", "request-filter"),
        ("spans: list<u32>,", "spans: list<u16>,", "request-filter"),
        ("set-status(u16),", "set-status(u32),", "request-filter"),
        ("replace(list<u8>),", "replace(string),", "request-filter"),
        ("user: u64,\n    }", "user: u64,\n        other: u64,\n    }", "frame-filter.on-frames"),
        ("reply(list<u8>),", "reply,", "frame-filter.on-frames"),
        ("timer-interval: u32,", "timer-interval: u64,", "lifecycle.configure"),
        ("frames,\n    }", "frames,\n        more,\n    }", "lifecycle.configure"),
        ("tick: func() -> result<_, string>", "tick: func() -> result<_, u32>", "timer.tick"),
        ("result<list<string>, string>", "result<list<string>, u32>", "comparison.breaking"),
        ("path: string,\n        message", "path: u32,\n        message", "transcoder.encode-request"),
        ("id: option<string>,\n    }", "id: string,\n    }", "transcoder.encode-message"),
    ] {
        let error = tried(&hollow(&names(), Some((from, to))));
        match &error {
            LoadError::WrongType { export: refused, .. } => assert_eq!(refused, export, "{from}"),
            other => panic!("{from}: {other}"),
        }
    }
}
