//! Works out at load what is the same for every request.
//!
//! Rule sets begin with dozens of rules that give variables their defaults,
//! and before every group of rules stands one that jumps over it if the
//! paranoia level is too low. What such rules do depends on the rules alone.
//! This module runs phase 1 on what is known, variable by variable, and takes
//! out every rule whose outcome is known: its variables go to the values every
//! transaction begins with, and what it jumps over goes with it.
//!
//! A variable is known until a rule that stays can change it. A rule that
//! stays may also read: what it reads is from then on no longer set ahead of
//! time, for it would see a later value.

use std::collections::HashSet;

use super::Entry;
use crate::lang::actions::{Change, SetVariable};
use crate::lang::macros::{Macro, Part};
use crate::lang::variables::{Selector, Target, Variable};
use crate::names::Names;
use crate::operator::number as number_of;
use crate::program::{Link, Outcome, TxValue};

/// What is known of the variables.
pub(super) struct Known<'a> {
    names: &'a Names,
    /// None: it depends on the request.
    values: Vec<Option<TxValue>>,
    /// Rules that stay and ran before read these.
    read: HashSet<u32>,
    /// Such a rule reads names by pattern: nothing can be set ahead of time.
    all_read: bool,
    /// What every transaction begins with.
    initial: Vec<TxValue>,
}

enum Verdict {
    /// The rule does this on every request.
    Always,
    /// It never matches.
    Never,
    /// It depends on the request.
    Depends,
}

/// Takes out the rules whose outcome is known; returns the variables every
/// transaction begins with.
pub(super) fn fold(entries: &mut Vec<Entry>, names: &Names) -> Vec<TxValue> {
    let mut known = Known {
        names,
        values: vec![Some(TxValue::Absent); names.len()],
        read: HashSet::new(),
        all_read: false,
        initial: vec![TxValue::Absent; names.len()],
    };
    // Groups of a match.
    for digit in b'0'..=b'9' {
        if let Some(number) = names.known(&[digit]) {
            known.values[number as usize] = None;
        }
    }
    let mut gone = vec![false; entries.len()];
    for phase in 1..=5 {
        known.phase(entries, phase, &mut gone);
    }
    let initial = known.initial;
    let mut gone = gone.into_iter();
    entries.retain(|_| !gone.next().unwrap_or(false));
    initial
}

impl Known<'_> {
    fn phase(&mut self, entries: &[Entry], phase: u8, gone: &mut [bool]) {
        // Jumped over for certain, and jumped over perhaps.
        let mut skipping: Option<&str> = None;
        let mut perhaps: Vec<&str> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let rule = match entry {
                Entry::Marker(name) => {
                    if skipping == Some(name) {
                        skipping = None;
                    }
                    perhaps.retain(|open| open != name);
                    continue;
                }
                Entry::Rule(rule) if rule.rule.phase == phase => rule,
                Entry::Rule(_) => continue,
            };
            if skipping.is_some() {
                gone[index] = true;
                continue;
            }
            match self.verdict(rule) {
                Verdict::Never => gone[index] = true,
                Verdict::Always if perhaps.is_empty() && self.can_go(rule, phase) => {
                    for link in &rule.rule.links {
                        self.apply(&link.sets);
                    }
                    gone[index] = true;
                    skipping = rule.skip_after.as_deref();
                }
                Verdict::Always | Verdict::Depends => {
                    for link in &rule.rule.links {
                        self.keep(link);
                    }
                    perhaps.extend(rule.skip_after.as_deref());
                }
            }
        }
    }

    /// Whether a rule that does the same on every request can be done now.
    fn can_go(&self, draft: &super::Draft, phase: u8) -> bool {
        let silent = !draft.rule.log || draft.rule.message.is_none();
        silent
            && draft.skip == 0
            && draft.controls.is_empty()
            && matches!(draft.rule.outcome, Outcome::Pass)
            && draft.rule.links.iter().all(|link| {
                !link.capture
                    && (phase == 1 || link.sets.is_empty())
                    && link.sets.iter().all(|set| self.can_set(set))
            })
    }

    fn can_set(&self, set: &SetVariable) -> bool {
        let value_known = match &set.change {
            Change::Unset => true,
            Change::Set(value) | Change::Add(value) | Change::Subtract(value) => self.expand(value).is_some(),
        };
        let Some(number) = set.number.filter(|_| set.collection == "tx") else { return false };
        value_known
            && !self.all_read
            && !self.read.contains(&number)
            && self.values[number as usize].is_some()
    }

    fn apply(&mut self, sets: &[SetVariable]) {
        for set in sets {
            let Some(number) = set.number else { continue };
            let old = self.values[number as usize].clone().unwrap_or_default();
            let operand = |value: &Macro| self.expand(value).unwrap_or_default();
            let new = match &set.change {
                Change::Unset => TxValue::Absent,
                Change::Set(value) => TxValue::Text(operand(value)),
                Change::Add(value) => {
                    TxValue::Number(old.number().saturating_add(number_of(&operand(value))))
                }
                Change::Subtract(value) => {
                    TxValue::Number(old.number().saturating_sub(number_of(&operand(value))))
                }
            };
            self.values[number as usize] = Some(new.clone());
            self.initial[number as usize] = new;
        }
    }

    /// Notes what a rule that stays can change and what it reads.
    fn keep(&mut self, link: &Link) {
        for target in &link.targets.included {
            self.note_read(target);
        }
        if let Some(value) = link.operator.template() {
            self.note_macro(value);
        }
        for set in &link.sets {
            match &set.change {
                Change::Unset => {}
                Change::Set(value) | Change::Add(value) | Change::Subtract(value) => self.note_macro(value),
            }
            if set.collection != "tx" {
                continue;
            }
            match set.number {
                Some(number) => {
                    // Adding to a variable reads it.
                    self.read.insert(number);
                    self.values[number as usize] = None;
                }
                None => self.forget_beginning_with(&set.name.beginning().to_ascii_lowercase()),
            }
        }
    }

    fn forget_beginning_with(&mut self, beginning: &[u8]) {
        for number in 0..self.names.len() as u32 {
            if self.names.name(number).starts_with(beginning) {
                self.values[number as usize] = None;
            }
        }
    }

    fn note_macro(&mut self, value: &Macro) {
        for part in &value.parts {
            if let Part::Value(target) = part {
                self.note_read(target);
            }
        }
    }

    fn note_read(&mut self, target: &Target) {
        if target.variable != Variable::Tx {
            return;
        }
        match target.number {
            Some(number) => {
                self.read.insert(number);
            }
            None => self.all_read = true,
        }
    }

    fn verdict(&self, draft: &super::Draft) -> Verdict {
        let links = &draft.rule.links;
        for (at, link) in links.iter().enumerate() {
            // What a link before has done stays done, whether this one matches or not.
            let decided = links[..at].iter().all(|link| link.sets.is_empty())
                && draft.controls.iter().all(|(link, _)| *link >= at);
            match self.test(link) {
                Some(true) if decided => {}
                Some(false) if decided => return Verdict::Never,
                _ => return Verdict::Depends,
            }
        }
        Verdict::Always
    }

    /// Whether a link matches; none if that depends on the request.
    fn test(&self, link: &Link) -> Option<bool> {
        if link.targets.included.is_empty() {
            return Some(true);
        }
        if !link.targets.excluded.is_empty() {
            return None;
        }
        if let Some(value) = link.operator.template() {
            self.expand(value)?;
        }
        let mut matched = false;
        for target in &link.targets.included {
            let number = target.number.filter(|_| matches!(target.selector, Selector::Key(_)))?;
            let value = self.values[number as usize].as_ref()?;
            let text = match (target.count, value.text()) {
                (true, text) => Some(usize::from(text.is_some()).to_string().into_bytes()),
                (false, text) => text,
            };
            let Some(mut text) = text else { continue };
            for (transform, _) in &link.transforms {
                let mut out = Vec::new();
                transform.apply(&text, &mut out);
                text = out;
            }
            let found = link.operator.test(&text, false, &mut |value| self.expand(value).unwrap_or_default());
            matched |= found.is_some() != link.negated;
        }
        Some(matched)
    }

    fn expand(&self, value: &Macro) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        for part in &value.parts {
            match part {
                Part::Text(plain) => text.extend_from_slice(plain),
                Part::Value(target) if target.variable == Variable::Tx => {
                    text.extend(self.values[target.number? as usize].as_ref()?.text().unwrap_or_default());
                }
                Part::Value(_) => return None,
            }
        }
        Some(text)
    }
}
