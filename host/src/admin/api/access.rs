//! Who may do what: origins, keys and roles.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::fault::Fault;
use crate::admin::exchange::Request;
use crate::config::Digest;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reading, without the secrets of objects.
    Viewer,
}

/// A key and who has it. Only a digest of it is kept.
#[derive(Clone)]
pub struct AccessKey {
    name: String,
    role: Role,
    digest: Digest,
}

impl AccessKey {
    /// The key of `name`, with what it allows.
    #[must_use]
    pub fn new(name: &str, role: Role, key: &[u8]) -> Self {
        Self { name: name.to_owned(), role, digest: Digest::of(key) }
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// All keys of a node. Without any, everyone who can reach the address is an
/// admin: only for a loopback address.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<AccessKey>);

/// Fields that proxies add, this gateway among them.
const PROXIED: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-real-ip", "x-sluice-path"];

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name of the key.
    pub(super) name: String,
    pub(super) role: Role,
}

impl Keys {
    /// These keys and no others.
    #[must_use]
    pub fn new(keys: Vec<AccessKey>) -> Self {
        Self(keys)
    }

    /// Whether nobody needs a key.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Says who asks, by the head of a request alone.
    ///
    /// # Errors
    /// A page of another origin, a missing or wrong key, a method the role does
    /// not have, an encoded body.
    pub(super) fn admit(&self, request: &Request) -> Result<Caller, Fault> {
        check_origin(request)?;
        let caller = self.caller(request)?;
        if caller.role == Role::Viewer && !request.is_read() {
            return Err(denied("invalid method for role viewer"));
        }
        // A body is read as it is: one that unfolds into gigabytes never does here.
        if let Some(encoding) = request.header("content-encoding").filter(|value| *value != "identity") {
            return Err(Fault::new(415, format!("content-encoding `{encoding}` is not accepted")));
        }
        Ok(caller)
    }

    fn caller(&self, request: &Request) -> Result<Caller, Fault> {
        if self.is_open() {
            // Meant for programs of this machine, not for whoever a proxy of this
            // machine lets through.
            if PROXIED.iter().any(|name| request.header(name).is_some()) {
                return Err(denied("a request that came through a proxy needs a key"));
            }
            return Ok(Caller { name: "anonymous".to_owned(), role: Role::Admin });
        }
        let by_query = || request.query_value("api_key");
        let given = by_query().or_else(|| request.header("x-api-key").map(str::to_owned));
        let given = given.ok_or_else(|| denied("missing apikey"))?;
        let digest = Digest::of(given.as_bytes());
        // All are compared, so that the time tells nothing about which.
        let found = self.0.iter().fold(None, |found, key| {
            let is_same = verify_slices_are_equal(key.digest.bytes(), digest.bytes()).is_ok();
            if is_same { Some(key) } else { found }
        });
        let key = found.ok_or_else(|| denied("wrong apikey"))?;
        Ok(Caller { name: key.name.clone(), role: key.role })
    }
}

fn denied(why: &str) -> Fault {
    Fault::new(401, "failed to check token").with("description", why)
}

/// Browsers say where a page comes from; programs say nothing.
fn check_origin(request: &Request) -> Result<(), Fault> {
    let refused = || Err(Fault::new(403, "requests from pages of another origin are refused"));
    if let Some(site) = request.header("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
    {
        return refused();
    }
    let Some(origin) = request.header("origin") else { return Ok(()) };
    let own = request.header("host").unwrap_or_default();
    let is_own = ["http://", "https://"].iter().any(|scheme| {
        origin.strip_prefix(scheme).is_some_and(|host| !host.is_empty() && host.eq_ignore_ascii_case(own))
    });
    if is_own { Ok(()) } else { refused() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, query: Option<&str>, headers: &[(&str, &str)]) -> Request {
        Request {
            method: method.into(),
            path: "/apisix/admin/routes".into(),
            query: query.map(str::to_owned),
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            body: Vec::new(),
        }
    }

    fn keys() -> Keys {
        Keys::new(vec![
            AccessKey::new("ops", Role::Admin, b"secret-a"),
            AccessKey::new("eyes", Role::Viewer, b"secret-v"),
        ])
    }

    fn outcome(keys: &Keys, request: &Request) -> Result<String, u16> {
        keys.admit(request).map(|caller| caller.name).map_err(|fault| fault.status())
    }

    #[test]
    fn a_key_says_who_asks_and_what_they_may() {
        let keys = keys();
        let with = |method, key| request(method, None, &[("x-api-key", key)]);
        assert_eq!(outcome(&keys, &with("PUT", "secret-a")), Ok("ops".to_owned()));
        assert_eq!(outcome(&keys, &with("GET", "secret-v")), Ok("eyes".to_owned()));
        assert_eq!(
            outcome(&keys, &request("GET", Some("page=1&api_key=secret-a"), &[])),
            Ok("ops".to_owned())
        );
        for refused in
            [with("PUT", "secret-v"), with("GET", "secret"), with("GET", ""), request("GET", None, &[])]
        {
            assert_eq!(outcome(&keys, &refused), Err(401));
        }
        assert!(!format!("{keys:?}").contains("secret"));
    }

    #[test]
    fn pages_of_other_origins_are_refused_also_with_a_key() {
        let keys = keys();
        let host = ("host", "127.0.0.1:9180");
        let key = ("x-api-key", "secret-a");
        for (headers, expected) in [
            (vec![host, key, ("origin", "http://evil.example")], Err(403)),
            (vec![host, key, ("origin", "null")], Err(403)),
            (vec![host, key, ("sec-fetch-site", "cross-site")], Err(403)),
            (vec![host, key, ("sec-fetch-site", "same-site")], Err(403)),
            (vec![host, key, ("content-encoding", "gzip")], Err(415)),
            (vec![host, key, ("origin", "http://127.0.0.1:9180")], Ok("ops".to_owned())),
            (vec![host, key, ("sec-fetch-site", "none")], Ok("ops".to_owned())),
        ] {
            assert_eq!(outcome(&keys, &request("PUT", None, &headers)), expected, "{headers:?}");
        }
    }

    #[test]
    fn without_keys_everyone_is_an_admin() {
        assert_eq!(outcome(&Keys::default(), &request("PUT", None, &[])), Ok("anonymous".to_owned()));
        for name in PROXIED {
            assert_eq!(outcome(&Keys::default(), &request("GET", None, &[(name, "a")])), Err(401), "{name}");
        }
    }
}
