//! What follows from a match: variables, changes to the engine, reports.

use super::{Match, Transaction};
use crate::lang::actions::{Change, SetVariable};
use crate::lang::macros::{Macro, Part};
use crate::operator::number as number_of;
use crate::program::{Control, Link, Program, Rule, TxValue};

/// The most characters of a text that go to the log.
const LOGGED_MAX: usize = 200;
/// The most variables that rules may set by names they put together.
const VARIABLES_MAX: usize = 4096;

impl Transaction {
    /// The value of a variable of `TX`.
    pub(super) fn tx_value(&self, number: u32) -> &TxValue {
        match &self.tx[number as usize] {
            Some(value) => value,
            None => &self.program.initial[number as usize],
        }
    }

    /// Does what a link that has matched a value says.
    pub(super) fn apply(&mut self, program: &Program, at: (u32, u32), link: &Link) {
        for set in &link.sets {
            self.set(program, set);
        }
        for (number, control) in link.controls.iter().enumerate() {
            self.control(control, (at.0, at.1, number as u32));
        }
    }

    fn set(&mut self, program: &Program, set: &SetVariable) {
        let operand = match &set.change {
            Change::Unset => Vec::new(),
            Change::Set(value) | Change::Add(value) | Change::Subtract(value) => self.expand(program, value),
        };
        let place = self.place(program, set);
        let old = match &place {
            Place::Numbered(number) => self.tx_value(*number).clone(),
            Place::Tx(name) => find(&self.tx_more, name),
            Place::Other(name) => find(&self.others, name),
        };
        let new = match set.change {
            Change::Unset => TxValue::Absent,
            Change::Set(_) => TxValue::Text(operand),
            Change::Add(_) => TxValue::Number(old.number().saturating_add(number_of(&operand))),
            Change::Subtract(_) => TxValue::Number(old.number().saturating_sub(number_of(&operand))),
        };
        match place {
            Place::Numbered(number) => self.tx[number as usize] = Some(new),
            Place::Tx(name) => store(&mut self.tx_more, name, new),
            Place::Other(name) => store(&mut self.others, name, new),
        }
    }

    fn place(&self, program: &Program, set: &SetVariable) -> Place {
        if let Some(number) = set.number {
            return Place::Numbered(number);
        }
        let name = self.expand(program, &set.name).to_ascii_lowercase();
        if set.collection != "tx" {
            return Place::Other([set.collection.as_bytes(), b".", &name].concat());
        }
        program.names.known(&name).map_or(Place::Tx(name), Place::Numbered)
    }

    fn control(&mut self, control: &Control, at: (u32, u32, u32)) {
        match control {
            Control::Remove(rules) => {
                for rule in rules {
                    self.removed[*rule as usize / 64] |= 1 << (rule % 64);
                }
            }
            Control::RemoveTarget(..) => {
                if !self.removed_targets.contains(&at) {
                    self.removed_targets.push(at);
                }
            }
            Control::ForceRequestBody(on) => self.body.forced = *on,
            Control::BodyProcessor(name) => self.body.processor.clone_from(name),
            Control::RequestBodyAccess(on) => self.body.access = Some(*on),
            Control::Engine(power) => {
                // What only detects as configured does not begin to deny.
                let detects = self.options.detect_only && *power == crate::lang::Power::On;
                self.power = if detects { crate::lang::Power::DetectionOnly } else { *power };
            }
        }
    }

    /// A text with its marks filled in.
    pub(super) fn expand(&self, program: &Program, text: &Macro) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &text.parts {
            match part {
                Part::Text(plain) => out.extend_from_slice(plain),
                Part::Value(target) => self.write_first(program, target, &mut out),
            }
        }
        out
    }

    pub(super) fn report(&mut self, program: &Program, rule: &Rule, blocks: bool) {
        let text = |text: &Option<Macro>| {
            let text = text.as_ref().map(|text| self.expand(program, text)).unwrap_or_default();
            String::from_utf8_lossy(&text).chars().take(LOGGED_MAX).collect::<String>()
        };
        let (message, data) = (text(&rule.message), text(&rule.log_data));
        let found =
            Match { rule: rule.id, phase: rule.phase, message, data, severity: rule.severity, blocks };
        self.matches.push(found);
    }
}

enum Place {
    Numbered(u32),
    Tx(Vec<u8>),
    Other(Vec<u8>),
}

fn find(list: &[(Vec<u8>, TxValue)], name: &[u8]) -> TxValue {
    list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn store(list: &mut Vec<(Vec<u8>, TxValue)>, name: Vec<u8>, value: TxValue) {
    match list.iter().position(|(known, _)| *known == name) {
        Some(at) => list[at].1 = value,
        None if list.len() < VARIABLES_MAX => list.push((name, value)),
        None => {}
    }
}
