//! From directives to tables.

mod fold;
mod gates;

use std::sync::Arc;

use crate::lang::actions::{self, Actions, Disruption};
use crate::lang::operators::OperatorText;
use crate::lang::variables::Targets;
use crate::lang::{self, Chosen, Directive, Kind, LoadError, Place, Power, RuleText};
use crate::names::Names;
use crate::operator::{Files, Operator};
use crate::pattern::Pattern;
use crate::program::{Control, Link, Outcome, Program, Rule};
use crate::text::transform::Transform;
use crate::{Options, Source};

/// How deep files may include each other.
const INCLUDES_MAX: usize = 16;

/// What stands between the first rule and the last.
pub(crate) enum Entry {
    Rule(Box<Draft>),
    Marker(String),
}

/// A rule whose place in its phase is not known yet.
pub(crate) struct Draft {
    pub(crate) rule: Rule,
    pub(crate) skip_after: Option<String>,
    pub(crate) skip: u32,
    /// `ctl` of each link, with the link's number.
    controls: Vec<(usize, actions::Control)>,
    place: Place,
}

struct Compiler<'a> {
    names: Names,
    files: &'a dyn Files,
    entries: Vec<Entry>,
    defaults: Vec<Actions>,
    /// The last rule ends in `chain`.
    chain_open: Option<Place>,
    updates: Vec<(Place, Kind)>,
    power: Power,
    request_body: bool,
    response_body: bool,
    separator: u8,
    warnings: Vec<String>,
}

/// Compiles rules. The error names file, line and directive.
pub(crate) fn compile(
    sources: &[Source],
    options: &Options,
    files: &dyn Files,
) -> Result<Program, LoadError> {
    let mut names = Names::default();
    let mut directives = Vec::new();
    for source in sources {
        read(source, sources, files, &mut names, &mut directives, 0)?;
    }
    insert_settings(&mut directives, options, &mut names)?;
    let mut compiler = Compiler {
        names,
        files,
        entries: Vec::new(),
        defaults: Vec::new(),
        chain_open: None,
        updates: Vec::new(),
        power: Power::On,
        request_body: true,
        response_body: true,
        separator: b'&',
        warnings: Vec::new(),
    };
    for directive in directives {
        let name = directive_name(&directive.kind);
        let place = directive.place.clone();
        compiler.directive(directive).map_err(|message| LoadError {
            place,
            directive: name.to_owned(),
            message,
        })?;
    }
    if let Some(place) = compiler.chain_open {
        let message = "the chain has no next rule".to_owned();
        return Err(LoadError { place, directive: "SecRule".to_owned(), message });
    }
    compiler.finish(options)
}

fn directive_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Rule(rule) if rule.operator.is_none() => "SecAction",
        Kind::Rule(_) => "SecRule",
        Kind::UpdateTarget(..) => "SecRuleUpdateTarget",
        Kind::UpdateAction(..) => "SecRuleUpdateActionById",
        Kind::Remove(_) => "SecRuleRemove",
        _ => "directive",
    }
}

/// Reads a source and what it includes.
fn read(
    source: &Source,
    all: &[Source],
    files: &dyn Files,
    names: &mut Names,
    directives: &mut Vec<Directive>,
    depth: usize,
) -> Result<(), LoadError> {
    for directive in lang::parse(&source.name, &source.text, names)? {
        let Kind::Include(pattern) = &directive.kind else {
            directives.push(directive);
            continue;
        };
        let fail = |message: String| LoadError {
            place: directive.place.clone(),
            directive: "Include".to_owned(),
            message,
        };
        if depth == INCLUDES_MAX {
            return Err(fail(format!("files include each other more than {INCLUDES_MAX} deep")));
        }
        if pattern.contains('*') {
            // What a pattern with stars means is already named by the configuration.
            let mut matching =
                all.iter().filter(|other| glob(pattern.as_bytes(), other.name.as_bytes())).peekable();
            if matching.peek().is_none() {
                return Err(fail(format!("{pattern} means none of the files named in the configuration")));
            }
            continue;
        }
        let content = files.read(&source.name, pattern).map_err(&fail)?;
        let text = String::from_utf8_lossy(&content).into_owned();
        let included = Source { name: beside(&source.name, pattern), text };
        read(&included, all, files, names, directives, depth + 1)?;
    }
    Ok(())
}

/// The path of a file that another names.
pub fn beside(source: &str, path: &str) -> String {
    match source.rsplit_once('/') {
        Some((folder, _)) if !path.starts_with('/') => format!("{folder}/{path}"),
        _ => path.to_owned(),
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        [first, rest @ ..] => text.first() == Some(first) && glob(rest, &text[1..]),
    }
}

/// Puts the settings of the configuration where they come after the user's
/// set-up and before the first rule that reads them.
fn insert_settings(
    directives: &mut Vec<Directive>,
    options: &Options,
    names: &mut Names,
) -> Result<(), LoadError> {
    let mut sets = Vec::new();
    if let Some(level) = options.paranoia_level {
        for name in [
            "blocking_paranoia_level",
            "detection_paranoia_level",
            "paranoia_level",
            "executing_paranoia_level",
        ] {
            sets.push(format!("setvar:tx.{name}={level}"));
        }
    }
    if let Some(threshold) = options.inbound_threshold {
        sets.push(format!("setvar:tx.inbound_anomaly_score_threshold={threshold}"));
    }
    if let Some(threshold) = options.outbound_threshold {
        sets.push(format!("setvar:tx.outbound_anomaly_score_threshold={threshold}"));
    }
    if sets.is_empty() {
        return Ok(());
    }
    let text = format!("SecAction \"phase:1,pass,nolog,{}\"", sets.join(","));
    let settings = lang::parse("the configuration", &text, names)?;
    let first = directives.iter().position(|directive| match &directive.kind {
        Kind::Rule(rule) => rule.actions.id.is_some_and(|id| (901_000..902_000).contains(&id)),
        _ => false,
    });
    let at = first.unwrap_or(0);
    directives.splice(at..at, settings);
    Ok(())
}

impl Compiler<'_> {
    fn directive(&mut self, directive: Directive) -> Result<(), String> {
        match directive.kind {
            Kind::Rule(rule) => self.rule(rule, directive.place)?,
            Kind::Marker(name) => self.entries.push(Entry::Marker(name)),
            Kind::DefaultAction(actions) => self.defaults.push(actions),
            kind @ (Kind::UpdateTarget(..) | Kind::UpdateAction(..) | Kind::Remove(_)) => {
                self.updates.push((directive.place, kind));
            }
            Kind::Engine(power) => self.power = power,
            Kind::RequestBodyAccess(on) => self.request_body = on,
            Kind::ResponseBodyAccess(on) => self.response_body = on,
            Kind::ArgumentSeparator(byte) => self.separator = byte,
            Kind::Include(_) | Kind::Ignored => {}
        }
        Ok(())
    }

    fn rule(&mut self, text: RuleText, place: Place) -> Result<(), String> {
        let chained = self.chain_open.take().is_some();
        let chain = text.actions.chain;
        let operator = self.operator(text.operator.as_ref(), &place)?;
        let phase = match (chained, self.entries.last()) {
            (true, Some(Entry::Rule(draft))) => draft.rule.phase,
            _ => text.actions.phase.unwrap_or(2),
        };
        let actions = text.actions;
        let controls = actions.controls.clone();
        let link = self.link(text.targets, text.operator, operator, &actions, phase, chained);
        match self.entries.last_mut() {
            Some(Entry::Rule(draft)) if chained => {
                let number = draft.rule.links.len();
                draft.controls.extend(controls.into_iter().map(|control| (number, control)));
                draft.rule.links.push(link);
                // A severity or message may stand at any link.
                draft.rule.message = draft.rule.message.take().or(actions.message);
                draft.rule.log_data = draft.rule.log_data.take().or(actions.log_data);
                draft.skip_after = draft.skip_after.take().or(actions.skip_after);
            }
            _ => {
                let controls = controls.into_iter().map(|control| (0, control)).collect();
                let draft = self.draft(actions, phase, link, controls, place.clone());
                self.entries.push(Entry::Rule(Box::new(draft)));
            }
        }
        self.chain_open = chain.then_some(place);
        Ok(())
    }

    fn operator(&mut self, text: Option<&OperatorText>, place: &Place) -> Result<Operator, String> {
        let Some(text) = text else { return Ok(Operator::Always) };
        let (operator, warning) = Operator::new(text, &place.source, self.files)?;
        if let Some(warning) = warning {
            self.warnings.push(format!("{}:{}: {warning}", place.source, place.line));
        }
        Ok(operator)
    }

    fn link(
        &self,
        targets: Targets,
        text: Option<OperatorText>,
        operator: Operator,
        actions: &Actions,
        phase: u8,
        chained: bool,
    ) -> Link {
        let inherited = if actions.transforms_reset || chained { None } else { self.defaults_of(phase) };
        let inherited = inherited.map(|defaults| defaults.transforms.clone()).unwrap_or_default();
        let transforms: Vec<Transform> =
            inherited.into_iter().chain(actions.transforms.iter().copied()).collect();
        Link {
            targets,
            operator,
            negated: text.is_some_and(|text| text.negated),
            transforms: transforms.into_iter().map(|transform| (transform, transform.trigger())).collect(),
            capture: actions.capture,
            multi_match: actions.multi_match,
            sets: actions.sets.clone(),
            controls: Vec::new(),
        }
    }

    fn defaults_of(&self, phase: u8) -> Option<&Actions> {
        self.defaults.iter().rev().find(|defaults| defaults.phase.unwrap_or(2) == phase)
    }

    fn draft(
        &self,
        actions: Actions,
        phase: u8,
        link: Link,
        controls: Vec<(usize, actions::Control)>,
        place: Place,
    ) -> Draft {
        let defaults = self.defaults_of(phase);
        let default_outcome =
            || defaults.and_then(|defaults| defaults.disruption.clone()).unwrap_or(Disruption::Pass);
        let disruption = match actions.disruption {
            Some(Disruption::Block) | None => default_outcome(),
            Some(disruption) => disruption,
        };
        let status = actions.status.or(defaults.and_then(|defaults| defaults.status));
        let outcome = match disruption {
            Disruption::Pass | Disruption::Block => Outcome::Pass,
            Disruption::Deny => Outcome::Deny(status.unwrap_or(403)),
            Disruption::Redirect(to) => {
                Outcome::Redirect(status.filter(|code| (300..400).contains(code)).unwrap_or(302), to)
            }
            Disruption::Allow(allowed) => Outcome::Allow(allowed),
        };
        let log = actions.log.or(defaults.and_then(|defaults| defaults.log)).unwrap_or(true);
        let rule = Rule {
            id: actions.id.unwrap_or(0),
            phase,
            links: vec![link],
            message: actions.message,
            log_data: actions.log_data,
            tags: actions.tags,
            severity: actions.severity,
            log,
            outcome,
            skip_to: None,
        };
        Draft { rule, skip_after: actions.skip_after, skip: actions.skip, controls, place }
    }

    fn finish(mut self, options: &Options) -> Result<Program, LoadError> {
        for (place, update) in std::mem::take(&mut self.updates) {
            self.update(update).map_err(|message| LoadError {
                place,
                directive: "SecRule update".to_owned(),
                message,
            })?;
        }
        for chosen in &options.removed {
            self.remove(chosen).map_err(|message| option_error("exclusions", message))?;
        }
        for (chosen, target) in &options.excluded {
            let targets = lang::variables::parse(&format!("!{target}"), &mut self.names)
                .map_err(|message| option_error("exclusions", message))?;
            self.update_targets(chosen, &targets).map_err(|message| option_error("exclusions", message))?;
        }
        let groups = std::array::from_fn(|digit| self.names.number(digit.to_string().as_bytes()));
        let initial = fold::fold(&mut self.entries, &self.names);
        let rules = place_rules(self.entries)?;
        let tables = gates::build(&rules);
        Ok(Program {
            names: self.names,
            initial,
            rules,
            phases: tables.phases,
            nodes: tables.nodes,
            gates: tables.gates,
            grams: tables.grams,
            literal_gates: tables.literal_gates,
            groups,
            power: self.power,
            request_body: self.request_body,
            response_body: self.response_body,
            separator: self.separator,
            warnings: self.warnings,
        })
    }

    fn update(&mut self, update: Kind) -> Result<(), String> {
        match update {
            Kind::Remove(chosen) => self.remove(&chosen),
            Kind::UpdateTarget(chosen, targets) => self.update_targets(&chosen, &targets),
            Kind::UpdateAction(chosen, actions) => {
                let chooser = Chooser::new(&chosen)?;
                for entry in &mut self.entries {
                    if let Entry::Rule(draft) = entry
                        && chooser.means(&draft.rule)
                    {
                        change_actions(&mut draft.rule, &actions);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn remove(&mut self, chosen: &Chosen) -> Result<(), String> {
        let chooser = Chooser::new(chosen)?;
        self.entries.retain(|entry| !matches!(entry, Entry::Rule(draft) if chooser.means(&draft.rule)));
        Ok(())
    }

    fn update_targets(&mut self, chosen: &Chosen, targets: &Targets) -> Result<(), String> {
        let chooser = Chooser::new(chosen)?;
        for entry in &mut self.entries {
            if let Entry::Rule(draft) = entry
                && chooser.means(&draft.rule)
            {
                let own = &mut draft.rule.links[0].targets;
                own.included.extend(targets.included.iter().cloned());
                own.excluded.extend(targets.excluded.iter().cloned());
            }
        }
        Ok(())
    }
}

fn option_error(option: &str, message: String) -> LoadError {
    let place = Place { source: Arc::from("the configuration"), line: 1 };
    LoadError { place, directive: option.to_owned(), message }
}

fn change_actions(rule: &mut Rule, actions: &Actions) {
    if let Some(log) = actions.log {
        rule.log = log;
    }
    if let Some(severity) = actions.severity {
        rule.severity = Some(severity);
    }
    if let Some(message) = &actions.message {
        rule.message = Some(message.clone());
    }
    rule.tags.extend(actions.tags.iter().cloned());
    let status = actions.status.unwrap_or(403);
    match &actions.disruption {
        Some(Disruption::Pass) => rule.outcome = Outcome::Pass,
        Some(Disruption::Deny) => rule.outcome = Outcome::Deny(status),
        Some(Disruption::Allow(allowed)) => rule.outcome = Outcome::Allow(*allowed),
        Some(Disruption::Redirect(to)) => rule.outcome = Outcome::Redirect(302, to.clone()),
        Some(Disruption::Block) | None => {
            if let (Outcome::Deny(code), Some(new)) = (&mut rule.outcome, actions.status) {
                *code = new;
            }
        }
    }
}

/// Gives rules their numbers and finds where jumps go.
fn place_rules(entries: Vec<Entry>) -> Result<Vec<Rule>, LoadError> {
    // Of every marker: how many rules of each phase stand before it.
    let mut counts = [0u32; 5];
    let mut markers: Vec<(String, [u32; 5])> = Vec::new();
    let mut drafts = Vec::new();
    for entry in entries {
        match entry {
            Entry::Marker(name) => markers.push((name, counts)),
            Entry::Rule(draft) => {
                let phase = usize::from(draft.rule.phase) - 1;
                if draft.rule.id != 0 {
                    // Rules may be jumped behind by their ids.
                    let mut behind = counts;
                    behind[phase] += 1;
                    markers.push((draft.rule.id.to_string(), behind));
                }
                drafts.push((counts[phase], draft));
                counts[phase] += 1;
            }
        }
    }
    let mut controls = Vec::new();
    let mut rules = Vec::with_capacity(drafts.len());
    for (position, draft) in drafts {
        let Draft { mut rule, skip_after, skip, controls: own, place } = *draft;
        let phase = usize::from(rule.phase) - 1;
        if let Some(name) = skip_after {
            let target = markers.iter().find(|(marker, counts)| *marker == name && counts[phase] > position);
            rule.skip_to = Some(target.map_or(counts[phase], |(_, counts)| counts[phase]));
        } else if skip > 0 {
            rule.skip_to = Some(position + 1 + skip);
        }
        controls.extend(own.into_iter().map(|(link, control)| (rules.len(), link, control, place.clone())));
        rules.push(rule);
    }
    for (rule, link, control, place) in controls {
        let compiled = compile_control(control, &rules).map_err(|message| LoadError {
            place,
            directive: "ctl".to_owned(),
            message,
        })?;
        rules[rule].links[link].controls.extend(compiled);
    }
    Ok(rules)
}

fn compile_control(control: actions::Control, rules: &[Rule]) -> Result<Option<Control>, String> {
    let numbers = |chosen: &Chosen| -> Result<Vec<u32>, String> {
        let chooser = Chooser::new(chosen)?;
        Ok((0..rules.len() as u32).filter(|number| chooser.means(&rules[*number as usize])).collect())
    };
    Ok(Some(match control {
        actions::Control::Remove(chosen) => Control::Remove(numbers(&chosen)?),
        actions::Control::RemoveTarget(chosen, target) => Control::RemoveTarget(numbers(&chosen)?, target),
        actions::Control::ForceRequestBody(on) => Control::ForceRequestBody(on),
        actions::Control::BodyProcessor(name) => Control::BodyProcessor(name),
        actions::Control::RequestBodyAccess(on) => Control::RequestBodyAccess(on),
        actions::Control::Engine(power) => Control::Engine(power),
        actions::Control::Ignored => return Ok(None),
    }))
}

enum Chooser {
    Ids(Vec<(u32, u32)>),
    Tag(Pattern),
    Message(Pattern),
}

impl Chooser {
    fn new(chosen: &Chosen) -> Result<Chooser, String> {
        let pattern =
            |text: &str| Pattern::new(text.as_bytes()).map_err(|error| format!("{text:?}: {error}"));
        Ok(match chosen {
            Chosen::Ids(ranges) => Chooser::Ids(ranges.clone()),
            Chosen::Tag(text) => Chooser::Tag(pattern(text)?),
            Chosen::Message(text) => Chooser::Message(pattern(text)?),
        })
    }

    fn means(&self, rule: &Rule) -> bool {
        match self {
            Chooser::Ids(ranges) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&rule.id)) && rule.id != 0
            }
            Chooser::Tag(pattern) => rule.tags.iter().any(|tag| pattern.is_match(tag.as_bytes())),
            Chooser::Message(pattern) => rule
                .message
                .as_ref()
                .is_some_and(|message| pattern.is_match(&crate::lang::macros::written(message))),
        }
    }
}
