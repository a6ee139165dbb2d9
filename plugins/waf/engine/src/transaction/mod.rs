//! One request and its response before the rules.
//!
//! Phases come in order: [`Transaction::request_head`],
//! [`Transaction::request_body`] (also where there is no body),
//! [`Transaction::response_head`], [`Transaction::response_body`],
//! [`Transaction::finish`]. Each runs the rules of its phase.

mod candidates;
mod effects;
mod intake;
mod run;
mod values;

use std::sync::Arc;

use crate::Options;
use crate::body::multipart::Flags;
use crate::lang::Power;
use crate::program::{Kind, Program, TxValue};
use crate::text::table::{TextId, Texts};

/// A request's head.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// As in `GET`.
    pub method: &'a [u8],
    /// Path and query as they came, or a whole URI.
    pub uri: &'a [u8],
    /// As in `HTTP/1.1`.
    pub protocol: &'a [u8],
    /// Names and values in order.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// The client's address.
    pub client: &'a str,
    /// A name nobody can guess for this request; may be empty.
    pub unique_id: &'a str,
}

/// A response's head.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    /// The status code.
    pub status: u16,
    /// As in `HTTP/1.1`.
    pub protocol: &'a [u8],
    /// Names and values in order.
    pub headers: &'a [(&'a [u8], &'a [u8])],
}

/// What becomes of a request or response.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It does not.
    Deny(Denial),
}

/// An answer in place of what was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Denial {
    /// The status to answer with.
    pub status: u16,
    /// The rule that decided; 0 for a limit of the engine.
    pub rule: u32,
    /// Where a redirect leads.
    pub location: Option<Vec<u8>>,
    /// Why, for the log.
    pub reason: String,
}

/// A rule that has matched and is reported.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The rule's id.
    pub rule: u32,
    /// Its phase.
    pub phase: u8,
    /// Its message, with what it says about the request.
    pub message: String,
    /// What it says about the text that matched, cut to 200 characters.
    pub data: String,
    /// 0 (emergency) to 7 (debug).
    pub severity: Option<u8>,
    /// Whether it denied the request, or would have, were denying on.
    pub blocks: bool,
}

/// A named value of a collection.
#[derive(Debug, Clone, Copy)]
struct Item {
    name: TextId,
    text: TextId,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Transaction {
    program: Arc<Program>,
    options: Arc<Options>,
    texts: Texts,
    values: [Vec<Item>; Kind::COUNT],
    /// Values of `TX` that differ from those at the beginning, by number.
    tx: Vec<Option<TxValue>>,
    /// Values of `TX` whose names do not occur in the rules.
    tx_more: Vec<(Vec<u8>, TxValue)>,
    /// Values of `IP`, `GLOBAL` and the like: they last as long as this does.
    others: Vec<(Vec<u8>, TxValue)>,
    head: HeadFacts,
    body: BodyFacts,
    response: ResponseFacts,
    matched: Vec<(Vec<u8>, TextId)>,
    current: u32,
    power: Power,
    allowed: Allowance,
    removed: Vec<u64>,
    /// Rule, link and control of `ctl:ruleRemoveTarget…` that were done.
    removed_targets: Vec<(u32, u32, u32)>,
    matches: Vec<Match>,
    highest_severity: u8,
    scratch: candidates::Scratch,
}

#[derive(Debug, Default)]
struct HeadFacts {
    client: String,
    server_name: String,
    unique_id: String,
    length: usize,
    query_malformed: bool,
    too_many_arguments: bool,
    arguments: usize,
    arguments_bytes: usize,
}

#[derive(Debug, Default)]
struct BodyFacts {
    processor: String,
    content_type: Vec<u8>,
    access: Option<bool>,
    forced: bool,
    length: usize,
    error: Option<String>,
    malformed: bool,
    truncated: bool,
    flags: Option<Flags>,
    file_sizes: Vec<(TextId, usize)>,
}

#[derive(Debug, Default)]
struct ResponseFacts {
    status: Option<u16>,
    protocol: Vec<u8>,
    length: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Allowance {
    #[default]
    Nothing,
    /// The rest of the request's phases.
    Request,
    /// All but logging.
    Everything,
}

impl Transaction {
    pub(crate) fn new(program: Arc<Program>, options: Arc<Options>) -> Transaction {
        let mut transaction = Transaction {
            texts: Texts::new(options.seed),
            values: std::array::from_fn(|_| Vec::new()),
            tx: Vec::new(),
            tx_more: Vec::new(),
            others: Vec::new(),
            head: HeadFacts::default(),
            body: BodyFacts::default(),
            response: ResponseFacts::default(),
            matched: Vec::new(),
            current: 0,
            power: program.power,
            allowed: Allowance::Nothing,
            removed: Vec::new(),
            removed_targets: Vec::new(),
            matches: Vec::new(),
            highest_severity: 255,
            scratch: candidates::Scratch::new(&program),
            program,
            options,
        };
        transaction.reset();
        transaction
    }

    /// Makes it ready for another request.
    pub fn reset(&mut self) {
        self.texts.renew();
        for values in &mut self.values {
            values.clear();
        }
        self.tx.clear();
        self.tx.resize(self.program.names.len(), None);
        self.tx_more.clear();
        self.others.clear();
        self.head = HeadFacts::default();
        self.body = BodyFacts::default();
        self.response = ResponseFacts::default();
        self.matched.clear();
        self.power = self.program.power;
        if self.options.detect_only && self.power == Power::On {
            self.power = Power::DetectionOnly;
        }
        self.allowed = Allowance::Nothing;
        self.removed.clear();
        self.removed.resize(self.program.rules.len().div_ceil(64), 0);
        self.removed_targets.clear();
        self.matches.clear();
        self.highest_severity = 255;
    }

    /// Takes in the head and runs phase 1.
    pub fn request_head(&mut self, head: &RequestHead<'_>) -> Verdict {
        self.take_request_head(head);
        self.run(1)
    }

    /// Takes in the body, which may be empty, and runs phase 2. `truncated`
    /// says that there is more of it than is shown.
    pub fn request_body(&mut self, body: &[u8], truncated: bool) -> Verdict {
        self.body.truncated = truncated;
        self.take_request_body(body);
        if self.head.too_many_arguments && self.power == Power::On {
            return Verdict::Deny(Denial {
                status: 413,
                rule: 0,
                location: None,
                reason: format!("more than {} arguments", self.options.arguments_max),
            });
        }
        self.run(2)
    }

    /// Takes in the response's head and runs phase 3.
    pub fn response_head(&mut self, head: &ResponseHead<'_>) -> Verdict {
        self.take_response_head(head);
        self.run(3)
    }

    /// Takes in the response's body and runs phase 4.
    pub fn response_body(&mut self, body: &[u8]) -> Verdict {
        self.take_response_body(body);
        self.run(4)
    }

    /// Runs phase 5, which reports and decides nothing.
    pub fn finish(&mut self) {
        self.run(5);
    }

    /// Whether the body of this request has to be shown: rules may have turned
    /// that off.
    pub fn wants_request_body(&self) -> bool {
        self.power != Power::Off && self.body.access.unwrap_or(self.program.request_body)
    }

    /// The rules that have matched so far and are reported, in order.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// A variable of `TX` as text. For tests and logs.
    pub fn variable(&self, name: &str) -> Option<Vec<u8>> {
        let number = self.program.names.known(name.to_ascii_lowercase().as_bytes())?;
        self.tx_value(number).text()
    }
}
