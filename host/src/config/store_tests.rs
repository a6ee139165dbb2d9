use serde_json::{Value, json};

use super::*;

fn store() -> Store {
    Store::new(Box::new(|_, _| {}))
}

fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

fn put(kind: Kind, name: &str, value: Value) -> DocumentChange {
    let origin = Origin::file(std::path::Path::new(name));
    DocumentChange::Put(Arc::new(Document { kind, id: id(name), value, origin, revision: 1, created: 0 }))
}

fn upstream(name: &str, port: u16) -> DocumentChange {
    put(Kind::Upstreams, name, json!({"nodes": {format!("127.0.0.1:{port}"): 1}}))
}

fn route(name: &str, upstream: &str) -> DocumentChange {
    put(Kind::Routes, name, json!({"uri": "/a", "upstream_id": upstream}))
}

fn delete(kind: Kind, name: &str) -> DocumentChange {
    DocumentChange::Deleted((kind, id(name)))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
}

fn names(changes: &[Change]) -> Vec<String> {
    let sign = |change: &Change| match (&change.old, &change.new) {
        (None, Some(_)) => '+',
        (Some(_), None) => '-',
        _ => '~',
    };
    changes.iter().map(|change| format!("{}{}/{}", sign(change), change.kind, change.id)).collect()
}

#[test]
fn what_is_named_comes_before_what_names_it() {
    let mut store = store();
    let changes = store.apply(vec![route("r", "u"), upstream("u", 1)], at(1));
    assert_eq!(names(&changes), ["+upstreams/u", "+routes/r"]);
    assert_eq!(store.quarantined().count(), 0);
}

#[test]
fn an_unchanged_object_is_no_change() {
    let mut store = store();
    store.apply(vec![upstream("u", 1)], at(1));
    assert_eq!(store.apply(vec![upstream("u", 1)], at(2)), []);
}

#[test]
fn a_bad_write_keeps_the_last_good_version_and_the_next_good_one_clears_it() {
    let mut store = store();
    store.apply(vec![upstream("u", 1)], at(1));
    let bad = put(Kind::Upstreams, "u", json!({"nodes": {"a:1": -1}}));
    assert_eq!(store.apply(vec![bad.clone()], at(2)), []);
    assert_eq!(store.apply(vec![bad], at(3)), []);
    let (_, quarantine, live) = store.quarantined().next().unwrap();
    assert_eq!(quarantine.since, at(2));
    assert_eq!(quarantine.problems[0].value.as_deref(), Some("-1"));
    assert!(live.is_some());
    assert_eq!(names(&store.apply(vec![upstream("u", 2)], at(4))), ["~upstreams/u"]);
    assert_eq!(store.quarantined().count(), 0);
}

#[test]
fn a_dangling_reference_heals_when_its_target_comes() {
    let mut store = store();
    assert_eq!(store.apply(vec![route("r", "u")], at(1)), []);
    let problem = &store.quarantine_of(Kind::Routes, &id("r")).unwrap().problems[0];
    assert_eq!(problem.to_string(), "upstream_id: upstreams/u does not exist (\"u\")");
    let changes = store.apply(vec![upstream("u", 1)], at(2));
    assert_eq!(names(&changes), ["+upstreams/u", "+routes/r"]);
    assert_eq!(store.quarantined().count(), 0);
}

#[test]
fn what_lacks_modules_alone_is_in_force_from_the_start_and_never_good() {
    let rule = || put(Kind::GlobalRules, "g", json!({"plugins": {"waf": {}}}));
    let module = json!({"versions": [{"version": "1", "digest": format!("sha256:{}", "0".repeat(64))}]});
    let mut store = store();
    assert_eq!(store.apply(Vec::new(), at(1)), [], "an empty listing is no start");
    let both = put(Kind::Routes, "r", json!({"uri": "/", "upstream_id": "u", "plugins": {"waf": {}}}));
    assert_eq!(names(&store.apply(vec![rule(), both], at(2))), ["+global_rules/g"]);
    assert!(store.quarantined().all(|(_, _, live)| live.is_none()));
    assert_eq!((store.quarantined().count(), store.good_document(Kind::GlobalRules, &id("g"))), (2, None));
    let later = put(Kind::GlobalRules, "h", json!({"plugins": {"waf": {}}}));
    assert_eq!(store.apply(vec![later.clone()], at(3)), [], "what comes later is not");
    // That it is good now is a change, though the object is the same.
    let changes = store.apply(vec![put(Kind::Modules, "waf", module)], at(4));
    assert_eq!(names(&changes), ["+modules/waf", "~global_rules/g", "+global_rules/h"]);
    assert!(store.good_document(Kind::GlobalRules, &id("g")).is_some());
    assert_eq!(names(&store.apply(vec![delete(Kind::GlobalRules, "g")], at(5))), ["-global_rules/g"]);
}

#[test]
fn a_deleted_target_is_held_until_nothing_names_it() {
    let mut store = store();
    store.apply(vec![upstream("u", 1), upstream("v", 2), route("r", "u")], at(1));
    assert_eq!(store.apply(vec![delete(Kind::Upstreams, "u")], at(2)), []);
    assert_eq!(store.held().count(), 1);
    assert!(store.quarantine_of(Kind::Routes, &id("r")).is_some());
    let changes = store.apply(vec![route("r", "v")], at(3));
    assert_eq!(names(&changes), ["-upstreams/u", "~routes/r"]);
    assert_eq!((store.held().count(), store.quarantined().count()), (0, 0));
}

#[test]
fn a_chain_of_references_settles_in_one_batch() {
    let mut store = store();
    let service = put(Kind::Services, "s", json!({"upstream_id": "u"}));
    let through = put(Kind::Routes, "r", json!({"uri": "/", "service_id": "s"}));
    assert_eq!(store.apply(vec![through, service], at(1)), []);
    assert_eq!(store.quarantined().count(), 2);
    let changes = store.apply(vec![upstream("u", 1)], at(2));
    assert_eq!(names(&changes), ["+upstreams/u", "+services/s", "+routes/r"]);
    let everything = [(Kind::Routes, "r"), (Kind::Services, "s"), (Kind::Upstreams, "u")];
    let deletes = everything.map(|(kind, name)| delete(kind, name)).to_vec();
    assert_eq!(store.apply(deletes, at(3)).len(), 3);
    assert_eq!(store.entries.len(), 1, "only the built-in frame format is left");
    assert!(store.live_by.is_empty() && store.written_by.is_empty());
}

#[test]
fn the_built_in_frame_format_can_be_named_replaced_and_comes_back() {
    let mut store = store();
    let listener =
        put(Kind::Listeners, "l", json!({"bind": "127.0.0.1:0", "protocol": "tlv", "frame_format": "im20"}));
    assert_eq!(names(&store.apply(vec![listener], at(1))), ["+listeners/l"]);
    let mut own = serde_json::to_value(FrameFormat::built_in()).unwrap();
    own["body_max"] = json!("1MiB");
    assert_eq!(
        names(&store.apply(vec![put(Kind::FrameFormats, "im20", own)], at(2))),
        ["~frame_formats/im20"]
    );
    store.apply(vec![delete(Kind::FrameFormats, "im20")], at(3));
    assert_eq!(**store.frame_format(&id("im20")).unwrap(), FrameFormat::built_in());
}

#[test]
fn what_the_check_refuses_is_quarantined() {
    let mut store = Store::new(Box::new(|object, problems| {
        for name in object.plugins().into_iter().flat_map(|plugins| plugins.keys()) {
            problems.add_plain(&format!("plugins.{name}"), "unknown plugin");
        }
    }));
    store.apply(vec![put(Kind::GlobalRules, "g", json!({"plugins": {"nope": {}}}))], at(1));
    let (key, quarantine, live) = store.quarantined().next().unwrap();
    assert_eq!((key.1.as_str(), live), ("g", None));
    assert_eq!(quarantine.problems[0].to_string(), "plugins.nope: unknown plugin");
}

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn change(&mut self) -> DocumentChange {
        let name = |number: u64| format!("n{number}");
        let (own, target) = (name(self.below(4)), name(self.below(4)));
        let kinds = [Kind::Upstreams, Kind::Services, Kind::PluginConfigs, Kind::Routes];
        let kind = kinds[self.below(4) as usize];
        match self.below(10) {
            0 | 1 => delete(kind, &own),
            2 => put(kind, &own, json!({"unknown": 1})),
            _ => match kind {
                Kind::Upstreams => upstream(&own, 1 + self.below(3) as u16),
                Kind::Services => put(kind, &own, json!({"upstream_id": target})),
                Kind::PluginConfigs => put(kind, &own, json!({"plugins": {}, "desc": target})),
                _ => put(
                    kind,
                    &own,
                    json!({"uri": "/x", "service_id": target, "plugin_config_id": name(self.below(4))}),
                ),
            },
        }
    }
}

/// Everything in force names only what is in force.
fn assert_whole(store: &Store) {
    for (key, entry) in &store.entries {
        for reference in entry.live.iter().flat_map(Object::references) {
            let target = store.live(reference.kind, &reference.id);
            assert!(target.is_some(), "{key:?} names {}/{}", reference.kind, reference.id);
        }
        let bad = matches!(entry.written, Written::Bad(_));
        assert!(!bad || entry.quarantine.is_some());
    }
    for kind in KINDS {
        assert_eq!(store.count(kind), store.live_of(kind).count());
    }
}

#[test]
fn any_sequence_of_batches_ends_where_its_final_documents_lead() {
    for seed in 1..400_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut store = store();
        let mut told: HashMap<Key, Object> = HashMap::new();
        let mut written: BTreeMap<Key, DocumentChange> = BTreeMap::new();
        for step in 0..30 {
            let batch: Vec<_> = (0..=random.below(4)).map(|_| random.change()).collect();
            for change in &batch {
                written.insert(change.key(), change.clone());
            }
            for change in store.apply(batch, at(step)) {
                let key = (change.kind, change.id);
                assert_eq!(
                    told.get(&key),
                    change.old.as_ref(),
                    "seed {seed}: the old value is what was told"
                );
                match change.new {
                    Some(new) => told.insert(key, new),
                    None => told.remove(&key),
                };
            }
            assert_whole(&store);
        }
        for (key, entry) in store.entries.iter().filter(|(key, _)| !is_built_in(key)) {
            assert_eq!(told.get(key), entry.live.as_ref(), "seed {seed}: the changes tell what is in force");
        }
        assert_agrees_with_fresh(&mut store, written, seed);
    }
}

fn assert_agrees_with_fresh(store: &mut Store, written: BTreeMap<Key, DocumentChange>, seed: u64) {
    let mut fresh = self::store();
    fresh.apply(written.into_values().collect(), at(0));
    for (key, entry) in &fresh.entries {
        if entry.quarantine.is_none() {
            let own = &store.entries[key];
            assert_eq!(own.live, entry.live, "seed {seed}: {key:?}");
            assert_eq!(own.quarantine, None, "seed {seed}: {key:?}");
        }
    }
    // Good documents for every name clear whatever history has left.
    let all = ["n0", "n1", "n2", "n3"];
    let good: Vec<_> = all
        .iter()
        .flat_map(|name| {
            [
                upstream(name, 9),
                put(Kind::Services, name, json!({"upstream_id": name})),
                put(Kind::PluginConfigs, name, json!({"plugins": {}})),
                put(Kind::Routes, name, json!({"uri": "/", "service_id": name, "plugin_config_id": name})),
            ]
        })
        .collect();
    store.apply(good.clone(), at(100));
    fresh.apply(good, at(100));
    assert_eq!((store.quarantined().count(), store.held().count()), (0, 0), "seed {seed}");
    for (key, entry) in &fresh.entries {
        assert_eq!(store.entries[key].live, entry.live, "seed {seed}: {key:?}");
    }
    assert_eq!(store.entries.len(), fresh.entries.len());
}
