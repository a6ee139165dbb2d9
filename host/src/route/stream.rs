//! Which stream route a connection belongs to.
//!
//! A route may ask for the listener, the server name, the client's address, and
//! the address and port the client connected to; what it does not ask for
//! matches anything. Of several that match, the one that asks for more wins: an
//! exact server name before a wildcard (the longer the better) before none, then
//! a listener, then the narrowest client block, then the narrowest server block,
//! then a port; among equals the lower id. Reads no socket and no clock.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::objects::{self, Status};

/// What is known of a connection when its route is looked for.
#[derive(Debug, Clone, Copy)]
pub struct StreamQuery<'a> {
    /// Id of the listener it came in by.
    pub listener: &'a str,
    /// The client.
    pub client: IpAddr,
    /// What the client connected to.
    pub server: SocketAddr,
    /// The server name of its hello, in lower case.
    pub sni: Option<&'a str>,
}

/// What a route asks for.
#[derive(Debug, Clone)]
struct Wanted {
    listener: Option<Box<str>>,
    sni: Sni,
    client: Option<IpNet>,
    server: Option<IpNet>,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sni {
    Any,
    /// What follows the `*` of a wildcard.
    Suffix(Box<str>),
    Exact(Box<str>),
}

#[derive(Debug)]
struct Entry<T> {
    id: Box<str>,
    wanted: Wanted,
    value: T,
}

/// Finds the stream route of a connection. A clone is cheap; a change copies
/// the list of routes, which holds a pointer each.
#[derive(Debug)]
pub struct StreamRouter<T> {
    tables: Arc<Tables<T>>,
}

#[derive(Debug)]
struct Tables<T> {
    by_id: HashMap<Box<str>, Arc<Entry<T>>>,
    /// Routes with an exact server name, each list in the order they are tried.
    exact: HashMap<Box<str>, Vec<Arc<Entry<T>>>>,
    /// The others, in the order they are tried.
    others: Vec<Arc<Entry<T>>>,
}

impl<T> Clone for Tables<T> {
    fn clone(&self) -> Self {
        Self { by_id: self.by_id.clone(), exact: self.exact.clone(), others: self.others.clone() }
    }
}

impl<T> Clone for StreamRouter<T> {
    fn clone(&self) -> Self {
        Self { tables: Arc::clone(&self.tables) }
    }
}

impl<T> Default for StreamRouter<T> {
    fn default() -> Self {
        let tables = Tables { by_id: HashMap::new(), exact: HashMap::new(), others: Vec::new() };
        Self { tables: Arc::new(tables) }
    }
}

impl<T> StreamRouter<T> {
    /// Puts a route in, in the place of the one with its id. One that is
    /// switched off is only taken out.
    pub fn insert(&mut self, route: &objects::StreamRoute, value: T) {
        self.remove(route.id.as_str());
        if route.status != Status::Enabled {
            return;
        }
        let entry = Arc::new(Entry { id: route.id.as_str().into(), wanted: Wanted::of(route), value });
        let tables = Arc::make_mut(&mut self.tables);
        tables.by_id.insert(entry.id.clone(), Arc::clone(&entry));
        let list = match &entry.wanted.sni {
            Sni::Exact(name) => tables.exact.entry(name.clone()).or_default(),
            _ => &mut tables.others,
        };
        let place = list.partition_point(|other| other.order() < entry.order());
        list.insert(place, entry);
    }

    /// Takes a route out; says whether it was there.
    pub fn remove(&mut self, id: &str) -> bool {
        if !self.tables.by_id.contains_key(id) {
            return false;
        }
        let tables = Arc::make_mut(&mut self.tables);
        let Some(entry) = tables.by_id.remove(id) else { return false };
        match &entry.wanted.sni {
            Sni::Exact(name) => {
                if let Some(list) = tables.exact.get_mut(name) {
                    list.retain(|other| *other.id != *id);
                    if list.is_empty() {
                        tables.exact.remove(name);
                    }
                }
            }
            _ => tables.others.retain(|other| *other.id != *id),
        }
        true
    }

    /// The route of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&T> {
        self.tables.by_id.get(id).map(|entry| &entry.value)
    }

    /// The route of a connection.
    #[must_use]
    pub fn find(&self, query: &StreamQuery<'_>) -> Option<&T> {
        let exact = query.sni.and_then(|name| self.tables.exact.get(name));
        let mut tried = exact.into_iter().flatten().chain(&self.tables.others);
        tried.find(|entry| entry.wanted.matches(query)).map(|entry| &entry.value)
    }

    /// Whether both hold the very same routes: one is a clone of the other, and
    /// neither was changed since.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tables, &other.tables)
    }

    /// All routes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.tables.by_id.values().map(|entry| &entry.value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.by_id.is_empty()
    }
}

impl<T> Entry<T> {
    /// Routes are tried by this, the smallest first.
    fn order(&self) -> impl Ord + '_ {
        let wanted = &self.wanted;
        let suffix = if let Sni::Suffix(suffix) = &wanted.sni { suffix.len() } else { 0 };
        let narrow = |net: &Option<IpNet>| net.map_or(0, |net| u16::from(net.prefix_len()) + 1);
        let asks = (
            suffix,
            wanted.listener.is_some(),
            narrow(&wanted.client),
            narrow(&wanted.server),
            wanted.port.is_some(),
        );
        (Reverse(asks), &*self.id)
    }
}

impl Wanted {
    fn of(route: &objects::StreamRoute) -> Self {
        let sni = match route.sni.as_deref().map(str::to_ascii_lowercase) {
            None => Sni::Any,
            Some(name) => match name.strip_prefix('*') {
                Some(suffix) => Sni::Suffix(suffix.into()),
                None => Sni::Exact(name.into()),
            },
        };
        Self {
            listener: route.listener.as_ref().map(|id| id.as_str().into()),
            sni,
            client: route.remote_addr,
            server: route.server_addr,
            port: route.server_port,
        }
    }

    fn matches(&self, query: &StreamQuery<'_>) -> bool {
        let covers = |net: &Option<IpNet>, address: IpAddr| {
            net.is_none_or(|net| net.contains(&address) || net.contains(&address.to_canonical()))
        };
        let sni = match &self.sni {
            Sni::Any => true,
            Sni::Exact(name) => query.sni == Some(name),
            // `*.a.example` and `*a.example` alike want something in the star's place.
            Sni::Suffix(suffix) => {
                query.sni.is_some_and(|name| name.len() > suffix.len() && name.ends_with(&**suffix))
            }
        };
        sni && self.listener.as_deref().is_none_or(|listener| listener == query.listener)
            && self.port.is_none_or(|port| port == query.server.port())
            && covers(&self.client, query.client)
            && covers(&self.server, query.server.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(&str, serde_json::Value)]) -> StreamRouter<String> {
        let mut router = StreamRouter::default();
        for (id, fields) in routes {
            router.insert(&object(id, fields.clone()), (*id).to_owned());
        }
        router
    }

    fn object(id: &str, mut fields: serde_json::Value) -> objects::StreamRoute {
        fields["id"] = id.into();
        fields["upstream_id"] = "u".into();
        serde_json::from_value(fields).unwrap()
    }

    fn find<'a>(
        router: &'a StreamRouter<String>,
        listener: &str,
        client: &str,
        server: &str,
        sni: Option<&str>,
    ) -> Option<&'a str> {
        let query =
            StreamQuery { listener, client: client.parse().unwrap(), server: server.parse().unwrap(), sni };
        router.find(&query).map(String::as_str)
    }

    #[test]
    fn the_route_that_asks_for_more_wins() {
        use serde_json::json;
        let router = router(&[
            ("any", json!({})),
            ("listener", json!({"listener": "im"})),
            ("block", json!({"listener": "im", "remote_addr": "10.0.0.0/8"})),
            ("narrow", json!({"listener": "im", "remote_addr": "10.1.0.0/16"})),
            ("port", json!({"server_port": 9000})),
            ("server", json!({"server_addr": "192.0.2.1"})),
            ("wild", json!({"sni": "*.example.com"})),
            ("wilder", json!({"sni": "*.b.example.com"})),
            ("exact", json!({"sni": "A.example.com"})),
            ("exact-port", json!({"sni": "a.example.com", "server_port": 443})),
        ]);
        let table: &[(&str, &str, &str, Option<&str>, &str)] = &[
            ("x", "203.0.113.9", "192.0.2.9:1", None, "any"),
            ("im", "203.0.113.9", "192.0.2.9:1", None, "listener"),
            ("im", "10.2.0.1", "192.0.2.9:1", None, "block"),
            ("im", "10.1.0.1", "192.0.2.9:1", None, "narrow"),
            ("im", "::ffff:10.1.0.1", "192.0.2.9:1", None, "narrow"),
            ("x", "10.1.0.1", "192.0.2.9:9000", None, "port"),
            ("x", "10.1.0.1", "192.0.2.1:9000", None, "server"),
            ("im", "10.1.0.1", "192.0.2.1:1", Some("x.example.com"), "wild"),
            ("im", "10.1.0.1", "192.0.2.1:1", Some("x.b.example.com"), "wilder"),
            ("im", "10.1.0.1", "192.0.2.1:1", Some("a.example.com"), "exact"),
            ("im", "10.1.0.1", "192.0.2.1:443", Some("a.example.com"), "exact-port"),
            ("im", "10.1.0.1", "192.0.2.9:1", Some("example.com"), "narrow"),
        ];
        for (listener, client, server, sni, expected) in table {
            assert_eq!(
                find(&router, listener, client, server, *sni),
                Some(*expected),
                "{client} {server} {sni:?}"
            );
        }
    }

    #[test]
    fn a_change_leaves_clones_alone() {
        use serde_json::json;
        let mut router = router(&[("a", json!({"sni": "a.example"})), ("b", json!({"listener": "x"}))]);
        let before = router.clone();
        assert!(router.remove("a") && !router.remove("a"));
        router.insert(&object("b", json!({"status": 0})), "b".to_owned());
        assert!(router.is_empty() && router.get("b").is_none());
        assert_eq!(find(&before, "x", "192.0.2.1", "192.0.2.2:1", Some("a.example")), Some("a"));
        assert_eq!((before.len(), before.get("b").map(String::as_str)), (2, Some("b")));
    }
}
