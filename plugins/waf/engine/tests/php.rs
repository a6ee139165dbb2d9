//! Our own rules for PHP before attacks and before people who talk about PHP.

mod common;

use common::{cases, engine, ids, judge};
use sluice_waf::{PHP_RULES, Verdict};

/// Attacks that may get by. The sets are in `data`; the figures are in the
/// plugin's README.
const MISSED_MAX: usize = 2;

#[test]
fn attacks_are_denied() {
    let engine = engine(PHP_RULES);
    let attacks = cases(include_str!("data/attacks.txt"));
    let passed: Vec<&str> = attacks
        .iter()
        .filter(|(_, request)| judge(&engine, request).0 == Verdict::Pass)
        .map(|(line, _)| line.as_str())
        .collect();
    println!("{} of {} attacks denied", attacks.len() - passed.len(), attacks.len());
    assert!(passed.len() <= MISSED_MAX, "{} got by:\n{}", passed.len(), passed.join("\n"));
}

#[test]
fn people_may_talk_about_php() {
    let engine = engine(PHP_RULES);
    let texts = cases(include_str!("data/harmless.txt"));
    assert!(texts.len() >= 75, "{}", texts.len());
    let denied: Vec<String> = texts
        .iter()
        .filter_map(|(line, request)| {
            let (verdict, transaction) = judge(&engine, request);
            (verdict != Verdict::Pass).then(|| format!("{line} {:?}", ids(&transaction)))
        })
        .collect();
    assert!(denied.is_empty(), "{} denied:\n{}", denied.len(), denied.join("\n"));
}
