//! Runs the rules of a phase.

use std::sync::Arc;

use super::candidates::Candidate;
use super::{Allowance, Denial, Transaction, Verdict};
use crate::lang::Power;
use crate::lang::actions::Allowed;
use crate::lang::variables::{Selector, Target, Variable};
use crate::operator::Found;
use crate::program::{Kind, Link, Outcome, Program, Rule};
use crate::text::table::TextId;

/// A value before an operator.
struct Shown<'a> {
    variable: Variable,
    name: Name<'a>,
    text: TextId,
}

/// The name of a value within its collection.
#[derive(Clone, Copy)]
enum Name<'a> {
    /// One of the table of texts.
    Text(TextId),
    /// One that was put together.
    Bytes(&'a [u8]),
}

impl Transaction {
    pub(super) fn run(&mut self, phase: u8) -> Verdict {
        let allowed = match self.allowed {
            Allowance::Nothing => false,
            Allowance::Request => phase <= 2,
            Allowance::Everything => phase <= 4,
        };
        if self.power == Power::Off || allowed {
            return Verdict::Pass;
        }
        let program = Arc::clone(&self.program);
        let verdict = if self.options.without_gates {
            self.run_all(&program, phase)
        } else {
            self.find_candidates(&program, phase);
            let candidates = std::mem::take(&mut self.scratch.candidates);
            let verdict = self.run_gated(&program, phase, &candidates);
            self.scratch.candidates = candidates;
            verdict
        };
        verdict.map_or(Verdict::Pass, Verdict::Deny)
    }

    /// Tries every rule on every value.
    fn run_all(&mut self, program: &Program, phase: u8) -> Option<Denial> {
        let table = &program.phases[usize::from(phase) - 1];
        let mut position = 0;
        while let Some(&number) = table.order.get(position as usize) {
            match self.rule(program, number, None) {
                Step::Next => position += 1,
                Step::Jump(to) => position = to.max(position + 1),
                Step::Stop(denial) => return denial,
            }
        }
        None
    }

    /// Tries the rules without gates, and the others on their candidates.
    fn run_gated(&mut self, program: &Program, phase: u8, candidates: &[Candidate]) -> Option<Denial> {
        let table = &program.phases[usize::from(phase) - 1];
        let (mut from, mut always, mut rest) = (0, table.always.as_slice(), candidates);
        loop {
            while always.first().is_some_and(|position| *position < from) {
                always = &always[1..];
            }
            while rest.first().is_some_and(|candidate| candidate.position() < from) {
                rest = &rest[1..];
            }
            let next_gated = rest.first().map(|candidate| candidate.position());
            let position = match (always.first(), next_gated) {
                (Some(&always), Some(gated)) => always.min(gated),
                (Some(&position), None) | (None, Some(position)) => position,
                (None, None) => return None,
            };
            let number = table.order[position as usize];
            let own = if next_gated == Some(position) {
                let length = rest.iter().take_while(|candidate| candidate.position() == position).count();
                Some(&rest[..length])
            } else {
                None
            };
            match self.rule(program, number, own) {
                Step::Next => from = position + 1,
                Step::Jump(to) => from = to.max(position + 1),
                Step::Stop(denial) => return denial,
            }
        }
    }

    fn rule(&mut self, program: &Program, number: u32, candidates: Option<&[Candidate]>) -> Step {
        if self.removed[number as usize / 64] >> (number % 64) & 1 == 1 {
            return Step::Next;
        }
        let rule = &program.rules[number as usize];
        self.current = number;
        self.matched.clear();
        for (at, link) in rule.links.iter().enumerate() {
            let candidates = candidates.filter(|_| at == 0);
            if !self.link(program, (number, at as u32), link, candidates) {
                return Step::Next;
            }
        }
        self.matched_whole(program, rule)
    }

    fn matched_whole(&mut self, program: &Program, rule: &Rule) -> Step {
        let blocks = matches!(rule.outcome, Outcome::Deny(_) | Outcome::Redirect(..));
        if let Some(severity) = rule.severity {
            self.highest_severity = self.highest_severity.min(severity);
        }
        if rule.log {
            self.report(program, rule, blocks);
        }
        let denial = |status: u16, location: Option<Vec<u8>>, transaction: &Self| {
            let reason = transaction.matches.last().filter(|found| found.rule == rule.id && rule.log);
            let reason = reason.map(|found| found.message.clone()).unwrap_or_default();
            Step::Stop(Some(Denial { status, rule: rule.id, location, reason }))
        };
        match &rule.outcome {
            Outcome::Deny(status) if self.power == Power::On && rule.phase < 5 => {
                return denial(*status, None, self);
            }
            Outcome::Redirect(status, to) if self.power == Power::On && rule.phase < 5 => {
                let location = self.expand(program, to);
                return denial(*status, Some(location), self);
            }
            Outcome::Allow(allowed) => {
                match allowed {
                    Allowed::Phase => {}
                    Allowed::Request => self.allowed = Allowance::Request,
                    Allowed::Everything => self.allowed = Allowance::Everything,
                }
                return Step::Stop(None);
            }
            _ => {}
        }
        if self.power == Power::Off {
            return Step::Stop(None);
        }
        rule.skip_to.map_or(Step::Next, Step::Jump)
    }

    fn link(
        &mut self,
        program: &Program,
        at: (u32, u32),
        link: &Link,
        candidates: Option<&[Candidate]>,
    ) -> bool {
        if link.targets.included.is_empty() {
            self.apply(program, at, link);
            return true;
        }
        let argument = link.operator.template().map(|value| self.expand(program, value));
        let mut any = false;
        for target in &link.targets.included {
            let kinds = Kind::of(target.variable);
            if target.count || kinds.is_empty() {
                any |= self.on_computed(program, at, link, target, argument.as_deref());
                continue;
            }
            for &kind in kinds {
                match candidates {
                    Some(candidates) => {
                        for candidate in
                            candidates.iter().filter(|candidate| candidate.kind() == kind as usize)
                        {
                            any |= self.on_item(
                                program,
                                at,
                                link,
                                target,
                                kind,
                                candidate.index(),
                                argument.as_deref(),
                            );
                        }
                    }
                    None => {
                        for index in 0..self.values[kind as usize].len() {
                            any |= self.on_item(program, at, link, target, kind, index, argument.as_deref());
                        }
                    }
                }
            }
        }
        any
    }

    #[allow(clippy::too_many_arguments, reason = "one value of many, on the hot path")]
    fn on_item(
        &mut self,
        program: &Program,
        at: (u32, u32),
        link: &Link,
        target: &Target,
        kind: Kind,
        index: usize,
        argument: Option<&[u8]>,
    ) -> bool {
        let item = self.values[kind as usize][index];
        let name = self.texts.get(item.name);
        if !target.selector.accepts(name) || self.is_left_out(program, at, link, target.variable, name) {
            return false;
        }
        let shown = Shown { variable: target.variable, name: Name::Text(item.name), text: item.text };
        self.show(program, at, link, shown, argument)
    }

    fn on_computed(
        &mut self,
        program: &Program,
        at: (u32, u32),
        link: &Link,
        target: &Target,
        argument: Option<&[u8]>,
    ) -> bool {
        let mut values = self.values_of(program, target);
        values.retain(|(name, _)| !self.is_left_out(program, at, link, target.variable, name));
        if target.count {
            let text = self.texts.intern(values.len().to_string().as_bytes());
            let name = match &target.selector {
                Selector::Key(key) => key.to_vec(),
                _ => Vec::new(),
            };
            let shown = Shown { variable: target.variable, name: Name::Bytes(&name), text };
            return self.show(program, at, link, shown, argument);
        }
        let mut any = false;
        for (name, text) in &values {
            let shown = Shown { variable: target.variable, name: Name::Bytes(name), text: *text };
            any |= self.show(program, at, link, shown, argument);
        }
        any
    }

    /// Whether a rule leaves out this value, by what it says itself or by what
    /// another rule has done.
    fn is_left_out(
        &self,
        program: &Program,
        at: (u32, u32),
        link: &Link,
        variable: Variable,
        name: &[u8],
    ) -> bool {
        let means = |target: &Target| same(target.variable, variable) && target.selector.accepts(name);
        if link.targets.excluded.iter().any(means) {
            return true;
        }
        at.1 == 0
            && self.removed_targets.iter().any(|&(rule, link, control)| {
                match &program.rules[rule as usize].links[link as usize].controls[control as usize] {
                    crate::program::Control::RemoveTarget(rules, target) => {
                        rules.binary_search(&at.0).is_ok() && means(target)
                    }
                    _ => false,
                }
            })
    }

    /// Shows a value to the operator, after the transformations.
    fn show(
        &mut self,
        program: &Program,
        at: (u32, u32),
        link: &Link,
        shown: Shown<'_>,
        argument: Option<&[u8]>,
    ) -> bool {
        let mut text = shown.text;
        if link.multi_match {
            if self.try_text(program, at, link, &shown, text, argument) {
                return true;
            }
            for (transform, trigger) in &link.transforms {
                let next = self.texts.transformed(text, *transform, trigger);
                if next != text && self.try_text(program, at, link, &shown, next, argument) {
                    return true;
                }
                text = next;
            }
            return false;
        }
        for (transform, trigger) in &link.transforms {
            text = self.texts.transformed(text, *transform, trigger);
        }
        self.try_text(program, at, link, &shown, text, argument)
    }

    fn try_text(
        &mut self,
        program: &Program,
        at: (u32, u32),
        link: &Link,
        shown: &Shown<'_>,
        text: TextId,
        argument: Option<&[u8]>,
    ) -> bool {
        let found = self.test(at, link, text, argument);
        if found.is_some() == link.negated {
            return false;
        }
        let mut name = shown.variable.name().as_bytes().to_vec();
        let own = match shown.name {
            Name::Text(id) => self.texts.get(id),
            Name::Bytes(bytes) => bytes,
        };
        if !own.is_empty() {
            name.push(b':');
            name.extend_from_slice(own);
        }
        self.matched.push((name, text));
        if let (true, Some(found)) = (link.capture, found) {
            self.capture(program, text, &found);
        }
        self.apply(program, at, link);
        true
    }

    /// What the operator finds, unless it has found nothing in this text before.
    fn test(&mut self, at: (u32, u32), link: &Link, text: TextId, argument: Option<&[u8]>) -> Option<Found> {
        let is_dear = link.operator.is_dear();
        if is_dear && self.texts.is_clean(text, at) {
            return None;
        }
        let mut expand = |_: &_| argument.unwrap_or_default().to_vec();
        let found = link.operator.test(self.texts.get(text), link.capture, &mut expand);
        if is_dear && found.is_none() {
            self.texts.note_clean(text, at);
        }
        found
    }

    fn capture(&mut self, program: &Program, text: TextId, found: &Found) {
        for (digit, &number) in program.groups.iter().enumerate() {
            let group = found.groups.get(digit).copied().flatten();
            let value = match (digit, group, &found.note) {
                (_, Some((start, end)), _) => {
                    crate::program::TxValue::Text(self.texts.get(text)[start..end].to_vec())
                }
                (0, None, Some(note)) => crate::program::TxValue::Text(note.clone()),
                (0, None, None) => crate::program::TxValue::Text(self.texts.get(text).to_vec()),
                _ => crate::program::TxValue::Absent,
            };
            self.tx[number as usize] = Some(value);
        }
    }
}

/// Whether values of one variable are values of the other.
fn same(one: Variable, other: Variable) -> bool {
    one == other || Kind::of(one).iter().any(|kind| Kind::of(other).contains(kind))
}

/// How to go on after a rule.
enum Step {
    Next,
    Jump(u32),
    Stop(Option<Denial>),
}
