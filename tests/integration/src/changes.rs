//! Configuration changes under load, with long sessions open: nothing fails,
//! nothing is lost, memory stays.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_harness::{Curl, HttpEcho, ImServer, Sluice, WebSocketEcho, eventually, within};

use crate::load::{Load, Sessions};

/// Growth that is allowed: what caches and tables may take.
const GROWTH_MAX: u64 = 64 << 20;
/// Every so many changes it is seen that the change is live.
const LOOK_EVERY: u32 = 10;

/// How much is done.
pub struct Plan {
    /// Changes, each an object written.
    pub changes: u32,
    /// WebSocket sessions that are open all the while.
    pub websockets: u32,
    /// TLV sessions that are open all the while.
    pub users: u32,
    /// Clients that ask all the while.
    pub load: usize,
}

/// The change of that number: kinds take turns.
fn change(sluice: &Sluice, number: u32, origins: [&HttpEcho; 2], certificate: &[Value; 2]) {
    let origin = origins[number as usize / 7 % 2];
    match number % 7 {
        0 => sluice.put("routes", "steady", json!({"uri": "/steady", "upstream_id": "u", "desc": format!("{number}")})),
        1 => sluice.put("upstreams", "u", json!({"nodes": {origin.node(): 1}})),
        2 => sluice.put("routes", &format!("extra{}", number % 50), json!({"uri": format!("/extra/{number}"), "upstream_id": "u"})),
        3 => sluice.put("ssls", "a", &certificate[number as usize / 7 % 2]),
        4 => sluice.put("global_rules", "g", json!({"plugins": {"response-rewrite": {"headers": {"set": {"x-turn": number.to_string()}}}}})),
        5 => sluice.put("stream_routes", "other", json!({"listener": "im", "remote_addr": "203.0.113.0/24", "upstream_id": "im", "desc": format!("{number}")})),
        _ => sluice.put("routes", "broken", if number % 14 < 7 { json!({"uri": 1}) } else { json!({"uri": "/broken", "upstream_id": "u"}) }),
    }
}

/// Does it.
///
/// # Panics
/// When a request fails, a session is lost, or memory grows.
pub fn run(plan: &Plan) {
    let origins = [HttpEcho::start("one"), HttpEcho::start("two")];
    let (sockets, im) = (WebSocketEcho::start(), ImServer::start(&["main"]));
    let authority = sluice_harness::Authority::new("Test root");
    let certificates = [(); 2].map(|()| authority.leaf(&["a.example"]).ssl(&["a.example"]));
    let sluice = Sluice::builder()
        .boot("log", json!({"level": "warn"}))
        .listener("edge", json!({}))
        .listener("im", json!({"protocol": "tlv"}))
        .put("upstreams", "u", json!({"nodes": {origins[0].node(): 1}}))
        .put("upstreams", "im", json!({"scheme": "tlv", "nodes": {im.line("main").node(): 1}}))
        .put("routes", "steady", json!({"uri": "/steady", "upstream_id": "u"}))
        .put(
            "routes",
            "ws",
            json!({"uri": "/ws", "enable_websocket": true, "upstream": {"nodes": {sockets.node(): 1}}}),
        )
        .put("stream_routes", "im", json!({"listener": "im", "upstream_id": "im"}))
        .start();
    let sessions = Sessions::open(sluice.address("edge"), plan.websockets, sluice.address("im"), plan.users);
    let load = Load::kept(plan.load, sluice.address("edge"), "/steady");
    sessions.wait_rounds(1);
    load.wait_more(100);
    // A first round fills caches; what it leaves is where memory begins.
    let warm = plan.changes / 5;
    let mut before = 0;
    for number in 0..plan.changes {
        if number == warm {
            before = sluice.observe().resident_bytes();
        }
        change(&sluice, number, [&origins[0], &origins[1]], &certificates);
        if number % LOOK_EVERY == 0 {
            until_live(&sluice, number);
        }
    }
    until_live(&sluice, plan.changes);
    sessions.wait_rounds(1);
    load.wait_more(100);
    load.stop();
    sessions.close();
    let mut now = 0;
    within(Duration::from_secs(60), "memory is back where it was", || {
        now = sluice.observe().resident_bytes();
        (now < before + GROWTH_MAX).then_some(())
    });
    let descriptors = sluice.observe().descriptors();
    assert!(descriptors < 200, "{descriptors} descriptors are left open");
}

/// A change of its own that can be seen.
fn until_live(sluice: &Sluice, number: u32) {
    sluice.put("routes", "mark", json!({"uri": format!("/mark/{number}"), "upstream_id": "u"}));
    eventually(&format!("change {number} is live"), || {
        let reply = Curl::get(format!("{}/mark/{number}", sluice.url("edge"))).run();
        (reply.status == 200).then_some(())
    });
}
