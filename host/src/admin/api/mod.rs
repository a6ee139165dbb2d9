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
mod blobs;
mod changes;
mod defaults;
mod desk;
mod diff;
mod fault;
mod history;
mod openapi;
mod patch;
mod plugins;
mod read;
mod write;

use super::exchange::{Request, Response, Site};

pub use access::{AccessKey, Keys, Role};
pub use desk::{Desk, QUESTIONS_MAX, Question};
pub use history::own_change;

use access::Caller;
use address::{Call, Target};
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
            Target::Fixed(call, open, methods) => {
                check_method(methods, request)?;
                self.call(&caller, call, &open, request)
            }
        }
    }

    /// Answers a path that is not of objects.
    fn call(&self, caller: &Caller, call: Call, open: &[String], request: &Request) -> Answer {
        let part = open.first().map_or("", String::as_str);
        match call {
            Call::Validate => self.validate(address::kind_of(part)?, request),
            Call::Schema => address::kind_of_schema(part).map(plugins::schema),
            Call::Plugins => Ok(plugins::all()),
            Call::PluginNames => Ok(plugins::names()),
            Call::Plugin => plugins::one(part),
            // Plugins are read when objects name them: there is nothing to load again.
            Call::Reload => Ok(Response::text(200, "text/plain", "done".to_owned())),
            Call::Changes => self.change_set(caller, request),
            Call::Rollback => self.rollback(caller, request),
            Call::History => self.history(request),
            Call::Change => self.one_change(changes::number(part)?),
            Call::Diff => self.diff(request),
            Call::Component => match request.method.as_str() {
                "POST" => self.check_component(part),
                "DELETE" => self.delete_component(part),
                _ => self.component(part),
            },
            Call::Piece => self.put_piece(part, open.get(1).map_or("", String::as_str), request),
            Call::OpenApi => Ok(openapi::answer()),
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

/// Refuses a method that a path does not have.
fn check_method(methods: &[(&str, &str)], request: &Request) -> Result<(), Fault> {
    let own = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
    if methods.iter().any(|(method, _)| *method == own) {
        return Ok(());
    }
    let allowed: Vec<&str> = methods.iter().map(|(method, _)| *method).collect();
    Err(Fault::method(&request.method, &allowed.join(", ")))
}
