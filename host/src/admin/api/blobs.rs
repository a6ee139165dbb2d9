//! Components that are sent in pieces, before a module object names them.
//!
//! A piece is what `config::blob` cuts; each is checked on its own when it
//! arrives, and the whole against its digest when the sender says it is whole.
//! What is there need not be sent again.

use serde_json::json;

use super::fault::{Answer, Fault};
use super::{AdminSite, Response};
use crate::admin::exchange::Request;
use crate::config::blob::{self, PIECE_BYTES_MAX, PIECES_MAX};
use crate::config::source::{Area, ComponentError, RecordName, Transaction};
use crate::config::{COMPONENT_BYTES_MAX, Key, Kind, Object, Store};

/// Pieces that are deleted in one transaction.
const DELETED_MAX: usize = 100;

impl AdminSite {
    /// Answers GET: which pieces are there.
    pub(super) fn component(&self, digest: &str) -> Answer {
        let hex = hex_of(digest)?;
        let mut pieces: Vec<u32> = self.pieces(&hex)?.iter().filter_map(number_of).collect();
        pieces.sort_unstable();
        Ok(Response::json(200, &json!({"digest": format!("sha256:{hex}"), "pieces": pieces})))
    }

    /// Answers PUT: takes one piece.
    pub(super) fn put_piece(&self, digest: &str, number: &str, request: &Request) -> Answer {
        let hex = hex_of(digest)?;
        let place = number.parse::<u32>().ok().filter(|place| (*place as usize) < PIECES_MAX);
        let place = place.ok_or_else(|| {
            let shown: String = number.chars().take(20).collect();
            Fault::bad(format!("wrong piece {shown:?}: pieces are 0 to {}", PIECES_MAX - 1))
        })?;
        let length = request.body.len();
        if length > PIECE_BYTES_MAX {
            let message = format!("a piece has at most {PIECE_BYTES_MAX} bytes, not {length}");
            return Err(Fault::new(413, message));
        }
        blob::check_piece(place, &request.body).map_err(|error| Fault::bad(error.to_string()))?;
        let name = blob::piece_name(&hex, place).ok_or_else(|| wrong_digest(digest))?;
        let records = vec![(name, Some(request.body.clone()))];
        self.desk.wait(self.desk.writer().transact(Transaction { writes: Vec::new(), records }))?;
        Ok(Response::json(201, &json!({"digest": format!("sha256:{hex}"), "piece": place})))
    }

    /// Answers POST: says whether the pieces together are what their name says.
    pub(super) fn check_component(&self, digest: &str) -> Answer {
        let hex = hex_of(digest)?;
        let reading = async {
            match self.desk.writer().component(&hex, COMPONENT_BYTES_MAX).await {
                Ok(bytes) => Ok(Ok(bytes.len())),
                Err(ComponentError::Store(error)) => Err(error),
                Err(error) => Ok(Err(error.to_string())),
            }
        };
        let size = self.desk.wait(reading)?.map_err(Fault::bad)?;
        Ok(Response::json(200, &json!({"digest": format!("sha256:{hex}"), "size": size})))
    }

    /// Answers DELETE: forgets the pieces, unless a module names the component.
    pub(super) fn delete_component(&self, digest: &str) -> Answer {
        let hex = hex_of(digest)?;
        // No module comes to name it meanwhile, as far as this node writes it.
        let _turn = self.writing.lock();
        let wanted = format!("sha256:{hex}");
        let user = self.desk.ask(move |store, _| user_of(store, &wanted))?;
        if let Some((kind, id)) = user {
            let message = format!("can not delete this component, {kind}/{id} names it");
            return Err(Fault::bad(message));
        }
        let pieces = self.pieces(&hex)?;
        if pieces.is_empty() {
            return Err(Fault::not_found());
        }
        for some in pieces.chunks(DELETED_MAX) {
            let records = some.iter().map(|name| (name.clone(), None)).collect();
            self.desk.wait(self.desk.writer().transact(Transaction { writes: Vec::new(), records }))?;
        }
        let key = format!("/apisix/blobs/sha256-{hex}");
        Ok(Response::json(200, &json!({"deleted": pieces.len().to_string(), "key": key})))
    }

    fn pieces(&self, hex: &str) -> Result<Vec<RecordName>, Fault> {
        self.desk.wait(self.desk.writer().records(Area::Blobs, &format!("sha256-{hex}/")))
    }
}

/// The place of a piece, by the last part of its name.
fn number_of(name: &RecordName) -> Option<u32> {
    name.name().rsplit('/').next()?.parse().ok()
}

/// A module that names a component, as it is written or in force.
fn user_of(store: &Store, digest: &str) -> Option<Key> {
    let live = store.live_of(Kind::Modules).filter_map(|object| match object {
        Object::Module(module) => Some(module),
        _ => None,
    });
    let names = |found: &str| found == digest;
    let mut live = live.filter(|module| module.versions.iter().any(|one| names(&one.digest.to_string())));
    if let Some(module) = live.next() {
        return Some((Kind::Modules, module.id.clone()));
    }
    let mut written = store.documents(Kind::Modules).into_iter().filter(|document| {
        let versions = document.value["versions"].as_array();
        versions.into_iter().flatten().any(|one| one["digest"].as_str().is_some_and(names))
    });
    written.next().map(|document| (Kind::Modules, document.id.clone()))
}

/// The digits of `sha256:<hex>` or `sha256-<hex>`.
fn hex_of(digest: &str) -> Result<String, Fault> {
    let hex = digest.strip_prefix("sha256").and_then(|rest| rest.strip_prefix([':', '-']));
    match hex {
        Some(hex) if blob::piece_name(hex, 0).is_some() => Ok(hex.to_owned()),
        _ => Err(wrong_digest(digest)),
    }
}

fn wrong_digest(digest: &str) -> Fault {
    let shown: String = digest.chars().take(80).collect();
    Fault::bad(format!("wrong digest {shown:?}: it must be `sha256-` and 64 digits of 0-9 and a-f"))
}
