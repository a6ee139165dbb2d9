//! The source and its writer against a real etcd.

use std::time::Duration;

use serde_json::json;
use sluice_harness::Etcd;

use super::*;
use crate::config::source::{
    Area, Expect, RecordName, Source, TRANSACTION_MAX, Transaction, Write, WriteError, Writer,
};
use crate::config::{DocumentChange, Id, Kind};

fn id(name: &str) -> Id {
    Id::new(name).unwrap()
}

fn write(name: &str, uri: Option<&str>, expect: Expect) -> Write {
    Write { kind: Kind::Routes, id: id(name), value: uri.map(|uri| json!({"uri": uri})), expect }
}

fn open(etcd: &Etcd) -> (Source, Writer) {
    let options =
        EtcdOptions { endpoints: etcd.urls(), timeout: Duration::from_secs(2), ..EtcdOptions::default() };
    let source = Source::Etcd(EtcdSource::start(EtcdStart { options, kept: None, node: None }).unwrap());
    let writer = source.writer();
    (source, writer)
}

async fn next(source: &mut Source) -> Vec<String> {
    let batch = tokio::time::timeout(Duration::from_secs(10), source.next()).await.unwrap().unwrap();
    batch
        .changes
        .iter()
        .map(|change| {
            let (kind, id) = change.key();
            match change {
                DocumentChange::Put(document) => format!("{kind}/{id} {}", document.value["uri"]),
                DocumentChange::Broken { .. } => format!("{kind}/{id} broken"),
                DocumentChange::Deleted(_) => format!("{kind}/{id} gone"),
            }
        })
        .collect()
}

#[test]
fn writes_are_compared_whole_and_told() {
    let etcd = Etcd::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut source, writer) = open(&etcd);
        assert!(next(&mut source).await.is_empty(), "the first batch is the whole listing");
        let revision = writer.put(Kind::Routes, id("a"), json!({"uri": "/1"}), Expect::Absent).await.unwrap();
        assert_eq!(next(&mut source).await, ["routes/a \"/1\""]);
        let again = writer.put(Kind::Routes, id("a"), json!({}), Expect::Absent).await;
        assert!(matches!(again, Err(WriteError::Conflict(..))), "{again:?}");
        let next_revision = writer
            .put(Kind::Routes, id("a"), json!({"uri": "/2"}), Expect::Revision(revision))
            .await
            .unwrap();
        assert!(next_revision > revision);
        assert_eq!(next(&mut source).await, ["routes/a \"/2\""]);
        let stale = writer.delete(Kind::Routes, id("a"), Expect::Revision(revision)).await;
        assert!(matches!(stale, Err(WriteError::Conflict(..))), "{stale:?}");
        let gone = writer.delete(Kind::Routes, id("b"), Expect::Any).await;
        assert!(matches!(gone, Err(WriteError::NotFound(..))), "{gone:?}");
        let large = json!({"desc": "x".repeat(2_000_000)});
        let large = writer.put(Kind::Routes, id("c"), large, Expect::Any).await;
        assert!(matches!(large, Err(WriteError::TooLarge(..))), "{large:?}");
    });
}

#[test]
fn a_transaction_is_one_batch_or_nothing_and_carries_records() {
    let etcd = Etcd::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut source, writer) = open(&etcd);
        next(&mut source).await;
        let note = RecordName::new(Area::History, "2026/1").unwrap();
        let writes = vec![write("a", Some("/a"), Expect::Absent), write("b", Some("/b"), Expect::Any)];
        let records = vec![(note.clone(), Some(b"who".to_vec()))];
        let revisions = writer.transact(Transaction { writes, records }).await.unwrap();
        assert_eq!(revisions[0], revisions[1]);
        assert_eq!(next(&mut source).await, ["routes/a \"/a\"", "routes/b \"/b\""]);
        let writes = vec![write("a", None, Expect::Any), write("b", Some("/c"), Expect::Absent)];
        let records = vec![(note.clone(), None)];
        let refused = writer.transact(Transaction { writes, records }).await;
        assert!(matches!(&refused, Err(WriteError::Conflict(_, id)) if id.as_str() == "b"), "{refused:?}");
        assert_eq!(writer.record(note.clone()).await.unwrap().as_deref(), Some(&b"who"[..]));
        assert_eq!(writer.records(Area::History, "2026/").await.unwrap(), [note]);
        assert_eq!(writer.records(Area::Blobs, "").await.unwrap(), []);
        let many =
            (0..TRANSACTION_MAX).map(|n| write(&format!("m{n}"), Some("/m"), Expect::Absent)).collect();
        writer.transact(Transaction { writes: many, records: Vec::new() }).await.unwrap();
        assert_eq!(next(&mut source).await.len(), TRANSACTION_MAX);
        let more = (0..=TRANSACTION_MAX).map(|n| write(&format!("m{n}"), None, Expect::Any)).collect();
        let refused = writer.transact(Transaction { writes: more, records: Vec::new() }).await;
        assert!(matches!(refused, Err(WriteError::TooMany(_))), "{refused:?}");
    });
}

#[test]
fn a_component_is_sent_once_and_comes_back_unless_its_pieces_were_touched() {
    let etcd = Etcd::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut bytes = vec![0; 1_500_000];
    getrandom::fill(&mut bytes).unwrap();
    let (_source, writer) = open(&etcd);
    let mut told = Vec::new();
    let mut push =
        || runtime.block_on(writer.push_component(&bytes, &mut |there, of| told.push((there, of))));
    let first = push().unwrap();
    assert_eq!((first.pieces, first.sent), (3, 3));
    assert_eq!(push().unwrap().sent, 0, "what is there is not sent again");
    assert_eq!(told, [(1, 3), (2, 3), (3, 3), (1, 3), (2, 3), (3, 3)]);
    let fetch = || runtime.block_on(writer.component(&first.digest, 10_000_000));
    assert_eq!(fetch().unwrap(), bytes);
    let key = |number: u32| format!("/sluice/blobs/sha256-{}/{number}", first.digest);
    let pieces: Vec<Vec<u8>> = (0..3)
        .map(|number| {
            etcd.with_client(async |client| {
                Ok(client.get(key(number), None).await?.kvs()[0].value().to_vec())
            })
        })
        .collect();
    etcd.put_raw(&key(1), pieces[2].clone());
    assert!(fetch().unwrap_err().to_string().contains("in the place of piece 1 stands piece 2"));
    let mut tampered = pieces[1].clone();
    tampered[5000] ^= 1;
    etcd.put_raw(&key(1), tampered);
    assert!(fetch().unwrap_err().to_string().contains("piece 1 is damaged"));
    etcd.with_client(async |client| client.delete(key(1), None).await);
    assert!(fetch().unwrap_err().to_string().contains("piece 1 of 3 is missing"));
    assert_eq!(runtime.block_on(writer.push_component(&bytes, &mut |_, _| {})).unwrap().sent, 1);
    assert_eq!(fetch().unwrap(), bytes);
}

#[test]
fn without_a_store_a_write_is_refused_with_the_reason() {
    let mut etcd = Etcd::start();
    etcd.kill(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_source, writer) = open(&etcd);
        let refused = writer.put(Kind::Routes, id("a"), json!({}), Expect::Any).await;
        assert!(
            matches!(&refused, Err(WriteError::Unavailable(reason)) if reason.contains("no connection")),
            "{refused:?}"
        );
    });
}
