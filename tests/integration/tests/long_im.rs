//! IM clients of all kinds for minutes on two gateways, while lines break,
//! plugins and definitions change and gateways are drained under them.
//! `SLUICE_SOAK_SECONDS` says for how long; 300 if not said.
#![cfg(feature = "long")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_harness::{ImServer, Sluice, within};
use sluice_tests::im::{PROTO, gateway};
use sluice_tests::im_soak::{Node, Soak};
use sluice_tests::lines::{line_is, two_lines, wait_active};

const CLIENTS: u32 = 200;

/// Both gateways, in front of the same service.
struct Fleet {
    nodes: [Sluice; 2],
}

impl Fleet {
    fn start(server: &ImServer) -> Self {
        let nodes = [(), ()].map(|()| gateway(server, |_| {}).start());
        nodes.iter().for_each(|node| wait_active(node, "im", "leased"));
        Self { nodes }
    }

    fn places(&self) -> [Node; 2] {
        let place = |node: &Sluice| Node { edge: node.address("edge"), tlv: node.address("im") };
        [place(&self.nodes[0]), place(&self.nodes[1])]
    }

    /// Puts an object on both; each has taken it up then.
    fn apply(&self, kind: &str, id: &str, object: &Value) {
        self.nodes.iter().for_each(|node| node.apply(kind, id, object.clone()));
    }

    fn line_is(&self, line: &str, state: &str) {
        for node in &self.nodes {
            line_is(node, "im", line, state);
        }
    }
}

/// One change after the other; each waits until it is in force.
fn disturb(fleet: &mut Fleet, server: &ImServer, soak: &Soak, round: u64) {
    match round % 6 {
        0 => break_line(fleet, server, "leased"),
        1 => {
            let limits = json!({"deadline": "1s", "configure_deadline": "60s", "concurrency": 64 + round});
            fleet.apply("modules", "transcode", &json!({"limits": limits}));
        }
        2 => break_line(fleet, server, "public"),
        3 => {
            let content = format!("{PROTO}\nmessage Round{round} {{ uint64 number = 1; }}\n");
            fleet.apply("protos", "im", &json!({"content": content}));
        }
        4 => {
            // A node of the service is drained: its line is taken out, and comes back.
            let both = two_lines("tlv", &server.line("leased").node(), &server.line("public").node(), "tlv");
            let mut one = both.clone();
            one["lines"].as_array_mut().expect("lines").remove(0);
            fleet.apply("upstreams", "im", &one);
            fleet.nodes.iter().for_each(|node| wait_active(node, "im", "public"));
            fleet.apply("upstreams", "im", &both);
            fleet.line_is("leased", "healthy|mostly_healthy");
        }
        _ => {
            // A gateway is drained: its clients log in at the other one, which has
            // them all for a time.
            let node = &mut fleet.nodes[(round / 6) as usize % 2];
            let status = node.terminate(Duration::from_secs(60));
            assert!(status.success(), "a drain ends well: {status}");
            talk_goes_on(soak);
            node.restart();
            wait_active(node, "im", "leased");
        }
    }
}

fn break_line(fleet: &Fleet, server: &ImServer, line: &str) {
    server.line(line).cut();
    fleet.line_is(line, "unhealthy");
    server.line(line).restore();
    fleet.line_is(line, "held|healthy|mostly_healthy");
}

/// Each client has sent one message more, on the average.
fn talk_goes_on(soak: &Soak) {
    let before = soak.messages();
    within(Duration::from_secs(60), "the talk goes on", || {
        (soak.messages() > before + u64::from(CLIENTS)).then_some(())
    });
}

#[test]
fn what_was_acknowledged_has_come_once_and_in_order() {
    let seconds = std::env::var("SLUICE_SOAK_SECONDS").ok().map_or(300, |text| {
        text.parse().unwrap_or_else(|_| panic!("SLUICE_SOAK_SECONDS: {text:?} is no number of seconds"))
    });
    let server = ImServer::start(&["leased", "public"]);
    let mut fleet = Fleet::start(&server);
    let soak = Soak::start(&fleet.places(), CLIENTS);
    within(Duration::from_secs(120), "every client was heard", || {
        (soak.conversations() == CLIENTS as usize).then_some(())
    });
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while Instant::now() < end {
        disturb(&mut fleet, &server, &soak, round);
        talk_goes_on(&soak);
        round += 1;
    }
    let outcome = soak.finish(Duration::from_secs(120));
    println!("{CLIENTS} clients, {seconds} s, {round} changes: {outcome:?}");
    assert!(round > 0 && outcome.messages > u64::from(CLIENTS));
    for node in &fleet.nodes {
        assert_eq!(node.quarantined("protos", "im"), None);
    }
}
