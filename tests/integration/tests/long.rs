//! What takes minutes: `cargo xtask test --long`.

#![cfg(feature = "long")]

use sluice_tests::changes::{Plan, run};

#[test]
fn a_thousand_changes_with_five_hundred_sessions_lose_nothing() {
    run(&Plan { changes: 1000, websockets: 250, users: 250, load: 4 });
}
