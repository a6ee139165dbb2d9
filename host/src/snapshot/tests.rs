//! What a change costs, counted in things built and looked at.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Builder, Built};
use crate::config::source::DirectoryBlobs;
use crate::config::{Document, DocumentChange, Id, Kind, Origin, Store};
use crate::net::tls::Sessions;
use crate::observe::Metrics;
use crate::plugin::{EngineOptions, Modules, Services};
use crate::upstream::{Environment, Options};

const ROUTES: usize = 10_000;

struct Table {
    store: Store,
    builder: Builder,
}

impl Table {
    fn new() -> Self {
        let store = Store::new(Box::new(|_, _| {}));
        let environment = Environment::new(Options::default());
        let blobs = Arc::new(DirectoryBlobs::new(".".into()));
        let modules = Modules::new(EngineOptions::default(), Services::alone(".".into()), blobs, 1);
        let builder = Builder::new(environment, Metrics::new(1, "test"), Sessions::new(), modules);
        Self { store, builder }
    }

    fn apply(&mut self, changes: Vec<DocumentChange>) -> Built {
        let changes = self.store.apply(changes, SystemTime::UNIX_EPOCH);
        self.builder.apply(&self.store, &changes)
    }
}

fn put(kind: Kind, id: &str, value: Value) -> DocumentChange {
    let origin = Origin::file(std::path::Path::new(id));
    DocumentChange::Put(Arc::new(Document {
        kind,
        id: Id::new(id).unwrap(),
        value,
        origin,
        revision: 1,
        created: 0,
    }))
}

fn upstream(id: &str, port: u16) -> DocumentChange {
    put(Kind::Upstreams, id, json!({"nodes": {format!("127.0.0.1:{port}"): 1}}))
}

/// A route with an upstream of its own inside, and a plugin that names two others.
fn route(number: usize, uri: &str) -> DocumentChange {
    let split = json!({"rules": [{"weighted_upstreams": [
        {"upstream_id": format!("u{}", number % 100), "weight": 1}, {"upstream_id": "shared", "weight": 1},
    ]}]});
    let own = json!({"nodes": {"127.0.0.1:9": 1}});
    let object = json!({"uri": uri, "plugins": {"traffic-split": split}, "upstream": own});
    put(Kind::Routes, &format!("r{number}"), object)
}

#[test]
fn one_changed_route_among_ten_thousand_costs_one_route() {
    let mut table = Table::new();
    let mut all: Vec<_> = (0..100).map(|number| upstream(&format!("u{number}"), 1)).collect();
    all.push(upstream("shared", 2));
    all.extend((0..ROUTES).map(|number| route(number, &format!("/r/{number}"))));
    let first = table.apply(all);
    assert_eq!((first.rebuilt, first.upstreams.new.len()), (ROUTES, ROUTES + 101));
    assert!(table.builder.failed().is_empty(), "{:?}", table.builder.failed().first_key_value());

    let looked_at = table.builder.looked_at();
    let second = table.apply(vec![route(7, "/another")]);
    assert_eq!(second.rebuilt, 1);
    assert_eq!((second.upstreams.new.len(), second.upstreams.gone.len()), (0, 0));
    assert_eq!(table.builder.looked_at() - looked_at, 2, "what the route itself names");
    let same = |id: &str| {
        let of = |built: &Built| built.snapshot.router.get(id).cloned().unwrap();
        Arc::ptr_eq(&of(&first), &of(&second))
    };
    assert!(!same("r7") && (0..ROUTES).filter(|n| *n != 7).all(|number| same(&format!("r{number}"))));

    // One upstream that a hundredth of the routes name.
    let third = table.apply(vec![upstream("u7", 3)]);
    assert_eq!(third.rebuilt, ROUTES / 100);
    assert_eq!((third.upstreams.new.len(), third.upstreams.gone.len()), (1, 1));
    let gone = table.apply(vec![DocumentChange::Deleted((Kind::Routes, Id::new("r7").unwrap()))]);
    assert_eq!((gone.rebuilt, gone.upstreams.gone.len()), (1, 1));
}
