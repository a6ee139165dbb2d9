//! The health of one line: up, down, or on its way back.
//!
//! A line is down once none of its nodes is up, at once. It is taken back when
//! a node is up again *and* its hold-down is over, so that traffic does not
//! swing with a line that flaps: each failure soon after a return doubles the
//! hold-down. Reads no clock.

use std::time::{Duration, Instant};

/// Doublings of the hold-down at most: ten seconds become five minutes.
const DOUBLINGS_MAX: u32 = 5;

/// A line that stayed up for this many hold-downs is steady again.
const STEADY: u32 = 6;

/// What a line is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct LineRules {
    /// Least time out; zero where there is no other line to take its place.
    pub(in crate::upstream) hold_down: Duration,
}

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum LineState {
    /// Takes traffic.
    Up,
    /// No node answers.
    Down,
    /// A node answers again; the hold-down is not over.
    Probing,
}

/// A line's health.
#[derive(Debug, Clone)]
pub(in crate::upstream) struct LineHealth {
    state: LineState,
    doublings: u32,
    hold_until: Instant,
    came_up: Option<Instant>,
    /// Since when it is as it is.
    pub(in crate::upstream) since: Instant,
}

impl LineHealth {
    /// A line nothing is known of: taken to be up.
    pub(in crate::upstream) fn new(now: Instant) -> Self {
        Self { state: LineState::Up, doublings: 0, hold_until: now, came_up: None, since: now }
    }

    pub(in crate::upstream) fn state(&self) -> LineState {
        self.state
    }

    /// When the hold-down ends, while the line is not up.
    pub(in crate::upstream) fn hold_until(&self) -> Option<Instant> {
        (self.state != LineState::Up).then_some(self.hold_until)
    }

    /// Times in a row it failed soon after it came back.
    pub(in crate::upstream) fn flaps(&self) -> u32 {
        self.doublings
    }

    /// Brings the state up to date with whether any node is up, and with the time.
    /// Returns whether it changed.
    pub(in crate::upstream) fn update(&mut self, rules: &LineRules, any_up: bool, now: Instant) -> bool {
        let next = match (self.state, any_up) {
            (LineState::Up, true) => LineState::Up,
            (_, false) => LineState::Down,
            (_, true) if now >= self.hold_until || rules.hold_down.is_zero() => LineState::Up,
            (_, true) => LineState::Probing,
        };
        if next == self.state {
            return false;
        }
        match next {
            LineState::Down => self.hold(rules, now),
            LineState::Up => self.came_up = Some(now),
            LineState::Probing => {}
        }
        self.state = next;
        self.since = now;
        true
    }

    /// Takes the line back without waiting: it just served traffic and no other can.
    pub(in crate::upstream) fn release(&mut self, now: Instant) -> bool {
        if self.state != LineState::Probing {
            return false;
        }
        self.state = LineState::Up;
        self.since = now;
        self.came_up = Some(now);
        true
    }

    fn hold(&mut self, rules: &LineRules, now: Instant) {
        let is_flapping = self.state == LineState::Probing
            || self.came_up.is_some_and(|at| now.saturating_duration_since(at) < rules.hold_down * STEADY);
        self.doublings = if is_flapping { (self.doublings + 1).min(DOUBLINGS_MAX) } else { 0 };
        self.hold_until = now + rules.hold_down * (1 << self.doublings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: LineRules = LineRules { hold_down: Duration::from_secs(10) };

    fn second(base: Instant, seconds: u64) -> Instant {
        base + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_down_at_once_and_back_after_both_a_good_node_and_the_hold_down() {
        let base = Instant::now();
        let mut line = LineHealth::new(base);
        assert!(line.update(&RULES, false, second(base, 100)));
        assert_eq!((line.state(), line.since), (LineState::Down, second(base, 100)));
        assert!(line.update(&RULES, true, second(base, 103)));
        assert_eq!(line.state(), LineState::Probing);
        assert!(!line.update(&RULES, true, second(base, 109)));
        assert!(line.update(&RULES, true, second(base, 110)));
        assert_eq!(line.state(), LineState::Up);
    }

    #[test]
    fn the_hold_down_alone_is_not_enough() {
        let base = Instant::now();
        let mut line = LineHealth::new(base);
        line.update(&RULES, false, base);
        assert!(!line.update(&RULES, false, second(base, 3600)));
        assert_eq!(line.state(), LineState::Down);
        line.update(&RULES, true, second(base, 3601));
        assert_eq!(line.state(), LineState::Up);
    }

    #[test]
    fn a_line_that_flaps_stays_out_longer_each_time_and_a_steady_one_is_forgiven() {
        let base = Instant::now();
        let mut line = LineHealth::new(base);
        let mut now = base;
        let mut holds = Vec::new();
        for _ in 0..8 {
            line.update(&RULES, false, now);
            let until = line.hold_until().unwrap();
            holds.push((until - now).as_secs());
            line.update(&RULES, true, until);
            assert_eq!(line.state(), LineState::Up);
            now = until + Duration::from_secs(1);
        }
        assert_eq!(holds, [10, 20, 40, 80, 160, 320, 320, 320]);
        now += RULES.hold_down * STEADY;
        line.update(&RULES, false, now);
        assert_eq!(line.hold_until(), Some(second(now, 10)));
    }

    #[test]
    fn failing_while_probing_begins_the_hold_down_anew() {
        let base = Instant::now();
        let mut line = LineHealth::new(base);
        line.update(&RULES, false, base);
        line.update(&RULES, true, second(base, 5));
        line.update(&RULES, false, second(base, 6));
        assert_eq!(line.hold_until(), Some(second(base, 26)));
    }

    #[test]
    fn the_only_line_waits_for_nothing() {
        let rules = LineRules { hold_down: Duration::ZERO };
        let base = Instant::now();
        let mut line = LineHealth::new(base);
        line.update(&rules, false, base);
        line.update(&rules, true, base);
        assert_eq!(line.state(), LineState::Up);
    }

    #[test]
    fn it_is_released_early_when_it_serves_and_nothing_else_does() {
        let base = Instant::now();
        let mut line = LineHealth::new(base);
        line.update(&RULES, false, base);
        assert!(!line.release(base));
        line.update(&RULES, true, second(base, 1));
        assert!(line.release(second(base, 1)));
        assert_eq!(line.state(), LineState::Up);
    }
}
