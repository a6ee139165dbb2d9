//! Listening sockets: opened, kept and closed as the configuration says.
//!
//! [`Listeners`] lives on the control thread. Given the objects that should
//! be live, it opens one socket for each worker and address (`SO_REUSEPORT`)
//! and tells the workers what to do ([`WorkerChange`]); what did not change is
//! not touched. An address that cannot be bound is an error of its object and
//! is tried again with growing pauses. It keeps a handle to each socket, so
//! that a new process can take all of them over ([`takeover`](super::takeover)).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::TcpOptions;
use super::tls::TlsProfile;
use crate::config::objects;
use crate::config::{Id, Kind, ObjectError};

/// First pause before an address is tried again; it doubles each time.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long workers may take to close a socket they were told to.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// A listener while it lives: one version of its object, and the state that
/// all versions and workers share.
#[derive(Debug)]
pub struct Listener {
    /// Its id.
    pub id: Id,
    /// Its object.
    pub object: Arc<objects::Listener>,
    /// Its TLS settings, where TLS ends here.
    pub tls: Option<Arc<TlsProfile>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: AtomicUsize,
    closing: AtomicBool,
}

impl Listener {
    /// A listener without connections.
    ///
    /// # Errors
    /// When its TLS settings are unusable.
    pub fn new(object: Arc<objects::Listener>) -> Result<Self, ObjectError> {
        let tls = TlsProfile::build(&object)?.map(Arc::new);
        Ok(Self { id: object.id.clone(), object, tls, state: Arc::default() })
    }

    /// Open connections, on all workers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Whether it was removed, so that its connections end when they can.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.state.closing.load(Ordering::Relaxed)
    }

    /// Counts a connection in, if the limit leaves room.
    pub(crate) fn admit(&self) -> bool {
        let before = self.state.connections.fetch_add(1, Ordering::Relaxed);
        let fits = before < self.object.limits.connections as usize;
        if !fits {
            self.leave();
        }
        fits
    }

    pub(crate) fn leave(&self) {
        self.state.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A listening socket's number, never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(u64);

/// What becomes of connections that the kernel holds when a socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// They are accepted first: nobody else will.
    Accept,
    /// They are left to the process that has taken the socket over.
    Leave,
}

/// What a worker is to do.
#[derive(Debug)]
pub enum WorkerChange {
    /// Accept from a new socket.
    Open {
        /// For whom.
        listener: Arc<Listener>,
        /// The socket's number.
        id: SocketId,
        /// The socket.
        socket: TcpListener,
    },
    /// New connections of a listener follow a new version of its object.
    Update(Arc<Listener>),
    /// Accept no more from a socket and close it.
    Close(SocketId, Queue),
    /// Look at the listeners again: one was removed.
    Wake,
}

/// What came of a change.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For each worker by number, in order.
    pub changes: Vec<(usize, WorkerChange)>,
    /// Objects that are not, or not wholly, live; the reason each.
    pub errors: Vec<ObjectError>,
    /// When to call [`Listeners::retry`].
    pub retry_at: Option<Instant>,
}

/// Sockets that came from a process before, or from the service manager, by
/// the address (and for port 0 the listener) they were opened for.
#[derive(Debug, Default)]
pub struct Inherited(HashMap<SocketName, Vec<TcpListener>>);

/// What a socket was opened for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketName {
    /// The address as configured.
    pub bind: SocketAddr,
    /// The listener's id, when the kernel chose the port.
    pub listener: Option<Id>,
}

impl SocketName {
    fn new(bind: SocketAddr, listener: &Id) -> Self {
        Self { bind, listener: (bind.port() == 0).then(|| listener.clone()) }
    }
}

impl Inherited {
    /// Adds a listening socket.
    ///
    /// # Errors
    /// When it is none.
    pub fn insert(&mut self, name: SocketName, socket: TcpListener) -> io::Result<()> {
        if !SockRef::from(&socket).is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "inherited socket does not listen"));
        }
        socket.set_nonblocking(true)?;
        self.0.entry(name).or_default().push(socket);
        Ok(())
    }

    /// Takes what the service manager passed (`LISTEN_FDS`): TCP sockets,
    /// known by the address they are bound to. Call it once, early.
    ///
    /// # Errors
    /// When one of them is no listening TCP socket.
    pub fn from_service_manager() -> io::Result<Self> {
        let mut inherited = Self::default();
        let mut passed = listenfd::ListenFd::from_env();
        for index in 0..passed.len() {
            if let Some(socket) = passed.take_tcp_listener(index)? {
                let bind = socket.local_addr()?;
                inherited.insert(SocketName { bind, listener: None }, socket)?;
            }
        }
        Ok(inherited)
    }

    /// Sockets not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, name: &SocketName) -> Vec<TcpListener> {
        self.0.remove(name).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Live {
    listener: Arc<Listener>,
    places: Vec<Place>,
    failed: Vec<Failed>,
}

/// An address that is bound.
#[derive(Debug)]
struct Place {
    configured: SocketAddr,
    actual: SocketAddr,
    sockets: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    id: SocketId,
    worker: usize,
    socket: TcpListener,
}

/// An address that could not be bound.
#[derive(Debug)]
struct Failed {
    configured: SocketAddr,
    error: String,
    pause: Duration,
    retry_at: Instant,
}

/// All listening sockets of the process.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    live: BTreeMap<Id, Live>,
    inherited: Inherited,
    last_id: u64,
    /// Addresses closed a moment ago, which workers may still be closing.
    closed: Vec<(SocketAddr, Instant)>,
}

impl Listeners {
    /// None yet, for so many workers; sockets in `inherited` are used before
    /// new ones are opened.
    #[must_use]
    pub fn new(workers: usize, inherited: Inherited) -> Self {
        Self { workers: workers.max(1), live: BTreeMap::new(), inherited, last_id: 0, closed: Vec::new() }
    }

    /// Makes `wanted` the set of live listeners. Objects that are switched
    /// off count as absent. Ids are unique in `wanted`.
    pub fn apply(&mut self, wanted: &[Arc<objects::Listener>], now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        self.closed.retain(|(_, at)| now.saturating_duration_since(*at) < CLOSING_MAX);
        let wanted: BTreeMap<&Id, &Arc<objects::Listener>> = wanted
            .iter()
            .filter(|object| object.status.is_enabled())
            .map(|object| (&object.id, object))
            .collect();
        // Closing comes first: an address may move from one listener to another.
        let gone: Vec<Id> = self.live.keys().filter(|id| !wanted.contains_key(id)).cloned().collect();
        for id in &gone {
            self.remove(id, now, &mut outcome);
        }
        for object in wanted.values() {
            self.close_dropped_places(object, now, &mut outcome);
        }
        for object in wanted.values() {
            self.put(object, now, &mut outcome);
        }
        self.report(&mut outcome);
        outcome
    }

    /// Tries the addresses again whose time has come.
    pub fn retry(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let ids: Vec<Id> = self.live.keys().cloned().collect();
        for id in ids {
            self.open_missing(&id, now, &mut outcome);
        }
        self.report(&mut outcome);
        outcome
    }

    /// Live listeners with the addresses they are bound to.
    pub fn bound(&self) -> impl Iterator<Item = (&Arc<Listener>, Vec<SocketAddr>)> {
        self.live
            .values()
            .map(|live| (&live.listener, live.places.iter().map(|place| place.actual).collect()))
    }

    /// Every socket with what it was opened for, for another process.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketName, &TcpListener)> {
        self.live.iter().flat_map(|(id, live)| {
            live.places.iter().flat_map(move |place| {
                let name = SocketName::new(place.configured, id);
                place.sockets.iter().map(move |held| (name.clone(), &held.socket))
            })
        })
    }

    /// Closes every socket, in drain or after a takeover.
    pub fn close_all(&mut self, queue: Queue) -> Vec<(usize, WorkerChange)> {
        let live = std::mem::take(&mut self.live);
        live.into_values()
            .flat_map(|live| live.places)
            .flat_map(|place| place.sockets)
            .map(|held| (held.worker, WorkerChange::Close(held.id, queue)))
            .collect()
    }

    fn remove(&mut self, id: &Id, now: Instant, outcome: &mut Outcome) {
        let Some(live) = self.live.remove(id) else { return };
        live.listener.state.closing.store(true, Ordering::Relaxed);
        self.closed.extend(live.places.iter().map(|place| (place.actual, now)));
        live.places.into_iter().for_each(|place| close(place, outcome));
        outcome.changes.extend((0..self.workers).map(|worker| (worker, WorkerChange::Wake)));
    }

    fn close_dropped_places(&mut self, object: &objects::Listener, now: Instant, outcome: &mut Outcome) {
        let Some(live) = self.live.get_mut(&object.id) else { return };
        let (kept, dropped) =
            live.places.drain(..).partition(|place| object.bind.contains(&place.configured));
        live.places = kept;
        live.failed.retain(|failed| object.bind.contains(&failed.configured));
        let dropped: Vec<Place> = dropped;
        self.closed.extend(dropped.iter().map(|place| (place.actual, now)));
        dropped.into_iter().for_each(|place| close(place, outcome));
    }

    fn put(&mut self, object: &Arc<objects::Listener>, now: Instant, outcome: &mut Outcome) {
        let id = &object.id;
        match self.live.get_mut(id) {
            Some(live) if Arc::ptr_eq(&live.listener.object, object) || live.listener.object == *object => {}
            known => {
                let mut listener = match Listener::new(Arc::clone(object)) {
                    Ok(listener) => listener,
                    Err(error) => {
                        // The version before, if there is one, goes on.
                        outcome.errors.push(error);
                        return;
                    }
                };
                if let Some(live) = known {
                    listener.state = Arc::clone(&live.listener.state);
                    live.listener = Arc::new(listener);
                    live.tune();
                    let update = |worker| (worker, WorkerChange::Update(Arc::clone(&live.listener)));
                    outcome.changes.extend((0..self.workers).map(update));
                } else {
                    let listener = Arc::new(listener);
                    let live = Live { listener, places: Vec::new(), failed: Vec::new() };
                    self.live.insert(id.clone(), live);
                }
            }
        }
        self.open_missing(id, now, outcome);
    }

    /// Binds the addresses of a listener that are not bound and not waiting.
    fn open_missing(&mut self, id: &Id, now: Instant, outcome: &mut Outcome) {
        let Some(live) = self.live.get(id) else { return };
        let listener = Arc::clone(&live.listener);
        for configured in &listener.object.bind {
            let Some(live) = self.live.get(id) else { return };
            // Port 0 may stand in the list more than once, each a socket of its own.
            let wanted = listener.object.bind.iter().filter(|other| *other == configured).count();
            let bound = live.places.iter().filter(|place| place.configured == *configured).count();
            let failed = live.failed.iter().find(|failed| failed.configured == *configured);
            if bound >= wanted || failed.is_some_and(|failed| failed.retry_at > now) {
                continue;
            }
            let pause = failed.map_or(RETRY_FIRST, |failed| (failed.pause * 2).min(RETRY_MAX));
            let opened = match self.owner_of(*configured, id) {
                Some(other) => Err(format!("{configured} is bound by listeners/{other} already")),
                None => self
                    .open(*configured, &listener)
                    .map_err(|error| format!("cannot listen on {configured}: {error}")),
            };
            let Some(live) = self.live.get_mut(id) else { return };
            live.failed.retain(|failed| failed.configured != *configured);
            match opened {
                Ok((place, changes)) => {
                    live.places.push(place);
                    outcome.changes.extend(changes);
                }
                Err(error) => {
                    live.failed.push(Failed { configured: *configured, error, pause, retry_at: now + pause });
                }
            }
        }
    }

    /// Another listener that has the address: the kernel would let two share it.
    fn owner_of(&self, address: SocketAddr, id: &Id) -> Option<&Id> {
        let is_there = |live: &Live| live.places.iter().any(|place| place.configured == address);
        let mut others = self.live.iter().filter(|(other, live)| *other != id && is_there(live));
        others.next().map(|(other, _)| other).filter(|_| address.port() != 0)
    }

    fn open(
        &mut self,
        configured: SocketAddr,
        listener: &Arc<Listener>,
    ) -> io::Result<(Place, Vec<(usize, WorkerChange)>)> {
        let object = &listener.object;
        let mut sockets = self.inherited.take(&SocketName::new(configured, &listener.id));
        let is_inherited = !sockets.is_empty();
        if !is_inherited && !self.closed.iter().any(|(closed, _)| *closed == configured) {
            probe(configured)?;
        }
        let mut address = configured;
        if let Some(first) = sockets.first() {
            address = first.local_addr()?;
        }
        for socket in &sockets {
            options(object).apply(SockRef::from(socket))?;
        }
        while sockets.len() < self.workers {
            match bind(address, object) {
                Ok(socket) => {
                    address = socket.local_addr()?;
                    sockets.push(socket);
                }
                // A socket of the service manager may not want company; the
                // workers share what it accepts.
                Err(_) if is_inherited => break,
                Err(error) => return Err(error),
            }
        }
        let mut changes = Vec::with_capacity(sockets.len());
        let mut held = Vec::with_capacity(sockets.len());
        for (index, socket) in sockets.into_iter().enumerate() {
            self.last_id += 1;
            let (id, worker) = (SocketId(self.last_id), index % self.workers);
            let copy = socket.try_clone()?;
            changes.push((worker, WorkerChange::Open { listener: Arc::clone(listener), id, socket: copy }));
            held.push(Held { id, worker, socket });
        }
        Ok((Place { configured, actual: address, sockets: held }, changes))
    }

    fn report(&self, outcome: &mut Outcome) {
        for (id, live) in &self.live {
            for failed in &live.failed {
                let place = live.listener.object.bind.iter().position(|bind| *bind == failed.configured);
                let field = match (place, live.listener.object.bind.len()) {
                    (Some(index), 2..) => format!("bind[{index}]"),
                    _ => "bind".to_owned(),
                };
                outcome.errors.push(ObjectError::new(Kind::Listeners, id, field, &failed.error));
                outcome.retry_at = outcome.retry_at.into_iter().chain([failed.retry_at]).min();
            }
        }
    }
}

impl Live {
    /// Sets on the open sockets what a new version of the object may have changed.
    fn tune(&self) {
        let object = &self.listener.object;
        let backlog = i32::try_from(object.backlog).unwrap_or(i32::MAX);
        for held in self.places.iter().flat_map(|place| &place.sockets) {
            let socket = SockRef::from(&held.socket);
            // Listening again sets the backlog. Neither fails on a socket that listens.
            let _ = socket.listen(backlog);
            let _ = options(object).apply(socket);
        }
    }
}

fn close(place: Place, outcome: &mut Outcome) {
    let close = |held: Held| (held.worker, WorkerChange::Close(held.id, Queue::Accept));
    outcome.changes.extend(place.sockets.into_iter().map(close));
}

fn options(object: &objects::Listener) -> TcpOptions {
    let idle = Some(object.tcp_keepalive).filter(|idle| !idle.is_zero());
    TcpOptions { keepalive_idle: idle, ..TcpOptions::DOWNSTREAM }
}

/// Fails when the address is in use, by another Sluice too: `SO_REUSEPORT`
/// alone would let two share it unseen.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = new_socket(address)?;
    socket.bind(&address.into())
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn bind(address: SocketAddr, object: &objects::Listener) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    options(object).apply(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(object.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::TcpStream;

    fn object(value: serde_json::Value) -> Arc<objects::Listener> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn kinds(outcome: &Outcome) -> Vec<&'static str> {
        let kind = |change: &WorkerChange| match change {
            WorkerChange::Open { .. } => "open",
            WorkerChange::Update(_) => "update",
            WorkerChange::Close(..) => "close",
            WorkerChange::Wake => "wake",
        };
        outcome.changes.iter().map(|(_, change)| kind(change)).collect()
    }

    fn address_of(listeners: &Listeners) -> SocketAddr {
        listeners.bound().next().unwrap().1[0]
    }

    #[test]
    fn one_socket_a_worker_and_nothing_for_what_did_not_change() {
        let mut listeners = Listeners::new(3, Inherited::default());
        let edge = object(json!({"id": "edge", "bind": "127.0.0.1:0"}));
        let opened = listeners.apply(&[Arc::clone(&edge)], Instant::now());
        assert_eq!(kinds(&opened), ["open"; 3]);
        assert!(opened.errors.is_empty() && opened.retry_at.is_none());
        TcpStream::connect(address_of(&listeners)).unwrap();

        let again = object(json!({"id": "edge", "bind": "127.0.0.1:0"}));
        assert!(listeners.apply(&[again], Instant::now()).changes.is_empty());

        let changed = object(json!({"id": "edge", "bind": "127.0.0.1:0", "limits": {"connections": 7}}));
        let updated = listeners.apply(&[changed], Instant::now());
        assert_eq!(kinds(&updated), ["update"; 3]);

        let removed = listeners.apply(&[], Instant::now());
        assert_eq!(kinds(&removed), ["close", "close", "close", "wake", "wake", "wake"]);
    }

    #[test]
    fn connections_are_counted_across_versions() {
        let mut listeners = Listeners::new(1, Inherited::default());
        let version = |limit: u32| {
            object(json!({"id": "edge", "bind": "127.0.0.1:0", "limits": {"connections": limit}}))
        };
        listeners.apply(&[version(1)], Instant::now());
        let first = Arc::clone(listeners.bound().next().unwrap().0);
        assert!(first.admit() && !first.admit());
        listeners.apply(&[version(2)], Instant::now());
        let second = Arc::clone(listeners.bound().next().unwrap().0);
        assert!(second.admit() && !second.admit());
        assert_eq!(first.connections(), 2);
        listeners.apply(&[], Instant::now());
        assert!(first.is_closing() && second.is_closing());
    }

    #[test]
    fn an_address_in_use_is_the_objects_error_and_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = taken.local_addr().unwrap();
        let mut listeners = Listeners::new(2, Inherited::default());
        let now = Instant::now();
        let outcome = listeners.apply(&[object(json!({"id": "edge", "bind": bind}))], now);
        assert!(outcome.changes.is_empty());
        let error = outcome.errors[0].to_string();
        assert!(error.starts_with(&format!("listeners/edge: bind: cannot listen on {bind}: ")), "{error}");
        assert_eq!(outcome.retry_at, Some(now + RETRY_FIRST));

        drop(taken);
        let early = listeners.retry(now);
        assert_eq!((early.changes.len(), early.errors.len()), (0, 1));
        let retried = listeners.retry(now + RETRY_FIRST);
        assert_eq!(kinds(&retried), ["open"; 2]);
        assert!(retried.errors.is_empty());
    }

    #[test]
    fn two_listeners_cannot_share_an_address_but_may_pass_it_on() {
        let mut listeners = Listeners::new(1, Inherited::default());
        listeners.apply(&[object(json!({"id": "a", "bind": "127.0.0.1:0"}))], Instant::now());
        let bind = address_of(&listeners);
        listeners.apply(&[], Instant::now());
        let (a, b) = (object(json!({"id": "a", "bind": bind})), object(json!({"id": "b", "bind": bind})));
        let outcome = listeners.apply(&[Arc::clone(&a), Arc::clone(&b)], Instant::now());
        let wanted = format!("listeners/b: bind: {bind} is bound by listeners/a already");
        assert_eq!(outcome.errors[0].to_string(), wanted);
        let _ = a;
        let passed = listeners.apply(&[b], Instant::now() + RETRY_MAX);
        assert_eq!(kinds(&passed), ["close", "wake", "open"]);
    }

    #[test]
    fn a_bad_version_leaves_the_one_before() {
        let mut listeners = Listeners::new(1, Inherited::default());
        listeners.apply(&[object(json!({"id": "edge", "bind": "127.0.0.1:0"}))], Instant::now());
        let bad = json!({"id": "edge", "bind": "127.0.0.1:0", "tls": {"client": {"ca": "junk"}}});
        let outcome = listeners.apply(&[object(bad)], Instant::now());
        assert!(outcome.changes.is_empty());
        assert!(outcome.errors[0].to_string().starts_with("listeners/edge: tls.client.ca: "));
        TcpStream::connect(address_of(&listeners)).unwrap();
    }

    #[test]
    fn inherited_sockets_are_used_all_of_them() {
        let mut inherited = Inherited::default();
        let edge = object(json!({"id": "edge", "bind": "127.0.0.1:0"}));
        let mut bind_at = edge.bind[0];
        for _ in 0..3 {
            let socket = bind(bind_at, &edge).unwrap();
            bind_at = socket.local_addr().unwrap();
            inherited.insert(SocketName::new(edge.bind[0], &edge.id), socket).unwrap();
        }
        let mut listeners = Listeners::new(2, inherited);
        let outcome = listeners.apply(&[edge], Instant::now());
        let workers: Vec<usize> = outcome.changes.iter().map(|(worker, _)| *worker).collect();
        assert_eq!(workers, [0, 1, 0]);
        assert_eq!(address_of(&listeners), bind_at);
        assert_eq!(listeners.sockets().count(), 3);
    }
}
