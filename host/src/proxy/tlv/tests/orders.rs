//! Changes of the route, and drains.

use std::time::Duration;

use super::rig::{Rig, frame, route, run};
use crate::config::objects::{OnChange, TlvConf};
use crate::filter::Chain;

async fn change(rig: &Rig, on_change: OnChange, identity: u64) {
    let conf = TlvConf { drain_spread: Duration::from_millis(50), ..TlvConf::default() };
    *rig.host.route.borrow_mut() = Some(route(conf, Chain::default(), on_change, identity));
    rig.host.revision.set(rig.host.revision.get() + 1);
    rig.tasks.wake_all();
}

#[test]
fn a_change_does_what_the_route_says() {
    run(async {
        for (on_change, identity, reason) in [
            (OnChange::Evict, 1, None),
            (OnChange::Keep, 2, None),
            (OnChange::Drain, 2, Some("route_changed")),
            (OnChange::Evict, 2, Some("route_changed")),
        ] {
            let conf = TlvConf { drain_spread: Duration::from_millis(50), ..TlvConf::default() };
            let rig = Rig::with_route(route(conf, Chain::default(), on_change, 1)).await;
            let (mut client, mut node) = rig.joined().await;
            client.write(&frame(1, 1, b"")).await;
            node.read_frame().await;
            change(&rig, on_change, identity).await;
            match reason {
                Some(reason) => assert_eq!(rig.line().await.reason, reason),
                None => {
                    client.write(&frame(0x0301, 2, b"still here")).await;
                    assert_eq!(node.read_frame().await.1, 2);
                    assert_eq!(rig.tasks.count(), 1);
                }
            }
        }
    });
}

#[test]
fn a_route_that_is_gone_ends_its_sessions_as_it_said() {
    run(async {
        let rig = Rig::with_route(route(TlvConf::default(), Chain::default(), OnChange::Evict, 1)).await;
        let (mut client, mut node) = rig.joined().await;
        client.write(&frame(1, 1, b"")).await;
        node.read_frame().await;
        *rig.host.route.borrow_mut() = None;
        rig.host.revision.set(2);
        rig.tasks.wake_all();
        assert_eq!(client.read_frame().await.0, 0x00FF);
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "route_changed");
    });
}

#[test]
fn a_drain_spreads_the_ends_of_sessions_before_its_deadline() {
    run(async {
        let conf = TlvConf { drain_spread: Duration::from_millis(400), ..TlvConf::default() };
        let rig = Rig::new(conf).await;
        let mut pairs = Vec::new();
        for _ in 0..30 {
            let (mut client, mut node) = rig.joined().await;
            client.write(&frame(1, 1, b"")).await;
            node.read_frame().await;
            pairs.push((client, node));
        }
        let (tasks, began) = (rig.tasks.clone(), tokio::time::Instant::now());
        let drain = tokio::task::spawn_local(async move { tasks.drained(Duration::from_secs(8)).await });
        let mut ends = Vec::new();
        for _ in 0..30 {
            assert_eq!(rig.line().await.reason, "drained");
            ends.push(began.elapsed());
        }
        drop(pairs);
        assert_eq!(drain.await.unwrap().ended, 0);
        let spread = ends[29] - ends[0];
        assert!(spread > Duration::from_millis(100), "all ended within {spread:?}");
    });
}

#[test]
fn a_session_that_a_deadline_drops_still_has_its_line() {
    run(async {
        let rig = Rig::new(TlvConf { drain_spread: Duration::from_secs(60), ..TlvConf::default() }).await;
        let (mut client, mut node) = rig.joined().await;
        client.write(&frame(1, 1, b"")).await;
        node.read_frame().await;
        rig.tasks.drained(Duration::ZERO).await;
        let reason = rig.line().await.reason;
        assert!(matches!(reason, "aborted" | "drained"), "{reason}");
    });
}
