//! The language of the rules: from text to directives.
//!
//! Reads what ModSecurity reads and says where something is not understood.
//! What the directives do together is `compile`'s business. Start at
//! [`parse`].

pub mod actions;
pub mod lex;
pub mod macros;
pub mod operators;
pub mod variables;

use std::sync::Arc;

use crate::names::Names;
use actions::Actions;
use operators::OperatorText;
use variables::Targets;

/// Where a directive stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's path or the text's name.
    pub source: Arc<str>,
    /// Its first line, from 1.
    pub line: u32,
}

/// Why rules cannot be loaded. It names the file, the line and the directive.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}:{}: {directive}: {message}", place.source, place.line)]
pub struct LoadError {
    /// Where it stands.
    pub place: Place,
    /// The directive, as written.
    pub directive: String,
    /// What is wrong with it.
    pub message: String,
}

/// One directive.
#[derive(Debug)]
pub struct Directive {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub kind: Kind,
}

/// What a directive says.
#[derive(Debug)]
pub enum Kind {
    /// `SecRule`, and `SecAction`, which has no targets and no operator.
    Rule(RuleText),
    /// `SecMarker`.
    Marker(String),
    /// `SecDefaultAction`.
    DefaultAction(Actions),
    /// `SecRuleUpdateTargetById` and its like.
    UpdateTarget(Chosen, Targets),
    /// `SecRuleUpdateActionById`.
    UpdateAction(Chosen, Actions),
    /// `SecRuleRemoveById` and its like.
    Remove(Chosen),
    /// `Include`: a path with or without `*`.
    Include(String),
    /// `SecRuleEngine`.
    Engine(Power),
    /// `SecRequestBodyAccess`.
    RequestBodyAccess(bool),
    /// `SecResponseBodyAccess`.
    ResponseBodyAccess(bool),
    /// `SecArgumentSeparator`.
    ArgumentSeparator(u8),
    /// One that has no meaning here, as those about logs.
    Ignored,
}

/// A rule as written.
#[derive(Debug)]
pub struct RuleText {
    /// What it looks at.
    pub targets: Targets,
    /// What it looks for; none of `SecAction`.
    pub operator: Option<OperatorText>,
    /// What it does.
    pub actions: Actions,
}

/// Which rules a directive or an action means.
#[derive(Debug, Clone, PartialEq)]
pub enum Chosen {
    /// By id, from and to.
    Ids(Vec<(u32, u32)>),
    /// By a tag, as a pattern.
    Tag(String),
    /// By the message, as a pattern.
    Message(String),
}

/// Whether the engine acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Rules run and may deny.
    On,
    /// Rules run and deny nothing.
    DetectionOnly,
    /// Nothing runs.
    Off,
}

/// Directives that say nothing to an engine without disk, log and network.
const IGNORED: &[&str] = &[
    "secauditengine",
    "secauditlog",
    "secauditlog2",
    "secauditlogdirmode",
    "secauditlogfilemode",
    "secauditlogformat",
    "secauditlogparts",
    "secauditlogrelevantstatus",
    "secauditlogstoragedir",
    "secauditlogtype",
    "seccachetransformations",
    "seccollectiontimeout",
    "seccomponentsignature",
    "secconnengine",
    "seccookieformat",
    "seccookiev0separator",
    "secdatadir",
    "secdebuglog",
    "secdebugloglevel",
    "secgeolookupdb",
    "secgsblookupdb",
    "sechttpblkey",
    "sechashengine",
    "secinterceptonerror",
    "secpcrematchlimit",
    "secpcrematchlimitrecursion",
    "secreadstatelimit",
    "secwritestatelimit",
    "secrequestbodyinmemorylimit",
    "secrequestbodyjsondepthlimit",
    "secrequestbodylimit",
    "secrequestbodylimitaction",
    "secrequestbodynofileslimit",
    "secresponsebodylimit",
    "secresponsebodylimitaction",
    "secresponsebodymimetype",
    "secresponsebodymimetypesclear",
    "secruleinheritance",
    "secruleperftime",
    "secsensorid",
    "secserversignature",
    "secstatusengine",
    "secstreaminbodyinspection",
    "secstreamoutbodyinspection",
    "sectmpdir",
    "sectmpsavuploadedfiles",
    "secunicodemapfile",
    "secunicodecodepage",
    "secuploaddir",
    "secuploadfilelimit",
    "secuploadfilemode",
    "secuploadkeepfiles",
    "secwebappid",
    "secxmlexternalentity",
    "secargumentslimit",
    "secdisablebackendcompression",
    "seccontentinjection",
    "secremoterules",
    "secremoterulesfailaction",
    "secparsexmlintoargs",
];

/// Reads one text of rules.
pub fn parse(source: &str, text: &str, names: &mut Names) -> Result<Vec<Directive>, LoadError> {
    let source: Arc<str> = Arc::from(source);
    let mut directives = Vec::new();
    for statement in lex::statements(text) {
        let place = Place { source: source.clone(), line: statement.line };
        let words = statement.words.iter().map(String::as_str).collect::<Vec<_>>();
        match directive(&words, names) {
            Ok(kind) => directives.push(Directive { place, kind }),
            Err(message) => {
                let directive = words.first().copied().unwrap_or_default().to_owned();
                return Err(LoadError { place, directive, message });
            }
        }
    }
    Ok(directives)
}

fn directive(words: &[&str], names: &mut Names) -> Result<Kind, String> {
    let [name, arguments @ ..] = words else { return Ok(Kind::Ignored) };
    let argument =
        |at: usize| arguments.get(at).copied().ok_or_else(|| format!("argument {} is missing", at + 1));
    let name = name.to_ascii_lowercase();
    Ok(match name.as_str() {
        "secrule" => {
            let targets = variables::parse(argument(0)?, names)?;
            if targets.included.is_empty() {
                return Err("the rule looks at nothing".into());
            }
            let operator = Some(operators::parse(argument(1)?, names)?);
            let actions = actions::parse(arguments.get(2).copied().unwrap_or(""), names)?;
            Kind::Rule(RuleText { targets, operator, actions })
        }
        "secaction" => {
            let actions = actions::parse(argument(0)?, names)?;
            Kind::Rule(RuleText { targets: Targets::default(), operator: None, actions })
        }
        "secmarker" => Kind::Marker(argument(0)?.to_owned()),
        "secdefaultaction" => Kind::DefaultAction(actions::parse(argument(0)?, names)?),
        "secruleupdatetargetbyid" => {
            Kind::UpdateTarget(ids(argument(0)?)?, updated_targets(argument(1)?, names)?)
        }
        "secruleupdatetargetbytag" => {
            Kind::UpdateTarget(Chosen::Tag(argument(0)?.into()), updated_targets(argument(1)?, names)?)
        }
        "secruleupdatetargetbymsg" => {
            Kind::UpdateTarget(Chosen::Message(argument(0)?.into()), updated_targets(argument(1)?, names)?)
        }
        "secruleupdateactionbyid" => {
            Kind::UpdateAction(ids(argument(0)?)?, actions::parse(argument(1)?, names)?)
        }
        "secruleremovebyid" => Kind::Remove(ids(&arguments.join(" "))?),
        "secruleremovebytag" => Kind::Remove(Chosen::Tag(argument(0)?.into())),
        "secruleremovebymsg" => Kind::Remove(Chosen::Message(argument(0)?.into())),
        "include" => Kind::Include(argument(0)?.to_owned()),
        "secruleengine" => Kind::Engine(power(argument(0)?)?),
        "secrequestbodyaccess" => Kind::RequestBodyAccess(switch(argument(0)?)?),
        "secresponsebodyaccess" => Kind::ResponseBodyAccess(switch(argument(0)?)?),
        "secargumentseparator" => match argument(0)?.as_bytes() {
            [byte] => Kind::ArgumentSeparator(*byte),
            _ => return Err("the separator is one character".into()),
        },
        "secrulescript" => return Err("scripts are not supported".into()),
        _ if IGNORED.contains(&name.as_str()) => Kind::Ignored,
        _ => return Err("no directive of this name is known".into()),
    })
}

/// `!ARGS:x` alone, or targets to add.
fn updated_targets(text: &str, names: &mut Names) -> Result<Targets, String> {
    // Directives separate by commas what rules separate by bars.
    let text = text.split(',').map(str::trim).collect::<Vec<_>>().join("|");
    variables::parse(&text, names)
}

/// `on`, `off`, `DetectionOnly`.
pub fn power(text: &str) -> Result<Power, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(Power::On),
        "off" => Ok(Power::Off),
        "detectiononly" => Ok(Power::DetectionOnly),
        _ => Err(format!("{text:?} is not On, Off or DetectionOnly")),
    }
}

/// `on` or `off`.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is not On or Off")),
    }
}

/// Ids and ranges of ids.
pub fn ids(text: &str) -> Result<Chosen, String> {
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{text:?} is no rule id"));
    text.split([' ', ','])
        .map(|part| part.trim_matches(['"', '\'']))
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('-') {
            Some((from, to)) => Ok((number(from)?, number(to)?)),
            None => number(part).map(|id| (id, id)),
        })
        .collect::<Result<Vec<_>, String>>()
        .map(Chosen::Ids)
}
