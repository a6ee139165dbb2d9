use std::cell::Cell;
use std::rc::Rc;

use super::*;

/// A connection whose life the test decides.
#[derive(Clone, Default)]
struct Fake {
    id: u32,
    closed: Rc<Cell<bool>>,
}

impl Reusable for Fake {
    fn is_usable(&mut self) -> bool {
        !self.closed.get()
    }
}

impl Shared for Fake {
    fn is_usable(&self) -> bool {
        !self.closed.get()
    }

    fn has_room(&self) -> bool {
        true
    }
}

fn address() -> SocketAddr {
    "10.0.0.1:80".parse().unwrap()
}

fn service(keepalive: Value) -> Arc<Upstream> {
    upstream(json!({"nodes": {"10.0.0.1:80": 1}, "keepalive_pool": keepalive}))
}

fn target(upstream: &Upstream) -> Target {
    upstream.select(0, &mut Tried::default()).unwrap()
}

fn put(pool: &IdlePool<Fake>, target: &Target, name: Option<&str>, id: u32) -> Fake {
    let fake = Fake { id, ..Fake::default() };
    pool.put(Pooled::new(target, name, address(), fake.clone()));
    fake
}

fn take(pool: &IdlePool<Fake>, target: &Target, name: Option<&str>) -> Option<u32> {
    pool.take(target, name).map(|pooled| pooled.connection.id)
}

#[test]
fn the_last_one_back_is_the_first_one_out_and_the_closed_are_passed_over() {
    let (upstream, pool) = (service(json!({})), IdlePool::new(100, 1));
    let target = target(&upstream);
    put(&pool, &target, None, 1);
    put(&pool, &target, None, 2);
    put(&pool, &target, None, 3).closed.set(true);
    assert_eq!((take(&pool, &target, None), pool.len()), (Some(2), 1));
    assert_eq!(take(&pool, &target, None), Some(1));
    assert_eq!((take(&pool, &target, None), pool.len()), (None, 0));
}

#[test]
fn a_connection_serves_only_those_who_would_ask_for_its_certificate() {
    let (upstream, pool) = (service(json!({})), IdlePool::new(100, 1));
    let target = target(&upstream);
    put(&pool, &target, Some("a.example"), 1);
    put(&pool, &target, Some("b.example"), 2);
    assert_eq!(take(&pool, &target, None), None);
    assert_eq!(take(&pool, &target, Some("a.example")), Some(1));
    assert_eq!(take(&pool, &target, Some("a.example")), None);
    assert_eq!(take(&pool, &target, Some("b.example")), Some(2));
}

#[test]
fn the_limits_hold() {
    let upstream = service(json!({"size": 4, "requests": 3}));
    let target = target(&upstream);
    // Of two workers each keeps its half; the oldest makes room.
    let pool = IdlePool::new(100, 2);
    (1..=3).for_each(|id| drop(put(&pool, &target, None, id)));
    assert_eq!(pool.len(), 2);
    assert_eq!((take(&pool, &target, None), take(&pool, &target, None)), (Some(3), Some(2)));
    // One that carried its share is not kept.
    put(&pool, &target, None, 7);
    let pooled = pool.take(&target, None).unwrap();
    assert_eq!(pooled.requests(), 1);
    pool.put(pooled);
    pool.put(pool.take(&target, None).unwrap());
    assert_eq!(pool.len(), 0);
    // Nothing is kept where keeping is off.
    let off = service(json!({"idle_timeout": 0}));
    let target = super::pool::target(&off);
    put(&pool, &target, None, 1);
    assert_eq!(pool.len(), 0);
}

#[test]
fn sweeping_closes_what_is_idle_too_long_closed_or_of_a_node_that_is_gone() {
    let (first, second) = (service(json!({"idle_timeout": "1s"})), service(json!({})));
    let pool = IdlePool::new(100, 1);
    put(&pool, &target(&first), None, 1);
    put(&pool, &target(&second), None, 2);
    let closed = put(&pool, &target(&second), None, 3);
    assert_eq!(pool.sweep(Instant::now()), 0);
    assert_eq!(pool.sweep(Instant::now() + Duration::from_secs(2)), 1);
    closed.closed.set(true);
    assert_eq!((pool.sweep(Instant::now()), pool.len()), (1, 1));
    drop(second);
    assert_eq!((pool.sweep(Instant::now()), pool.len()), (1, 0));
}

#[test]
fn connections_from_before_a_node_went_down_are_not_used_again() {
    let (upstream, pool) = (service(json!({})), IdlePool::new(100, 1));
    let shared = SharedPool::<Fake>::new();
    let target = target(&upstream);
    put(&pool, &target, None, 1);
    shared.slot(&target, None).add(Fake::default());
    assert!(shared.slot(&target, None).ready().is_some());
    fail(&upstream, 0, 0, Failure::ConnectTimeout);
    assert_eq!(take(&pool, &target, None), None);
    assert!(shared.slot(&target, None).ready().is_none());
}

#[test]
fn connections_that_name_their_client_are_not_shared() {
    let upstream = upstream(json!({"nodes": {"10.0.0.1:80": 1}, "send_proxy_protocol": "v2"}));
    let (target, pool) = (target(&upstream), IdlePool::new(100, 1));
    assert!(!target.is_poolable());
    put(&pool, &target, None, 1);
    assert_eq!(pool.len(), 0);
}

#[test]
fn one_dials_and_the_others_find_its_connection() {
    on_worker(async {
        let upstream = service(json!({}));
        let slot = SharedPool::<Fake>::new().slot(&target(&upstream), None);
        assert!(slot.ready().is_none() && slot.may_grow());
        let permit = slot.dial_permit().await;
        let waiting = slot.dial_permit();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
        slot.add(Fake { id: 9, ..Fake::default() });
        drop(permit);
        let _permit = waiting.await.unwrap();
        assert_eq!(slot.ready().map(|fake| fake.id), Some(9));
    });
}
