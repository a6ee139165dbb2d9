//! Rules, compiled: the tables a transaction runs on.

use crate::lang::Power;
use crate::lang::actions::{Allowed, SetVariable};
use crate::lang::macros::Macro;
use crate::lang::variables::{Target, Targets, Variable};
use crate::names::Names;
use crate::operator::Operator;
use crate::pattern::grams::Grams;
use crate::text::bytes::ByteSet;
use crate::text::transform::Transform;

/// All there is to know about a set of rules.
#[derive(Debug)]
pub struct Program {
    /// The numbers of the names of `TX`.
    pub names: Names,
    /// `TX` as it is when a transaction begins, by number.
    pub initial: Vec<TxValue>,
    /// The rules in the order in which they were written.
    pub rules: Vec<Rule>,
    /// Phases 1 to 5.
    pub phases: [Phase; 5],
    /// The transformations that come before what gates look at; the first is
    /// the text as it is.
    pub nodes: Vec<Node>,
    /// Conditions without which rules cannot match.
    pub gates: Vec<Gate>,
    /// All literals of all gates.
    pub grams: Grams,
    /// The gates of each literal.
    pub literal_gates: Vec<Vec<u32>>,
    /// The numbers of `TX:0` to `TX:9`.
    pub groups: [u32; 10],
    /// Whether anything runs.
    pub power: Power,
    /// Whether request bodies are read.
    pub request_body: bool,
    /// Whether response bodies are read.
    pub response_body: bool,
    /// What stands between arguments.
    pub separator: u8,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A value of `TX`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum TxValue {
    /// It is not set.
    #[default]
    Absent,
    /// A number.
    Number(i64),
    /// A text.
    Text(Vec<u8>),
}

impl TxValue {
    /// As a text; none where it is not set.
    pub fn text(&self) -> Option<Vec<u8>> {
        match self {
            TxValue::Absent => None,
            TxValue::Number(number) => Some(number.to_string().into_bytes()),
            TxValue::Text(text) => Some(text.clone()),
        }
    }

    /// As a number; 0 where it is none.
    pub fn number(&self) -> i64 {
        match self {
            TxValue::Absent => 0,
            TxValue::Number(number) => *number,
            TxValue::Text(text) => crate::operator::number(text),
        }
    }
}

/// A rule: one link, or a chain of them.
#[derive(Debug)]
pub struct Rule {
    /// 0 where it has none.
    pub id: u32,
    /// 1 to 5.
    pub phase: u8,
    /// All must match.
    pub links: Vec<Link>,
    /// For the log.
    pub message: Option<Macro>,
    /// For the log.
    pub log_data: Option<Macro>,
    /// Words by which it is chosen.
    pub tags: Vec<String>,
    /// 0 to 7.
    pub severity: Option<u8>,
    /// Whether a match is reported.
    pub log: bool,
    /// What becomes of the request.
    pub outcome: Outcome,
    /// The position in its phase at which to go on.
    pub skip_to: Option<u32>,
}

/// What becomes of a request when a rule has matched.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing.
    Pass,
    /// It is denied with this status.
    Deny(u16),
    /// It is sent elsewhere.
    Redirect(u16, Macro),
    /// It is looked at no more.
    Allow(Allowed),
}

/// One test and what follows from it.
#[derive(Debug)]
pub struct Link {
    /// What it looks at.
    pub targets: Targets,
    /// What it looks for.
    pub operator: Operator,
    /// It matches where the operator does not.
    pub negated: bool,
    /// What is done to a value before, and which bytes make a difference to it.
    pub transforms: Vec<(Transform, ByteSet)>,
    /// Whether groups go to `TX`.
    pub capture: bool,
    /// Whether the operator looks after every transformation.
    pub multi_match: bool,
    /// Variables that are set.
    pub sets: Vec<SetVariable>,
    /// Changes to the engine.
    pub controls: Vec<Control>,
}

/// `ctl`, with rules by number.
#[derive(Debug)]
pub enum Control {
    /// These rules run no more.
    Remove(Vec<u32>),
    /// These rules do not look at that target any more.
    RemoveTarget(Vec<u32>, Target),
    /// `REQUEST_BODY` is filled in any case.
    ForceRequestBody(bool),
    /// How the body is read.
    BodyProcessor(String),
    /// Whether it is read.
    RequestBodyAccess(bool),
    /// Whether the engine acts.
    Engine(Power),
}

/// What runs in one phase.
#[derive(Debug, Default)]
pub struct Phase {
    /// Its rules in order.
    pub order: Vec<u32>,
    /// The positions of those that have no gate.
    pub always: Vec<u32>,
    /// What its gates look at, by [`Kind`].
    pub kinds: Vec<KindGates>,
}

/// The gates of a phase that look at values of one kind.
#[derive(Debug, Clone, Default)]
pub struct KindGates {
    /// Whether any gate looks at such values.
    pub used: bool,
    /// The nodes they need, parents first.
    pub nodes: Vec<u16>,
    /// A value without these bytes is the same at all these nodes.
    pub trigger: ByteSet,
    /// Gates without literals.
    pub unlettered: Vec<u32>,
}

/// A transformation after another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// The node before.
    pub parent: u16,
    /// What is done.
    pub transform: Transform,
    /// Which bytes make a difference to it.
    pub trigger: ByteSet,
}

/// Without this a rule cannot match a value.
#[derive(Debug)]
pub struct Gate {
    /// The rule's phase.
    pub phase: u8,
    /// Its position there.
    pub position: u32,
    /// The kinds of value it looks at, a bit each.
    pub kinds: u64,
    /// Where in the tree of transformations its text is; several with
    /// `multiMatch`.
    pub nodes: Vec<u16>,
    /// Of each of these a byte must occur.
    pub sets: Vec<ByteSet>,
}

/// Values that gates can look at, by where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    ArgsGet,
    ArgsPost,
    ArgsGetNames,
    ArgsPostNames,
    Cookies,
    CookiesNames,
    RequestHeaders,
    RequestHeadersNames,
    Files,
    FilesNames,
    FilesContent,
    MultipartPartHeaders,
    XmlText,
    XmlAttributes,
    RequestUri,
    RequestUriRaw,
    RequestFilename,
    RequestBasename,
    QueryString,
    RequestLine,
    RequestMethod,
    RequestProtocol,
    RequestBody,
    ResponseBody,
    ResponseHeaders,
    ResponseHeadersNames,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 26;

    /// All of them, in order.
    pub const ALL: [Kind; Kind::COUNT] = {
        use Kind::*;
        [
            ArgsGet,
            ArgsPost,
            ArgsGetNames,
            ArgsPostNames,
            Cookies,
            CookiesNames,
            RequestHeaders,
            RequestHeadersNames,
            Files,
            FilesNames,
            FilesContent,
            MultipartPartHeaders,
            XmlText,
            XmlAttributes,
            RequestUri,
            RequestUriRaw,
            RequestFilename,
            RequestBasename,
            QueryString,
            RequestLine,
            RequestMethod,
            RequestProtocol,
            RequestBody,
            ResponseBody,
            ResponseHeaders,
            ResponseHeadersNames,
        ]
    };

    /// The kinds a variable is made of; none of one that gates do not look at.
    pub fn of(variable: Variable) -> &'static [Kind] {
        match variable {
            Variable::Args => &[Kind::ArgsGet, Kind::ArgsPost],
            Variable::ArgsNames => &[Kind::ArgsGetNames, Kind::ArgsPostNames],
            Variable::ArgsGet => &[Kind::ArgsGet],
            Variable::ArgsPost => &[Kind::ArgsPost],
            Variable::ArgsGetNames => &[Kind::ArgsGetNames],
            Variable::ArgsPostNames => &[Kind::ArgsPostNames],
            Variable::RequestCookies => &[Kind::Cookies],
            Variable::RequestCookiesNames => &[Kind::CookiesNames],
            Variable::RequestHeaders => &[Kind::RequestHeaders],
            Variable::RequestHeadersNames => &[Kind::RequestHeadersNames],
            Variable::Files | Variable::MultipartFilename => &[Kind::Files],
            Variable::FilesNames | Variable::MultipartName => &[Kind::FilesNames],
            Variable::FilesTmpContent => &[Kind::FilesContent],
            Variable::MultipartPartHeaders => &[Kind::MultipartPartHeaders],
            Variable::XmlText => &[Kind::XmlText],
            Variable::XmlAttributes => &[Kind::XmlAttributes],
            Variable::RequestUri => &[Kind::RequestUri],
            Variable::RequestUriRaw => &[Kind::RequestUriRaw],
            Variable::RequestFilename => &[Kind::RequestFilename],
            Variable::RequestBasename => &[Kind::RequestBasename],
            Variable::QueryString => &[Kind::QueryString],
            Variable::RequestLine => &[Kind::RequestLine],
            Variable::RequestMethod => &[Kind::RequestMethod],
            Variable::RequestProtocol => &[Kind::RequestProtocol],
            Variable::RequestBody => &[Kind::RequestBody],
            Variable::ResponseBody => &[Kind::ResponseBody],
            Variable::ResponseHeaders => &[Kind::ResponseHeaders],
            Variable::ResponseHeadersNames => &[Kind::ResponseHeadersNames],
            _ => &[],
        }
    }
}
