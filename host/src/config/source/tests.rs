use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A source on a folder of its own, and everything it has said.
struct Fixture {
    folder: TempDir,
    source: Source,
    seen: std::collections::BTreeMap<String, String>,
    problems: Vec<String>,
    batches: usize,
}

impl Fixture {
    fn new() -> Self {
        Self::prepared(|root| fs::create_dir_all(root).unwrap())
    }

    fn prepared(prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("conf");
        prepare(&root);
        let source = Source::Directory(DirectorySource::start(&root).unwrap());
        Self { folder, source, seen: Default::default(), problems: Vec::new(), batches: 0 }
    }

    fn path(&self, inside: &str) -> std::path::PathBuf {
        self.folder.path().join("conf").join(inside)
    }

    /// Writes beside the place and renames, as careful writers do.
    fn place(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = self.folder.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, path).unwrap();
    }

    async fn next(&mut self) {
        let batch = tokio::time::timeout(DEADLINE, self.source.next()).await.unwrap().unwrap();
        self.batches += 1;
        self.problems = batch.problems.iter().map(ToString::to_string).collect();
        for change in batch.changes {
            let (kind, id) = change.key();
            let name = format!("{kind}/{id}");
            match change {
                DocumentChange::Put(document) => {
                    self.seen.insert(name, document.value["uri"].as_str().unwrap_or("?").to_owned())
                }
                DocumentChange::Broken { problems, .. } => {
                    self.seen.insert(name, format!("broken: {}", problems[0]))
                }
                DocumentChange::Deleted(_) => self.seen.remove(&name),
            };
        }
    }

    /// Takes batches until what is there is as expected.
    async fn until(&mut self, expected: &[(&str, &str)]) {
        let expected: std::collections::BTreeMap<String, String> =
            expected.iter().map(|(name, uri)| ((*name).to_owned(), (*uri).to_owned())).collect();
        let all = async {
            while self.seen != expected {
                self.next().await;
            }
        };
        if tokio::time::timeout(DEADLINE, all).await.is_err() {
            panic!("expected {expected:?}, have {:?}, problems {:?}", self.seen, self.problems);
        }
    }
}

#[tokio::test]
async fn objects_come_go_and_change_by_rename_edit_and_deletion() {
    let mut dir = Fixture::prepared(|root| {
        fs::create_dir_all(root.join("routes")).unwrap();
        fs::write(root.join("routes/a.yaml"), "uri: /1\n").unwrap();
        fs::write(root.join("routes/.hidden.yaml"), "uri: /no\n").unwrap();
        fs::write(root.join("routes/notes.md"), "no\n").unwrap();
    });
    dir.next().await;
    assert_eq!(
        (dir.batches, dir.seen["routes/a"].as_str()),
        (1, "/1"),
        "the first batch is the whole listing"
    );
    dir.place("routes/a.yaml", "uri: /2\n");
    dir.until(&[("routes/a", "/2")]).await;
    fs::write(dir.path("routes/a.yaml"), "uri: /3\n").unwrap();
    dir.until(&[("routes/a", "/3")]).await;
    dir.place("routes/b.json", "{\"uri\": \"/b\"}");
    dir.until(&[("routes/a", "/3"), ("routes/b", "/b")]).await;
    fs::rename(dir.path("routes/b.json"), dir.path("routes/c.json")).unwrap();
    dir.until(&[("routes/a", "/3"), ("routes/c", "/b")]).await;
    fs::remove_file(dir.path("routes/c.json")).unwrap();
    dir.until(&[("routes/a", "/3")]).await;
}

#[tokio::test]
async fn a_new_folder_of_a_kind_and_a_removed_one_are_seen() {
    let mut dir = Fixture::new();
    dir.next().await;
    dir.place("routes/a.yaml", "uri: /1\n");
    dir.place("upstreams/u.yaml", "nodes: {}\n");
    dir.until(&[("routes/a", "/1"), ("upstreams/u", "?")]).await;
    dir.place("routes/a.yaml", "uri: /2\n");
    dir.until(&[("routes/a", "/2"), ("upstreams/u", "?")]).await;
    fs::remove_dir_all(dir.path("upstreams")).unwrap();
    dir.until(&[("routes/a", "/2")]).await;
    let beside = dir.folder.path().join("whole");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("s.yaml"), "desc: x\n").unwrap();
    fs::rename(&beside, dir.path("services")).unwrap();
    dir.until(&[("routes/a", "/2"), ("services/s", "?")]).await;
    dir.place("services/s.yaml", "uri: /changed\n");
    dir.until(&[("routes/a", "/2"), ("services/s", "/changed")]).await;
}

#[tokio::test]
async fn a_directory_that_comes_later_is_waited_for_and_its_loss_changes_nothing() {
    let mut dir = Fixture::prepared(|_| {});
    dir.next().await;
    assert!(dir.problems[0].contains("does not exist"), "{:?}", dir.problems);
    dir.place("routes/a.yaml", "uri: /1\n");
    dir.until(&[("routes/a", "/1")]).await;
    assert_eq!(dir.problems, [] as [&str; 0]);
    fs::rename(dir.path(""), dir.folder.path().join("away")).unwrap();
    while dir.problems.is_empty() {
        dir.next().await;
    }
    assert_eq!(dir.seen.len(), 1, "last good stays");
    dir.place("routes/a.yaml", "uri: /2\n");
    dir.until(&[("routes/a", "/2")]).await;
}

#[tokio::test]
async fn a_swapped_volume_of_links_is_one_change() {
    let mut dir = Fixture::prepared(|root| {
        for (version, uri) in [("..one", "/1"), ("..two", "/2")] {
            fs::create_dir_all(root.join(version)).unwrap();
            fs::write(
                root.join(version).join("apisix.yaml"),
                format!("routes: [{{id: a, uri: {uri}}}]\n#END\n"),
            )
            .unwrap();
        }
        symlink("..one", root.join("..data")).unwrap();
        symlink("..data/apisix.yaml", root.join("apisix.yaml")).unwrap();
    });
    dir.until(&[("routes/a", "/1")]).await;
    symlink("..two", dir.path("..data_tmp")).unwrap();
    fs::rename(dir.path("..data_tmp"), dir.path("..data")).unwrap();
    dir.until(&[("routes/a", "/2")]).await;
}

#[tokio::test]
async fn a_directory_that_is_a_swapped_link_is_followed() {
    let mut dir = Fixture::prepared(|root| {
        for (version, uri) in [("one", "/1"), ("two", "/2")] {
            let routes = root.with_file_name(version).join("routes");
            fs::create_dir_all(&routes).unwrap();
            fs::write(routes.join("a.yaml"), format!("uri: {uri}\n")).unwrap();
        }
        symlink("one", root).unwrap();
    });
    dir.until(&[("routes/a", "/1")]).await;
    let next = dir.folder.path().join("next");
    symlink("two", &next).unwrap();
    fs::rename(&next, dir.folder.path().join("conf")).unwrap();
    dir.until(&[("routes/a", "/2")]).await;
    dir.place("routes/a.yaml", "uri: /3\n");
    dir.until(&[("routes/a", "/3")]).await;
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    use std::io::Write;
    let mut dir = Fixture::new();
    dir.place("routes/a.yaml", "uri: /1\n");
    dir.until(&[("routes/a", "/1")]).await;
    let before = dir.batches;
    let mut file = fs::File::create(dir.path("routes/a.yaml")).unwrap();
    // Half of a document that is well-formed at every step.
    for piece in ["uri: /2", "3", "4\n", "desc: x\n"] {
        file.write_all(piece.as_bytes()).unwrap();
    }
    drop(file);
    dir.until(&[("routes/a", "/234")]).await;
    assert_eq!(dir.batches, before + 1, "no half of it was told");
}

#[tokio::test]
async fn a_bad_file_is_told_with_its_place_and_heals() {
    let mut dir = Fixture::new();
    dir.place("routes/a.yaml", "uri: [\n");
    dir.place("apisix.yaml", "routes: [{id: b, uri: /b}]\n");
    while !dir.seen.contains_key("routes/a") || !dir.seen.contains_key("routes/b") {
        dir.next().await;
    }
    assert!(dir.seen["routes/a"].starts_with("broken: is not YAML"), "{:?}", dir.seen);
    dir.place("apisix.yaml", "routes: [{id: b, uri: /b\n");
    while dir.problems.is_empty() {
        dir.next().await;
    }
    assert!(dir.problems[0].contains("apisix.yaml:1:"), "{:?}", dir.problems);
    assert_eq!(dir.seen["routes/b"], "/b", "the objects of the file stay");
    dir.place("routes/a.yaml", "uri: /a\n");
    dir.place("apisix.yaml", "routes: [{id: b, uri: /bb}]\n");
    dir.until(&[("routes/a", "/a"), ("routes/b", "/bb")]).await;
    assert_eq!(dir.problems, [] as [&str; 0]);
}

#[tokio::test]
async fn an_object_in_two_files_names_both_and_heals() {
    let mut dir = Fixture::new();
    dir.place("routes/a.yaml", "uri: /1\n");
    dir.until(&[("routes/a", "/1")]).await;
    dir.place("more.yaml", "routes: [{id: a, uri: /2}]\n");
    while !dir.seen["routes/a"].starts_with("broken") {
        dir.next().await;
    }
    let told = &dir.seen["routes/a"];
    assert!(
        told.contains("stands in both") && told.contains("more.yaml") && told.contains("routes/a.yaml"),
        "{told}"
    );
    fs::remove_file(dir.path("routes/a.yaml")).unwrap();
    dir.until(&[("routes/a", "/2")]).await;
}

#[tokio::test]
async fn writes_are_whole_compared_and_told() {
    let mut dir = Fixture::prepared(|_| {});
    dir.next().await;
    let writer = dir.source.writer();
    let id = |name: &str| Id::new(name).unwrap();
    let value = json!({"uri": "/1", "desc": "0x10", "labels": {"on": "yes", "n": "1e3"}, "priority": 1});
    let revision = writer.put(Kind::Routes, id("a"), value.clone(), Expect::Absent).await.unwrap();
    dir.until(&[("routes/a", "/1")]).await;
    let text = fs::read(dir.path("routes/a.yaml")).unwrap();
    assert_eq!(crate::config::parse_value(&text, crate::config::Format::Yaml).unwrap(), value);
    let again = writer.put(Kind::Routes, id("a"), json!({"uri": "/2"}), Expect::Absent).await;
    assert!(matches!(again, Err(WriteError::Conflict(..))), "{again:?}");
    let next =
        writer.put(Kind::Routes, id("a"), json!({"uri": "/2"}), Expect::Revision(revision)).await.unwrap();
    assert_ne!(next, revision);
    dir.until(&[("routes/a", "/2")]).await;
    // A change by hand that has not been told yet counts as well.
    fs::write(dir.path("routes/a.yaml"), "uri: /hand\n").unwrap();
    let stale = writer.put(Kind::Routes, id("a"), json!({"uri": "/3"}), Expect::Revision(next)).await;
    assert!(matches!(stale, Err(WriteError::Conflict(..))), "{stale:?}");
    writer.delete(Kind::Routes, id("a"), Expect::Any).await.unwrap();
    dir.until(&[]).await;
    let gone = writer.delete(Kind::Routes, id("a"), Expect::Any).await;
    assert!(matches!(gone, Err(WriteError::NotFound(..))), "{gone:?}");
    dir.place("more.yaml", "routes: [{id: s, uri: /s}]\n");
    dir.until(&[("routes/s", "/s")]).await;
    let standalone = writer.put(Kind::Routes, id("s"), Value::Null, Expect::Any).await;
    assert!(matches!(standalone, Err(WriteError::ReadOnly { .. })), "{standalone:?}");
    let hidden = writer.put(Kind::Routes, id(".x"), json!({}), Expect::Any).await;
    assert!(matches!(hidden, Err(WriteError::HiddenId(_))), "{hidden:?}");
    let left: Vec<_> = fs::read_dir(dir.path("routes")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    drop(dir.source);
    let closed = writer.delete(Kind::Routes, id("a"), Expect::Any).await;
    assert!(matches!(closed, Err(WriteError::Closed)), "{closed:?}");
}

fn write(name: &str, value: Option<Value>, expect: Expect) -> Write {
    Write { kind: Kind::Routes, id: Id::new(name).unwrap(), value, expect }
}

#[tokio::test]
async fn a_transaction_is_one_batch_or_nothing() {
    let mut dir = Fixture::prepared(|_| {});
    dir.next().await;
    let writer = dir.source.writer();
    let note = RecordName::new(Area::History, "1").unwrap();
    let writes = vec![
        write("a", Some(json!({"uri": "/a"})), Expect::Absent),
        write("b", Some(json!({"uri": "/b"})), Expect::Any),
    ];
    let records = vec![(note.clone(), Some(b"first".to_vec()))];
    let batches = dir.batches;
    let revisions = writer.transact(Transaction { writes, records }).await.unwrap();
    dir.until(&[("routes/a", "/a"), ("routes/b", "/b")]).await;
    assert_eq!(dir.batches, batches + 1);
    assert_eq!(writer.record(note.clone()).await.unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(writer.records(Area::History, "").await.unwrap(), std::slice::from_ref(&note));
    assert_eq!(writer.records(Area::History, "2").await.unwrap(), []);

    // The second is not as expected: nothing of the first is done.
    let writes = vec![
        write("a", None, Expect::Revision(revisions[0])),
        write("b", Some(json!({"uri": "/c"})), Expect::Absent),
    ];
    let records = vec![(note.clone(), None)];
    let refused = writer.transact(Transaction { writes, records }).await;
    assert!(matches!(&refused, Err(WriteError::Conflict(_, id)) if id.as_str() == "b"), "{refused:?}");
    assert!(writer.record(note).await.unwrap().is_some());
    assert!(dir.path("routes/a.yaml").exists());

    // The second cannot be put in its place: the first is taken back.
    fs::create_dir_all(dir.path("routes/c.yaml/in-the-way")).unwrap();
    let writes = vec![
        write("a", Some(json!({"uri": "/changed"})), Expect::Any),
        write("c", Some(json!({"uri": "/c"})), Expect::Any),
    ];
    let failed = writer.transact(Transaction { writes, records: Vec::new() }).await;
    assert!(matches!(failed, Err(WriteError::Io { .. })), "{failed:?}");
    assert_eq!(fs::read_to_string(dir.path("routes/a.yaml")).unwrap(), "uri: /a\n");
    let twice = vec![write("a", None, Expect::Any), write("a", None, Expect::Any)];
    let twice = writer.transact(Transaction { writes: twice, records: Vec::new() }).await;
    assert!(matches!(twice, Err(WriteError::Twice(..))), "{twice:?}");
    let left: Vec<_> = fs::read_dir(dir.path("routes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn only_what_changed_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes");
    fs::create_dir(&routes).unwrap();
    for number in 0..500 {
        fs::write(routes.join(format!("{number}.yaml")), format!("uri: /{number}\n")).unwrap();
    }
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    for entry in fs::read_dir(&routes).unwrap() {
        fs::File::options().append(true).open(entry.unwrap().path()).unwrap().set_modified(old).unwrap();
    }
    let mut tree = Tree::new(folder.path().to_owned());
    tree.scan_now();
    assert_eq!((tree.take_changes().len(), tree.reads()), (500, 500));
    tree.scan_now();
    assert_eq!((tree.take_changes().len(), tree.reads()), (0, 500));
    fs::write(routes.join("7.yaml"), "uri: /seven\n").unwrap();
    fs::remove_file(routes.join("8.yaml")).unwrap();
    tree.scan_now();
    assert_eq!((tree.take_changes().len(), tree.reads()), (2, 501));
    fs::write(routes.join("7.yaml"), "uri: /seven\n").unwrap();
    tree.look(&routes.join("7.yaml"), files::Care::Always);
    assert_eq!(tree.take_changes(), [], "the same text is no change");
}

#[test]
fn names_that_are_not_ids_and_kinds_to_come_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in
        [("routes/a b.yaml", "uri: /\n"), ("xrpc_protocols/a.yaml", "{}"), ("certs/a.yaml", "{}")]
    {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let mut tree = Tree::new(folder.path().to_owned());
    tree.scan_now();
    assert_eq!(tree.take_changes(), []);
    let told: Vec<String> = tree.problems().iter().map(|problem| problem.problem.message.clone()).collect();
    assert_eq!(told.len(), 2);
    assert!(
        told.iter().any(|told| told.starts_with("objects of kind \"xrpc_protocols\" are not")),
        "{told:?}"
    );
    assert!(told.iter().any(|told| told.starts_with("the name of the file is not an id")), "{told:?}");
}

#[test]
fn only_names_of_ours_mean_something() {
    let root = Path::new("/etc/sluice/conf");
    let cases = [
        ("/etc/sluice", files::Mark::Folders),
        ("/etc/sluice/conf", files::Mark::Folders),
        ("/etc/sluice/other", files::Mark::None),
        ("/etc/sluice/conf/a.yaml", files::Mark::File),
        ("/etc/sluice/conf/routes", files::Mark::Folders),
        ("/etc/sluice/conf/readme", files::Mark::None),
        ("/etc/sluice/conf/..data", files::Mark::Folders),
        ("/etc/sluice/conf/routes/a.json", files::Mark::File),
        ("/etc/sluice/conf/routes/.a.json", files::Mark::None),
        ("/etc/sluice/conf/routes/..data", files::Mark::Folders),
        ("/etc/sluice/conf/routes/a.json~", files::Mark::None),
        ("/etc/sluice/conf/routes/deep/a.json", files::Mark::None),
    ];
    for (path, mark) in cases {
        assert_eq!(files::mark_of(root, Path::new(path)), mark, "{path}");
    }
}
