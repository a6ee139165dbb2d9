//! Whether objects that went all at once were deleted by somebody who said so.
//!
//! Whoever deletes through the Admin API leaves a record of the change in the same
//! transaction. A prefix that was deleted, a volume that was lost or another
//! cluster has none that tells of these objects.

use std::collections::BTreeSet;

use etcd_client::{GetOptions, SortOrder, SortTarget};
use serde::Deserialize;

use super::session::{Connection, Lost};
use crate::config::Key;
use crate::config::source::Area;

/// The most changes that are looked through, the last ones.
const CHANGES_MAX: i64 = 200;

/// What is read of the record of a change.
#[derive(Debug, Deserialize)]
struct Change {
    objects: Vec<Changed>,
}

#[derive(Debug, Deserialize)]
struct Changed {
    kind: String,
    id: String,
    action: String,
}

/// Whether changes after the revision `since` tell of the deletion of all of `gone`.
pub(super) async fn is_told(
    connection: &Connection,
    root: &str,
    since: u64,
    gone: &BTreeSet<Key>,
) -> Result<bool, Lost> {
    let options = GetOptions::new()
        .with_prefix()
        .with_min_mod_revision(since as i64 + 1)
        .with_sort(SortTarget::Mod, SortOrder::Descend)
        .with_limit(CHANGES_MAX);
    let mut kv = connection.kv();
    let asked = kv.get(format!("{root}{}/", Area::History.name()), Some(options));
    let answer = connection.answer("reading the history", asked).await?;
    Ok(tells(answer.kvs().iter().map(etcd_client::KeyValue::value), gone))
}

fn tells<'a>(records: impl Iterator<Item = &'a [u8]>, gone: &BTreeSet<Key>) -> bool {
    let changes = records.filter_map(|bytes| serde_json::from_slice::<Change>(bytes).ok());
    let deleted: BTreeSet<(String, String)> = changes
        .flat_map(|change| change.objects)
        .filter(|one| one.action == "deleted")
        .map(|one| (one.kind, one.id))
        .collect();
    gone.iter().all(|(kind, id)| deleted.contains(&(kind.name().to_owned(), id.as_str().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Id, Kind};

    #[test]
    fn all_that_is_gone_must_have_been_deleted_by_a_change() {
        let gone: BTreeSet<Key> =
            ["a", "b"].into_iter().map(|id| (Kind::Routes, Id::new(id).unwrap())).collect();
        let deletes = |id: &str| {
            format!(r#"{{"id": 1, "objects": [{{"kind": "routes", "id": "{id}", "action": "deleted"}}]}}"#)
        };
        let (a, b) = (deletes("a"), deletes("b"));
        let updated = b.replace("deleted", "updated");
        for (records, is_told) in [
            (vec![a.as_str(), b.as_str()], true),
            (vec![a.as_str()], false),
            (vec![a.as_str(), updated.as_str()], false),
            (vec![a.as_str(), "no record", b.as_str()], true),
            (vec![], false),
        ] {
            assert_eq!(tells(records.iter().map(|text| text.as_bytes()), &gone), is_told, "{records:?}");
        }
    }
}
