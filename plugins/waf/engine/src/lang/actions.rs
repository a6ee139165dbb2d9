//! What rules do.

use super::macros::{self, Macro};
use super::variables::{self, Target};
use super::{Chosen, Power, ids, power, switch};
use crate::names::Names;
use crate::text::transform::Transform;

/// The actions of one rule.
#[derive(Debug, Clone, Default)]
pub struct Actions {
    /// The rule's number.
    pub id: Option<u32>,
    /// 1 to 5.
    pub phase: Option<u8>,
    /// `t:none` stood among the transformations: those inherited do not count.
    pub transforms_reset: bool,
    /// The transformations after the last `t:none`.
    pub transforms: Vec<Transform>,
    /// What becomes of the request.
    pub disruption: Option<Disruption>,
    /// The status of a denial.
    pub status: Option<u16>,
    /// The next rule belongs to this one.
    pub chain: bool,
    /// Groups of the match go to `TX:0` to `TX:9`.
    pub capture: bool,
    /// The operator looks at the text after every transformation.
    pub multi_match: bool,
    /// `log` or `nolog`.
    pub log: Option<bool>,
    /// For the log.
    pub message: Option<Macro>,
    /// For the log.
    pub log_data: Option<Macro>,
    /// Words by which rules are chosen.
    pub tags: Vec<String>,
    /// 0 (emergency) to 7 (debug).
    pub severity: Option<u8>,
    /// Rules up to this marker are left out.
    pub skip_after: Option<String>,
    /// So many rules are left out.
    pub skip: u32,
    /// Variables that are set.
    pub sets: Vec<SetVariable>,
    /// Changes to the engine for this transaction.
    pub controls: Vec<Control>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Disruption {
    /// What the phase's default action says.
    Block,
    /// Nothing.
    Pass,
    /// It is denied; also `drop`.
    Deny,
    /// It is sent elsewhere.
    Redirect(Macro),
    /// No more rules look at it.
    Allow(Allowed),
}

/// How far `allow` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// To the end of the transaction, but for logging.
    Everything,
    /// To the end of the phase.
    Phase,
    /// To the end of the request.
    Request,
}

/// `setvar`.
#[derive(Debug, Clone, PartialEq)]
pub struct SetVariable {
    /// `tx`, `ip`, `global`, `session`, `user`, `resource`.
    pub collection: String,
    /// The variable's name; marks are filled in.
    pub name: Macro,
    /// Of `tx`, where the name has no marks: its number.
    pub number: Option<u32>,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of a variable.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It gets this value.
    Set(Macro),
    /// This is added.
    Add(Macro),
    /// This is taken off.
    Subtract(Macro),
    /// It is there no longer.
    Unset,
}

/// `ctl`.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// Rules that do not run any more.
    Remove(Chosen),
    /// A target that rules do not look at any more.
    RemoveTarget(Chosen, Target),
    /// `REQUEST_BODY` is filled in any case.
    ForceRequestBody(bool),
    /// How the body is read.
    BodyProcessor(String),
    /// Whether the body is read.
    RequestBodyAccess(bool),
    /// Whether the engine acts.
    Engine(Power),
    /// One that has no meaning here.
    Ignored,
}

/// Reads a list of actions.
pub fn parse(text: &str, names: &mut Names) -> Result<Actions, String> {
    let mut actions = Actions::default();
    for part in split(text) {
        let (name, value) = match part.split_once(':') {
            Some((name, value)) => (name.trim(), unquoted(value.trim())),
            None => (part.trim(), String::new()),
        };
        one(&mut actions, &name.to_ascii_lowercase(), &value, names)
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(actions)
}

fn one(actions: &mut Actions, name: &str, value: &str, names: &mut Names) -> Result<(), String> {
    match name {
        "id" => actions.id = Some(value.parse().map_err(|_| format!("{value:?} is no rule id"))?),
        "phase" => actions.phase = Some(phase(value)?),
        "t" => transform(actions, value)?,
        "block" => actions.disruption = Some(Disruption::Block),
        "pass" => actions.disruption = Some(Disruption::Pass),
        "deny" | "drop" => actions.disruption = Some(Disruption::Deny),
        "redirect" => actions.disruption = Some(Disruption::Redirect(macros::parse(value, names))),
        "allow" => actions.disruption = Some(Disruption::Allow(allowed(value)?)),
        "status" => actions.status = Some(value.parse().map_err(|_| format!("{value:?} is no status"))?),
        "chain" => actions.chain = true,
        "capture" => actions.capture = true,
        "multimatch" => actions.multi_match = true,
        "log" => actions.log = Some(true),
        "nolog" => actions.log = Some(false),
        "msg" => actions.message = Some(macros::parse(value, names)),
        "logdata" => actions.log_data = Some(macros::parse(value, names)),
        "tag" => actions.tags.push(value.to_owned()),
        "severity" => actions.severity = Some(severity(value)?),
        "skipafter" => actions.skip_after = Some(value.to_owned()),
        "skip" => actions.skip = value.parse().map_err(|_| format!("{value:?} is no number"))?,
        "setvar" => actions.sets.push(set_variable(value, names)?),
        "ctl" => actions.controls.push(control(value, names)?),
        "auditlog"
        | "noauditlog"
        | "ver"
        | "rev"
        | "maturity"
        | "accuracy"
        | "initcol"
        | "expirevar"
        | "deprecatevar"
        | "setenv"
        | "setuid"
        | "setsid"
        | "setrsc"
        | "sanitisearg"
        | "sanitisematched"
        | "sanitisematchedbytes"
        | "sanitiserequestheader"
        | "sanitiseresponseheader"
        | "xmlns"
        | "" => {}
        "exec" | "proxy" | "pause" | "append" | "prepend" => {
            return Err("this action is not supported".into());
        }
        _ => return Err("no action of this name is known".into()),
    }
    Ok(())
}

fn phase(value: &str) -> Result<u8, String> {
    match value.to_ascii_lowercase().as_str() {
        "request" => Ok(2),
        "response" => Ok(4),
        "logging" => Ok(5),
        value => match value.parse() {
            Ok(phase @ 1..=5) => Ok(phase),
            _ => Err(format!("{value:?} is no phase, from 1 to 5")),
        },
    }
}

fn transform(actions: &mut Actions, value: &str) -> Result<(), String> {
    if value.eq_ignore_ascii_case("none") {
        actions.transforms.clear();
        actions.transforms_reset = true;
        return Ok(());
    }
    let transform =
        Transform::from_name(value).ok_or_else(|| format!("no transformation is called {value:?}"))?;
    actions.transforms.push(transform);
    Ok(())
}

fn allowed(value: &str) -> Result<Allowed, String> {
    match value.to_ascii_lowercase().as_str() {
        "" => Ok(Allowed::Everything),
        "phase" => Ok(Allowed::Phase),
        "request" => Ok(Allowed::Request),
        _ => Err(format!("{value:?} is not phase or request")),
    }
}

fn severity(value: &str) -> Result<u8, String> {
    const NAMES: [&str; 8] =
        ["EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"];
    match NAMES.iter().position(|name| name.eq_ignore_ascii_case(value)) {
        Some(at) => Ok(at as u8),
        None => {
            value.parse().ok().filter(|number| *number < 8).ok_or_else(|| format!("{value:?} is no severity"))
        }
    }
}

fn set_variable(text: &str, names: &mut Names) -> Result<SetVariable, String> {
    let (unset, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    let (full_name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value)),
        None => (text.trim(), None),
    };
    let (collection, name) = full_name
        .split_once(['.', ':'])
        .ok_or_else(|| format!("{full_name:?} is no variable of a collection"))?;
    let collection = collection.to_ascii_lowercase();
    if !["tx", "ip", "global", "session", "user", "resource", "env"].contains(&collection.as_str()) {
        return Err(format!("nothing can be set in {collection:?}"));
    }
    let name = macros::parse(name, names);
    let number = match name.constant() {
        Some(name) if collection == "tx" => Some(names.number(name)),
        _ => None,
    };
    let change = match value {
        _ if unset => Change::Unset,
        None => Change::Set(macros::parse("1", names)),
        Some(value) => match value.as_bytes().first() {
            Some(b'+') => Change::Add(macros::parse(&value[1..], names)),
            Some(b'-') => Change::Subtract(macros::parse(&value[1..], names)),
            _ => Change::Set(macros::parse(value, names)),
        },
    };
    Ok(SetVariable { collection, name, number, change })
}

fn control(text: &str, names: &mut Names) -> Result<Control, String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} sets nothing"))?;
    let value = value.trim();
    let with_target = |names: &mut Names| -> Result<(String, Target), String> {
        let (chosen, target) = value.split_once(';').ok_or_else(|| format!("{value:?} names no target"))?;
        Ok((chosen.to_owned(), variables::parse_one(target.trim(), false, names)?))
    };
    Ok(match name.trim().to_ascii_lowercase().as_str() {
        "ruleremovebyid" => Control::Remove(ids(value)?),
        "ruleremovebytag" => Control::Remove(Chosen::Tag(value.into())),
        "ruleremovebymsg" => Control::Remove(Chosen::Message(value.into())),
        "ruleremovetargetbyid" => {
            let (chosen, target) = with_target(names)?;
            Control::RemoveTarget(ids(&chosen)?, target)
        }
        "ruleremovetargetbytag" => {
            let (chosen, target) = with_target(names)?;
            Control::RemoveTarget(Chosen::Tag(chosen), target)
        }
        "ruleremovetargetbymsg" => {
            let (chosen, target) = with_target(names)?;
            Control::RemoveTarget(Chosen::Message(chosen), target)
        }
        "forcerequestbodyvariable" => Control::ForceRequestBody(switch(value)?),
        "requestbodyprocessor" => Control::BodyProcessor(value.to_ascii_uppercase()),
        "requestbodyaccess" => Control::RequestBodyAccess(switch(value)?),
        "ruleengine" => Control::Engine(power(value)?),
        "auditengine" | "auditlogparts" | "debugloglevel" | "responsebodyaccess" | "requestbodylimit"
        | "responsebodylimit" | "hashengine" | "hashenforcement" | "parsexmlintoargs" => Control::Ignored,
        other => return Err(format!("no setting is called {other:?}")),
    })
}

/// Parts at commas that stand outside of single quotes.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\\' => {
                escaped = !escaped;
                continue;
            }
            b'\'' if !escaped => quoted = !quoted,
            b',' if !quoted => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Takes off single quotes around a value and the backslashes before single
/// quotes within.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value);
    inner.replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_with_quotes_commas_and_marks() {
        let mut names = Names::default();
        let text = "id:942100,phase:2,block,capture,t:none,t:urlDecodeUni,t:lowercase,msg:'It\\'s, %{TX.0}: bad',\
                    tag:'OWASP_CRS',severity:'CRITICAL',setvar:'tx.score=+%{tx.critical}',setvar:!tx.gone,\
                    ctl:ruleRemoveTargetByTag=CRS;ARGS:pwd,skipAfter:END";
        let actions = parse(text, &mut names).unwrap();
        assert_eq!((actions.id, actions.phase, actions.severity), (Some(942_100), Some(2), Some(2)));
        assert_eq!(actions.transforms, [Transform::UrlDecodeUni, Transform::Lowercase]);
        assert_eq!(actions.message.unwrap().parts.len(), 3);
        assert_eq!(actions.sets.len(), 2);
        assert!(matches!(&actions.sets[0].change, Change::Add(_)));
        assert_eq!(actions.sets[1].change, Change::Unset);
        assert!(matches!(&actions.controls[0], Control::RemoveTarget(Chosen::Tag(tag), _) if tag == "CRS"));
        assert_eq!(actions.skip_after.as_deref(), Some("END"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("id:x", "id: \"x\" is no rule id"),
            ("t:rot13", "t: no transformation is called \"rot13\""),
            ("explode", "explode: no action of this name is known"),
            ("phase:9", "phase: \"9\" is no phase, from 1 to 5"),
            ("exec:/bin/sh", "exec: this action is not supported"),
        ] {
            assert_eq!(parse(text, &mut Names::default()).unwrap_err(), expected);
        }
    }
}
