//! What the module object, or a route, says under `config`.

use serde::Deserialize;
use sluice_sdk::{ConfigError, OverLimit, clock, files};
use sluice_waf::{Chosen, Engine, Files, Options, PHP_RULES, Source, rule_ids};

/// The configuration. Every field has a default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Files of rules, or rules themselves, in order. None: our rules for PHP.
    pub(crate) rules: Vec<String>,
    /// Whether what rules deny is denied.
    pub(crate) mode: Mode,
    /// A field that gets the ids of the rules that matched.
    pub(crate) debug_header: Option<String>,
    /// 1 to 4, in place of what the rules' set-up says.
    pub(crate) paranoia_level: Option<u8>,
    /// The score at which requests are denied, in place of the set-up's.
    pub(crate) inbound_threshold: Option<u32>,
    /// The score at which responses are denied, in place of the set-up's.
    pub(crate) outbound_threshold: Option<u32>,
    /// Whether bodies of requests are looked at.
    pub(crate) inspect_request_body: bool,
    /// Whether responses are looked at.
    pub(crate) inspect_response: bool,
    /// The most bytes of a request's body.
    pub(crate) request_body_max: u32,
    /// The most bytes of a response's body.
    pub(crate) response_body_max: u32,
    /// What becomes of longer bodies.
    pub(crate) body_over_limit: BodyOverLimit,
    /// The most arguments of a request.
    pub(crate) arguments_max: usize,
    /// Rules that do not run, or do not look at something.
    pub(crate) exclusions: Vec<Exclusion>,
}

/// Whether what rules deny is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// It is.
    Block,
    /// It is noted.
    Detect,
}

/// What becomes of bodies over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BodyOverLimit {
    /// 413, or 502 of a response.
    Deny,
    /// The first bytes are looked at, the rest goes on unseen.
    Truncate,
}

/// Rules that do not run, or do not look at something.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exclusion {
    /// Ids and ranges, as in `"942100 942200-942299"`.
    rules: Option<String>,
    /// A pattern for tags.
    tag: Option<String>,
    /// As in `ARGS:comment`. None: the rules do not run.
    target: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            mode: Mode::Block,
            debug_header: None,
            paranoia_level: None,
            inbound_threshold: None,
            outbound_threshold: None,
            inspect_request_body: true,
            inspect_response: false,
            request_body_max: 1 << 20,
            response_body_max: 512 << 10,
            body_over_limit: BodyOverLimit::Deny,
            arguments_max: 10_000,
            exclusions: Vec::new(),
        }
    }
}

impl From<BodyOverLimit> for OverLimit {
    fn from(over: BodyOverLimit) -> Self {
        match over {
            BodyOverLimit::Deny => Self::Deny,
            BodyOverLimit::Truncate => Self::Truncate,
        }
    }
}

/// Reads files through the host.
struct HostFiles;

impl Files for HostFiles {
    fn read(&self, source: &str, path: &str) -> Result<Vec<u8>, String> {
        let path = sluice_waf::beside(source, path);
        files::read(&path).map_err(|error| format!("{path}: {error}"))
    }
}

impl Config {
    /// The engine this configuration asks for.
    pub(crate) fn engine(&self) -> Result<Engine, ConfigError> {
        if let Some(level) = self.paranoia_level.filter(|level| !(1..=4).contains(level)) {
            return Err(ConfigError::new("paranoia_level", level, "a paranoia level is from 1 to 4"));
        }
        if let Some(name) = &self.debug_header
            && !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            let reason = "a field's name has small letters, digits and dashes";
            return Err(ConfigError::new("debug_header", format_args!("{name:?}"), reason));
        }
        let mut options = Options {
            detect_only: self.mode == Mode::Detect,
            paranoia_level: self.paranoia_level,
            inbound_threshold: self.inbound_threshold,
            outbound_threshold: self.outbound_threshold,
            arguments_max: self.arguments_max,
            seed: clock::random(8).iter().fold(0, |seed, &byte| seed << 8 | u64::from(byte)),
            ..Options::default()
        };
        self.exclude(&mut options)?;
        Engine::load(&self.sources()?, options, &HostFiles)
            .map_err(|error| ConfigError::whole(format_args!("rules: {error}")))
    }

    fn exclude(&self, options: &mut Options) -> Result<(), ConfigError> {
        for (at, exclusion) in self.exclusions.iter().enumerate() {
            let chosen = match (&exclusion.rules, &exclusion.tag) {
                (Some(ids), None) => rule_ids(ids).map_err(|error| {
                    ConfigError::new(&format!("exclusions[{at}].rules"), format_args!("{ids:?}"), error)
                })?,
                (None, Some(tag)) => Chosen::Tag(tag.clone()),
                _ => {
                    let reason = "an exclusion has either rules or a tag";
                    return Err(ConfigError::new(&format!("exclusions[{at}]"), "rules, tag", reason));
                }
            };
            match &exclusion.target {
                Some(target) => options.excluded.push((chosen, target.clone())),
                None => options.removed.push(chosen),
            }
        }
        Ok(())
    }

    fn sources(&self) -> Result<Vec<Source>, ConfigError> {
        if self.rules.is_empty() {
            return Ok(vec![Source { name: "the rules for PHP".into(), text: PHP_RULES.into() }]);
        }
        let sources = self.rules.iter().enumerate().map(|(at, rule)| {
            if is_text(rule) {
                return Ok(Source { name: format!("rules[{at}]"), text: rule.clone() });
            }
            let bytes = files::read(rule).map_err(|error| {
                ConfigError::new(&format!("rules[{at}]"), format_args!("{rule:?}"), error)
            })?;
            Ok(Source { name: rule.clone(), text: String::from_utf8_lossy(&bytes).into_owned() })
        });
        sources.collect()
    }
}

/// Whether this is rules rather than the path of a file with rules.
fn is_text(rule: &str) -> bool {
    let start = rule.trim_start();
    rule.contains('\n') || ["Sec", "Include ", "#"].iter().any(|word| start.starts_with(word))
}
