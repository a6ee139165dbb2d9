//! The health of one node: what counts, and what a count leads to.
//!
//! A node is up until signs against it reach a limit, and down until signs for
//! it do. Active probes and passing traffic count apart, so that each works
//! without the other and a probe that goes well does not wipe out what traffic
//! shows. Reads no clock.

use std::time::Instant;

use crate::upstream::outcome::Failure;

/// Where a sign comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Source {
    /// A configured active check.
    Active,
    /// Traffic.
    Passive,
    /// A connect made in the background to see whether a node is back.
    Recovery,
}

/// One observation of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Sign {
    Good,
    Bad(Failure),
}

/// How many signs in a row it takes; 0 turns that kind of sign off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct Limits {
    pub(in crate::upstream) http_failures: u32,
    pub(in crate::upstream) tcp_failures: u32,
    pub(in crate::upstream) timeouts: u32,
    pub(in crate::upstream) successes: u32,
}

impl Limits {
    fn of(self, failure: Failure) -> u32 {
        match failure {
            Failure::Status(_) => self.http_failures,
            Failure::ConnectTimeout | Failure::Timeout => self.timeouts,
            _ => self.tcp_failures,
        }
    }
}

/// What a node is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct NodeRules {
    /// Limits of the active check, where there is one.
    pub(in crate::upstream) active: Option<Limits>,
    /// Limits of the passive check. Without one no answer takes a node out.
    pub(in crate::upstream) passive: Option<Limits>,
    /// Whether the first failed connect of traffic takes the node out, whatever
    /// the passive check says: where there is another line, or no check.
    pub(in crate::upstream) first_connect: bool,
    /// Good background connects in a row that bring it back without an active check.
    pub(in crate::upstream) rise: u32,
}

/// Consecutive signs from one source.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    http: u32,
    tcp: u32,
    timeouts: u32,
    good: u32,
}

impl Counts {
    fn good(&mut self) -> u32 {
        *self = Self { good: self.good.saturating_add(1), ..Self::default() };
        self.good
    }

    fn bad(&mut self, failure: Failure) -> u32 {
        self.good = 0;
        let count = match failure {
            Failure::Status(_) => &mut self.http,
            Failure::ConnectTimeout | Failure::Timeout => &mut self.timeouts,
            _ => &mut self.tcp,
        };
        *count = count.saturating_add(1);
        *count
    }
}

/// What an observation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum Change {
    None,
    WentDown,
    CameUp,
}

/// A node's health.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct NodeHealth {
    active: Counts,
    passive: Counts,
    recovery: Counts,
    down: Option<Failure>,
    /// On trial: put back untested, so the first bad sign takes it out again.
    trial: bool,
    /// Since when it is as it is.
    pub(in crate::upstream) since: Instant,
}

impl NodeHealth {
    /// A node nothing is known of: taken to be up.
    pub(in crate::upstream) fn new(now: Instant) -> Self {
        let counts = Counts::default();
        Self { active: counts, passive: counts, recovery: counts, down: None, trial: false, since: now }
    }

    /// Why it is down, if it is.
    pub(in crate::upstream) fn down(&self) -> Option<Failure> {
        self.down
    }

    /// Whether bad signs have begun to add up, so that a good one matters.
    pub(in crate::upstream) fn is_doubted(&self) -> bool {
        let is_bad = |counts: &Counts| counts.http + counts.tcp + counts.timeouts > 0;
        self.trial || is_bad(&self.passive)
    }

    /// Whether the last signs were good though it is not up yet.
    pub(in crate::upstream) fn is_recovering(&self) -> bool {
        self.active.good > 0 || self.passive.good > 0 || self.recovery.good > 0
    }

    /// Signs in a row of both kinds of check: good ones, bad statuses, failed
    /// connections, timeouts.
    pub(in crate::upstream) fn in_a_row(&self) -> [u32; 4] {
        let sum = |count: fn(&Counts) -> u32| count(&self.active).saturating_add(count(&self.passive));
        [sum(|c| c.good), sum(|c| c.http), sum(|c| c.tcp), sum(|c| c.timeouts)]
    }

    /// Takes one sign in.
    pub(in crate::upstream) fn observe(
        &mut self,
        rules: &NodeRules,
        source: Source,
        sign: Sign,
        now: Instant,
    ) -> Change {
        match sign {
            // Nothing said of the node.
            Sign::Bad(Failure::Local) => Change::None,
            Sign::Bad(failure) => self.bad(rules, source, failure, now),
            Sign::Good => self.good(rules, source, now),
        }
    }

    fn bad(&mut self, rules: &NodeRules, source: Source, failure: Failure, now: Instant) -> Change {
        self.recovery = Counts::default();
        let (count, limit) = match source {
            Source::Active => (self.active.bad(failure), rules.active.map_or(0, |limits| limits.of(failure))),
            Source::Recovery => (1, 1),
            Source::Passive => {
                let count = self.passive.bad(failure);
                if rules.first_connect && failure.is_before_request() {
                    (count, 1)
                } else {
                    (count, rules.passive.map_or(0, |limits| limits.of(failure)))
                }
            }
        };
        let is_over = limit > 0 && (count >= limit || self.trial);
        if !is_over || self.down.is_some() {
            return Change::None;
        }
        self.down = Some(failure);
        self.trial = false;
        self.active.good = 0;
        self.passive.good = 0;
        self.since = now;
        Change::WentDown
    }

    fn good(&mut self, rules: &NodeRules, source: Source, now: Instant) -> Change {
        let (count, limit) = match source {
            Source::Active => {
                (self.active.good(), rules.active.map_or(rules.rise, |limits| limits.successes))
            }
            Source::Passive => {
                (self.passive.good(), rules.passive.map_or(rules.rise, |limits| limits.successes))
            }
            Source::Recovery => (self.recovery.good(), rules.rise),
        };
        if source == Source::Passive {
            self.trial = false;
        }
        if self.down.is_none() || limit == 0 || count < limit {
            return Change::None;
        }
        self.come_up(now)
    }

    /// Puts a node back that only traffic can judge, on trial.
    pub(in crate::upstream) fn try_again(&mut self, now: Instant) -> Change {
        if self.down.is_none() {
            return Change::None;
        }
        let change = self.come_up(now);
        self.trial = true;
        change
    }

    fn come_up(&mut self, now: Instant) -> Change {
        *self = Self { since: now, ..Self::new(now) };
        Change::CameUp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { http_failures: 5, tcp_failures: 2, timeouts: 3, successes: 2 };
    const REFUSED: Sign = Sign::Bad(Failure::Refused);
    const ERROR: Sign = Sign::Bad(Failure::Status(500));

    fn rules(active: bool, passive: bool) -> NodeRules {
        NodeRules {
            active: active.then_some(LIMITS),
            passive: passive.then_some(LIMITS),
            first_connect: !passive,
            rise: 2,
        }
    }

    fn feed(health: &mut NodeHealth, rules: &NodeRules, source: Source, signs: &[Sign]) -> Vec<Change> {
        signs.iter().map(|sign| health.observe(rules, source, *sign, Instant::now())).collect()
    }

    #[test]
    fn each_kind_of_failure_has_its_limit() {
        for (failure, limit) in [
            (Failure::Refused, 2),
            (Failure::Broken, 2),
            (Failure::Tls, 2),
            (Failure::ConnectTimeout, 3),
            (Failure::Timeout, 3),
            (Failure::Status(503), 5),
        ] {
            for source in [Source::Active, Source::Passive] {
                let mut health = NodeHealth::new(Instant::now());
                let changes = feed(&mut health, &rules(true, true), source, &[Sign::Bad(failure); 6]);
                let expected = changes.iter().position(|change| *change == Change::WentDown);
                assert_eq!(expected, Some(limit - 1), "{failure:?} {source:?}");
                assert_eq!(health.down(), Some(failure));
            }
        }
    }

    #[test]
    fn a_good_sign_begins_the_count_anew() {
        let mut health = NodeHealth::new(Instant::now());
        let signs = [REFUSED, Sign::Good, REFUSED, Sign::Good, REFUSED];
        feed(&mut health, &rules(true, false), Source::Active, &signs);
        assert_eq!(health.down(), None);
    }

    #[test]
    fn good_probes_do_not_hide_what_traffic_shows() {
        let mut health = NodeHealth::new(Instant::now());
        let rules = rules(true, true);
        for _ in 0..5 {
            health.observe(&rules, Source::Active, Sign::Good, Instant::now());
            health.observe(&rules, Source::Passive, ERROR, Instant::now());
        }
        assert_eq!(health.down(), Some(Failure::Status(500)));
    }

    #[test]
    fn without_a_passive_check_one_failed_connect_is_enough_and_no_answer_ever_is() {
        let rules = rules(false, false);
        let mut health = NodeHealth::new(Instant::now());
        feed(&mut health, &rules, Source::Passive, &[ERROR; 100]);
        feed(
            &mut health,
            &rules,
            Source::Passive,
            &[Sign::Bad(Failure::Broken), Sign::Bad(Failure::Timeout)],
        );
        assert_eq!(health.down(), None);
        assert_eq!(feed(&mut health, &rules, Source::Passive, &[REFUSED]), [Change::WentDown]);
    }

    #[test]
    fn where_another_line_waits_the_first_failed_connect_counts_whatever_the_check_says() {
        let rules = NodeRules { first_connect: true, ..rules(false, true) };
        let mut health = NodeHealth::new(Instant::now());
        assert_eq!(feed(&mut health, &rules, Source::Passive, &[Sign::Bad(Failure::Broken)]), [Change::None]);
        let timeout = Sign::Bad(Failure::ConnectTimeout);
        assert_eq!(feed(&mut health, &rules, Source::Passive, &[timeout]), [Change::WentDown]);
    }

    #[test]
    fn it_comes_back_by_what_it_has() {
        for (has_active, source) in
            [(true, Source::Active), (false, Source::Recovery), (false, Source::Passive)]
        {
            let rules = rules(has_active, false);
            let mut health = NodeHealth::new(Instant::now());
            feed(&mut health, &rules, Source::Passive, &[REFUSED]);
            let changes = feed(&mut health, &rules, source, &[Sign::Good, Sign::Good]);
            assert_eq!(changes, [Change::None, Change::CameUp], "{source:?}");
        }
    }

    #[test]
    fn on_trial_the_first_bad_sign_counts() {
        let rules = rules(false, true);
        let mut health = NodeHealth::new(Instant::now());
        feed(&mut health, &rules, Source::Passive, &[ERROR; 5]);
        assert_eq!(health.try_again(Instant::now()), Change::CameUp);
        assert_eq!(feed(&mut health, &rules, Source::Passive, &[ERROR]), [Change::WentDown]);
        health.try_again(Instant::now());
        assert_eq!(feed(&mut health, &rules, Source::Passive, &[Sign::Good, ERROR]), [Change::None; 2]);
    }

    #[test]
    fn running_out_of_descriptors_is_not_the_nodes_fault() {
        let mut health = NodeHealth::new(Instant::now());
        feed(&mut health, &rules(false, false), Source::Passive, &[Sign::Bad(Failure::Local); 10]);
        assert_eq!(health.down(), None);
    }

    #[test]
    fn a_limit_of_zero_turns_the_sign_off() {
        let limits = Limits { http_failures: 0, tcp_failures: 0, timeouts: 0, successes: 1 };
        let rules = NodeRules { active: Some(limits), passive: Some(limits), first_connect: false, rise: 1 };
        let mut health = NodeHealth::new(Instant::now());
        feed(&mut health, &rules, Source::Active, &[REFUSED; 9]);
        feed(&mut health, &rules, Source::Passive, &[ERROR; 9]);
        assert_eq!(health.down(), None);
    }
}
