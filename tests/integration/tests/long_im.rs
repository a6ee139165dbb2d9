//! IM clients of all kinds for minutes, while lines and plugins change under
//! them. `SLUICE_SOAK_SECONDS` says for how long; 300 if not said.
#![cfg(feature = "long")]

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::{ImServer, Sluice, within};
use sluice_tests::im::{PROTO, gateway};
use sluice_tests::im_soak::Soak;
use sluice_tests::lines::{line_is, two_lines, wait_active};

const CLIENTS: u32 = 200;

/// One change after the other; each waits until it is in force.
fn disturb(sluice: &Sluice, server: &ImServer, round: u64) {
    match round % 5 {
        0 | 2 => {
            let line = if round.is_multiple_of(5) { "leased" } else { "public" };
            server.line(line).cut();
            line_is(sluice, "im", line, "unhealthy");
            server.line(line).restore();
            line_is(sluice, "im", line, "held|healthy|mostly_healthy");
        }
        1 => sluice.apply(
            "modules",
            "transcode",
            json!({"limits": {"deadline": "1s", "configure_deadline": "60s", "concurrency": 64 + round}}),
        ),
        3 => {
            let content = format!("{PROTO}\nmessage Round{round} {{ uint64 number = 1; }}\n");
            sluice.apply("protos", "im", json!({"content": content}));
        }
        _ => {
            // A drained node: the leased line is taken out, and comes back.
            let both = two_lines("tlv", &server.line("leased").node(), &server.line("public").node(), "tlv");
            let mut one = both.clone();
            one["lines"].as_array_mut().expect("lines").remove(0);
            sluice.apply("upstreams", "im", one);
            wait_active(sluice, "im", "public");
            sluice.apply("upstreams", "im", both);
            line_is(sluice, "im", "leased", "healthy|mostly_healthy");
        }
    }
}

#[test]
fn what_was_acknowledged_has_come_once_and_in_order() {
    let seconds = std::env::var("SLUICE_SOAK_SECONDS").ok().map_or(300, |text| {
        text.parse().unwrap_or_else(|_| panic!("SLUICE_SOAK_SECONDS: {text:?} is no number of seconds"))
    });
    let server = ImServer::start(&["leased", "public"]);
    let sluice = gateway(&server, |_| {}).start();
    wait_active(&sluice, "im", "leased");
    let soak = Soak::start(sluice.address("edge"), sluice.address("im"), CLIENTS);
    within(Duration::from_secs(120), "every client was heard", || {
        (soak.conversations() == CLIENTS as usize).then_some(())
    });
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while Instant::now() < end {
        let before = soak.messages();
        disturb(&sluice, &server, round);
        within(Duration::from_secs(60), "the talk goes on", || {
            (soak.messages() > before + u64::from(CLIENTS)).then_some(())
        });
        round += 1;
    }
    let outcome = soak.finish(Duration::from_secs(120));
    println!("{CLIENTS} clients, {seconds} s, {round} changes: {outcome:?}");
    assert!(round > 0 && outcome.messages > u64::from(CLIENTS));
    assert_eq!(sluice.quarantined("protos", "im"), None);
}
