//! A web application firewall's engine: reads rules in SecLang, the language
//! of ModSecurity, compiles them to tables and judges requests and responses.
//!
//! It does no I/O. Files that rules name are asked for while rules are loaded;
//! after that everything happens in memory. Start at [`Engine::load`], then
//! [`Engine::transaction`].
//!
//! How it is fast: what is the same for every request is worked out at load
//! (`compile::fold`), every distinct text is looked at once
//! (`text::table`), one pass over a text finds the literals of all rules
//! (`pattern::grams`), and only rules that can match a value are tried on it
//! (`compile::gates`, `transaction`).

mod body;
mod compile;
mod lang;
mod names;
mod operator;
mod pattern;
mod program;
mod text;
mod transaction;

use std::sync::Arc;

pub use compile::beside;
pub use lang::{Chosen, LoadError, Place};
pub use operator::Files;
pub use transaction::{Denial, Match, RequestHead, ResponseHead, Transaction, Verdict};

/// Our own rules against code injected into PHP, for when none are named.
pub const PHP_RULES: &str = include_str!("../rules/php.conf");

/// A text of rules and its name for errors: a path, for a file.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path. Files the rules name are looked for beside it.
    pub name: String,
    /// The rules.
    pub text: String,
}

/// What the configuration says beside the rules.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rules run, are reported, and deny nothing.
    pub detect_only: bool,
    /// For rule sets with paranoia levels, 1 to 4, in place of what their
    /// set-up says.
    pub paranoia_level: Option<u8>,
    /// The score at which a request is denied, in place of the set-up's.
    pub inbound_threshold: Option<u32>,
    /// The score at which a response is denied, in place of the set-up's.
    pub outbound_threshold: Option<u32>,
    /// Rules that do not run.
    pub removed: Vec<Chosen>,
    /// Targets, as in `ARGS:text`, that rules do not look at.
    pub excluded: Vec<(Chosen, String)>,
    /// The most arguments of one request. One with more is denied with 413.
    pub arguments_max: usize,
    /// A number nobody outside knows, for tables that are read by hash.
    pub seed: u64,
    /// Tries every rule on every value. For tests: the result must not differ.
    pub without_gates: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            detect_only: false,
            paranoia_level: None,
            inbound_threshold: None,
            outbound_threshold: None,
            removed: Vec::new(),
            excluded: Vec::new(),
            arguments_max: 10_000,
            seed: 0,
            without_gates: false,
        }
    }
}

/// Rules, ready to run.
#[derive(Debug, Clone)]
pub struct Engine {
    program: Arc<program::Program>,
    options: Arc<Options>,
}

impl Engine {
    /// Compiles rules in their order. The error names file, line and directive.
    pub fn load(sources: &[Source], options: Options, files: &dyn Files) -> Result<Engine, LoadError> {
        let program = Arc::new(compile::compile(sources, &options, files)?);
        Ok(Engine { program, options: Arc::new(options) })
    }

    /// What the operator should know about these rules.
    pub fn warnings(&self) -> &[String] {
        &self.program.warnings
    }

    /// How many rules there are, without those whose outcome is the same for
    /// every request and was worked out at load.
    pub fn rules(&self) -> usize {
        self.program.rules.len()
    }

    /// Whether any rule runs in this phase, from 1 to 5.
    pub fn has_phase(&self, phase: u8) -> bool {
        self.program
            .phases
            .get(usize::from(phase).wrapping_sub(1))
            .is_some_and(|phase| !phase.order.is_empty())
    }

    /// Whether bodies of requests are looked at.
    pub fn reads_request_bodies(&self) -> bool {
        self.program.request_body
    }

    /// Whether bodies of responses are looked at.
    pub fn reads_response_bodies(&self) -> bool {
        self.program.response_body && self.has_phase(4)
    }

    /// Begins with a request. A transaction may be used again for another one,
    /// which saves it from building its buffers anew: [`Transaction::reset`].
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.program.clone(), self.options.clone())
    }
}

/// Reads a list of ids and ranges, as in `942100 942200-942299`.
pub fn rule_ids(text: &str) -> Result<Chosen, String> {
    lang::ids(text)
}
