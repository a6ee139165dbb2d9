//! What a new configuration would do to the clients of an old one.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use crate::plan::Plan;
use crate::schema::{Field, Kind, MessageId, Shape};
use crate::settings::Number;

/// One thing a client of the old configuration may stumble over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaking {
    /// What it is about: a command, a field `im.v1.SendRequest.text`, a value of
    /// an enum.
    pub place: String,
    /// What has changed.
    pub change: String,
}

impl fmt::Display for Breaking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.change)
    }
}

/// What would break a client that was written for `old`, in the order of
/// commands and fields; empty when nothing would. Only messages that commands
/// use are looked at; what is new breaks nobody.
pub fn breaking(old: &Plan, new: &Plan) -> Vec<Breaking> {
    let mut comparison = Comparison { old, new, seen: HashSet::new(), found: Vec::new() };
    comparison.requests();
    comparison.incoming();
    comparison.found
}

struct Comparison<'a> {
    old: &'a Plan,
    new: &'a Plan,
    /// Pairs of messages that have been compared.
    seen: HashSet<(MessageId, MessageId)>,
    found: Vec<Breaking>,
}

impl Comparison<'_> {
    fn note(&mut self, place: impl fmt::Display, change: impl fmt::Display) {
        self.found.push(Breaking { place: place.to_string(), change: change.to_string() });
    }

    fn requests(&mut self) {
        let (old, new) = (self.old, self.new);
        for was in &old.requests {
            let place = format!("command {}", Number(was.command));
            let Some(is) = new.by_command.get(&was.command).map(|at| &new.requests[*at]) else {
                self.note(place, "is gone");
                continue;
            };
            if was.reply != is.reply {
                let show =
                    |reply: Option<u32>| reply.map_or("none".to_owned(), |reply| Number(reply).to_string());
                self.note(&place, format_args!("reply was {}, is {}", show(was.reply), show(is.reply)));
            }
            match (&was.route, &is.route) {
                (Some((method, uri)), None) => self.note(&place, format_args!("{method} {uri} is gone")),
                (Some(was), Some(is)) if was != is => {
                    self.note(&place, format_args!("{} {} is now {} {}", was.0, was.1, is.0, is.1));
                }
                _ => {}
            }
            if let Some(index) = is.user_field
                && was.user_field.is_none()
            {
                let name = &new.schema.message(is.message).fields[index].name;
                self.note(
                    &place,
                    format_args!("{name} is set from the caller's identity and refused in JSON"),
                );
            }
            self.messages(was.message, is.message);
        }
    }

    fn incoming(&mut self) {
        let (old, new) = (self.old, self.new);
        let commands: BTreeMap<_, _> = old.incoming.iter().collect();
        for (command, was) in commands {
            match new.incoming.get(command) {
                Some(is) => self.messages(was.message, is.message),
                None => {
                    self.note(format_args!("command {}", Number(*command)), "is no longer sent to clients")
                }
            }
        }
    }

    fn messages(&mut self, was: MessageId, is: MessageId) {
        if !self.seen.insert((was, is)) {
            return;
        }
        let (old, new) = (self.old, self.new);
        let (was, is) = (old.schema.message(was), new.schema.message(is));
        if was.known != is.known {
            self.note(&was.name, format_args!("is now {}", is.name));
            return;
        }
        for field in &was.fields {
            let place = format!("{}.{}", was.name, field.name);
            let by_number = is.index_of(field.number).map(|index| &is.fields[index]);
            let by_name = is.fields.iter().find(|other| other.name == field.name);
            match (by_number, by_name) {
                (None, None) => self.note(&place, "is gone"),
                (_, Some(other)) if other.number != field.number => {
                    self.note(&place, format_args!("had the number {}, has {}", field.number, other.number));
                }
                (Some(other), None) => {
                    self.note(&place, format_args!("number {} is now {}", field.number, other.name));
                }
                (Some(other), Some(_)) => self.fields(&place, field, other),
                (None, Some(_)) => {}
            }
        }
    }

    fn fields(&mut self, place: &str, was: &Field, is: &Field) {
        if was.json_name != is.json_name {
            self.note(place, format_args!("was {:?} in JSON, is {:?}", was.json_name, is.json_name));
        }
        let is_plural = |shape: Shape| matches!(shape, Shape::Repeated | Shape::Map);
        if was.shape != is.shape && (is_plural(was.shape) || is_plural(is.shape)) {
            self.note(place, format_args!("was {}, is {}", words(was.shape), words(is.shape)));
            return;
        }
        match (was.kind, is.kind) {
            (Kind::Message(was), Kind::Message(is)) => self.messages(was, is),
            (Kind::Enum(was), Kind::Enum(is)) => self.enums(was, is),
            (was, is) if was != is => {
                let (was, is) = (name(self.old, was), name(self.new, is));
                self.note(place, format_args!("was {was}, is {is}"));
            }
            _ => {}
        }
        if was.oneof == 0 && is.oneof != 0 {
            self.note(place, "is now one of several of which only one can be set");
        }
    }

    fn enums(&mut self, was: u32, is: u32) {
        let (old, new) = (self.old, self.new);
        let (was, is) = (old.schema.enumeration(was), new.schema.enumeration(is));
        let mut values: Vec<_> = was.values().collect();
        values.sort_unstable_by_key(|(name, number)| (*number, *name));
        for (name, number) in values {
            let change = match is.numbers.get(name.as_bytes()) {
                None => "is gone".to_owned(),
                Some(other) if *other != number => format!("had the number {number}, has {other}"),
                Some(_) => continue,
            };
            let found = Breaking { place: format!("{}.{name}", was.name), change };
            if !self.found.contains(&found) {
                self.found.push(found);
            }
        }
    }
}

fn words(shape: Shape) -> &'static str {
    match shape {
        Shape::Implicit | Shape::Explicit => "a single value",
        Shape::Repeated => "a list",
        Shape::Map => "a map",
    }
}

fn name(plan: &Plan, kind: Kind) -> String {
    match kind {
        Kind::Message(id) => plan.schema.message(id).name.to_string(),
        Kind::Enum(id) => plan.schema.enumeration(id).name.to_string(),
        kind => format!("{kind:?}").to_ascii_lowercase(),
    }
}
