//! The Admin API: reading and writing the objects of the store, as APISIX 3 does.
//!
//! [`AdminSite`] is one more [`Site`]. A request is admitted by its head alone
//! (`access`: its origin, its key, its role), its path says what it is about
//! (`address`), `read` and `write` answer. What is in the store is asked of the
//! control thread (`desk`), which is the only one that has it; a write is checked
//! there first, made through the source's writer, and answered once this node has
//! taken it up. Kinds are treated alike: a new kind is served without a word here.
//! Paths, fields, statuses and limits are in `docs/admin-api.md`.

mod access;
mod address;
mod defaults;
mod desk;
mod fault;
mod patch;
mod plugins;
mod read;
mod write;

use super::exchange::{Request, Response, Site};

pub use access::{AccessKey, Keys, Role};
pub use desk::{Desk, QUESTIONS_MAX, Question};

use address::Target;
use fault::{Answer, Fault};

/// The Admin API of one node.
pub struct AdminSite {
    keys: Keys,
    desk: Desk,
    /// Held from the check of a write until this node has taken it up, so that
    /// two writes never rely on each other's past.
    writing: parking_lot::Mutex<()>,
}

impl AdminSite {
    /// The Admin API of the store behind `desk`, for who has one of `keys`.
    #[must_use]
    pub fn new(keys: Keys, desk: Desk) -> Self {
        Self { keys, desk, writing: parking_lot::Mutex::new(()) }
    }

    fn answer(&self, request: &Request) -> Answer {
        let caller = self.keys.admit(request)?;
        let target = Target::parse(&request.path)?;
        match target {
            Target::Objects(place) => match request.method.as_str() {
                "GET" | "HEAD" => self.read(&caller, &place, request),
                "PUT" => self.put(&caller, place, request),
                "POST" => self.post(&caller, place, request),
                "PATCH" => self.patch(&caller, place, request),
                "DELETE" => self.delete(&caller, place, request),
                _ => Err(Fault::method(&request.method, "GET, PUT, POST, PATCH, DELETE")),
            },
            Target::Validate(kind) => only("POST", request).and_then(|()| self.validate(kind, request)),
            Target::Schema(kind) => only("GET", request).map(|()| plugins::schema(kind)),
            Target::Plugins(place) => plugins::answer(&place, request),
        }
    }
}

impl Site for AdminSite {
    fn admit(&self, request: &Request) -> Result<(), Response> {
        self.keys.admit(request).map(|_| ()).map_err(Response::from)
    }

    fn respond(&self, request: &Request) -> Response {
        let mut response = self.answer(request).unwrap_or_else(Response::from);
        if request.method == "HEAD" {
            response.body.clear();
        }
        response
    }
}

/// Refuses every other method.
fn only(method: &str, request: &Request) -> Result<(), Fault> {
    if request.method == method || (method == "GET" && request.method == "HEAD") {
        return Ok(());
    }
    Err(Fault::method(&request.method, method))
}
