//! Expressions over variables, as lua-resty-expr has them.
//!
//! `[["arg_x", "==", "1"], ["OR", […], […]]]` is parsed once into a tree of
//! comparisons with their regular expressions compiled and their numbers and
//! address lists read. `docs/routing.md` lists the operators.

use std::fmt::Write as _;

use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value as Json;

use crate::message::{IpSet, Stage, Subject, Variable};

/// Deepest nesting of an expression.
const DEPTH_MAX: usize = 16;
/// Largest number of comparisons in one expression.
const COMPARISONS_MAX: usize = 256;
/// Longest regular expression, in bytes.
const REGEX_TEXT_MAX: usize = 4096;
/// Largest compiled regular expression, in bytes.
pub const REGEX_SIZE_MAX: usize = 256 << 10;

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}", at = if at.is_empty() { "expression" } else { at })]
pub struct ExpressionError {
    /// Where in the expression, as in `[1][2]`; empty for the whole.
    pub at: String,
    /// What is wrong, with the value.
    pub message: String,
}

/// Compiles a regular expression within the bounds that hold everywhere.
///
/// # Errors
/// Says what is wrong with it in one line.
pub fn compile_regex(text: &str, ignore_case: bool) -> Result<Regex, String> {
    if text.len() > REGEX_TEXT_MAX {
        return Err(format!("regular expression of {} bytes is over {REGEX_TEXT_MAX}", text.len()));
    }
    let built = RegexBuilder::new(text)
        .case_insensitive(ignore_case)
        .size_limit(REGEX_SIZE_MAX)
        .dfa_size_limit(REGEX_SIZE_MAX)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("regular expression {text:?} is over {REGEX_SIZE_MAX} bytes when compiled")
        }
        error => {
            let detail = error.to_string();
            let reason = detail.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            format!("{text:?} is not a regular expression: {reason}")
        }
    })
}

#[derive(Debug, Clone)]
enum Test {
    /// Equal to text.
    Text(Box<[u8]>),
    /// Equal to a number.
    Number(f64),
    /// Equal to nothing: absent.
    Absent,
    More(f64),
    AtLeast(f64),
    Less(f64),
    AtMost(f64),
    Regex(Regex),
    In(Box<[Member]>),
    Has(Box<[u8]>),
    Addresses(IpSet),
}

#[derive(Debug, Clone)]
enum Member {
    Text(Box<[u8]>),
    Number(f64),
}

#[derive(Debug, Clone)]
enum Term {
    Compare { variable: Variable, test: Test, is_negated: bool },
    All(Box<[Term]>),
    Any(Box<[Term]>),
    Not(Box<Term>),
}

/// A condition on a subject.
#[derive(Debug, Clone)]
pub struct Expression {
    term: Term,
    needs_body: bool,
}

impl Expression {
    /// Parses an expression for use at a stage. An empty list always holds.
    ///
    /// # Errors
    /// Says where in the expression and what.
    pub fn parse(value: &Json, stage: Stage) -> Result<Self, ExpressionError> {
        let mut parser = Parser { stage, at: String::new(), comparisons: 0, needs_body: false };
        let Json::Array(list) = value else {
            return parser.fail(format!("expected a list of conditions, found {value}"));
        };
        if let Some(Json::String(first)) = list.first()
            && Logic::of(first).is_none()
        {
            return parser.fail(format!("conditions stand in a list of their own: [[{first:?}, …]]"));
        }
        let term = if list.is_empty() { Term::All(Box::default()) } else { parser.term(list, 0)? };
        Ok(Self { term, needs_body: parser.needs_body })
    }

    /// Whether it holds for the subject.
    #[must_use]
    pub fn holds(&self, subject: &Subject<'_>) -> bool {
        self.term.holds(subject)
    }

    /// Whether looking at it needs the request's body.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.needs_body
    }
}

#[derive(Clone, Copy)]
struct Logic {
    is_any: bool,
    is_negated: bool,
}

impl Logic {
    fn of(word: &str) -> Option<Self> {
        let (is_any, is_negated) = match word.to_ascii_uppercase().as_str() {
            "AND" => (false, false),
            "OR" => (true, false),
            "!AND" => (false, true),
            "!OR" => (true, true),
            _ => return None,
        };
        Some(Self { is_any, is_negated })
    }
}

struct Parser {
    stage: Stage,
    at: String,
    comparisons: usize,
    needs_body: bool,
}

impl Parser {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ExpressionError> {
        Err(ExpressionError { at: self.at.clone(), message: message.into() })
    }

    /// Runs `parse` for the element `index`, so that errors name it.
    fn within<T>(
        &mut self,
        index: usize,
        parse: impl FnOnce(&mut Self) -> Result<T, ExpressionError>,
    ) -> Result<T, ExpressionError> {
        let length = self.at.len();
        let _ = write!(self.at, "[{index}]");
        let parsed = parse(self)?;
        self.at.truncate(length);
        Ok(parsed)
    }

    fn term(&mut self, list: &[Json], depth: usize) -> Result<Term, ExpressionError> {
        if depth > DEPTH_MAX {
            return self.fail(format!("is nested deeper than {DEPTH_MAX} levels"));
        }
        match list.first() {
            None => self.fail("an empty condition"),
            Some(Json::Array(_)) => Ok(Term::All(self.terms(list, 0, depth)?)),
            Some(Json::String(word)) => match Logic::of(word) {
                Some(logic) => self.logic(word, logic, list, depth),
                None => self.comparison(word, &list[1..]),
            },
            Some(other) => {
                self.within(0, |own| own.fail(format!("expected a variable's name, found {other}")))
            }
        }
    }

    fn terms(&mut self, list: &[Json], from: usize, depth: usize) -> Result<Box<[Term]>, ExpressionError> {
        let mut terms = Vec::with_capacity(list.len());
        for (index, item) in list.iter().enumerate().skip(from) {
            terms.push(self.within(index, |own| match item {
                Json::Array(inner) => own.term(inner, depth + 1),
                other => own.fail(format!("expected a condition [variable, operator, value], found {other}")),
            })?);
        }
        Ok(terms.into())
    }

    fn logic(
        &mut self,
        word: &str,
        logic: Logic,
        list: &[Json],
        depth: usize,
    ) -> Result<Term, ExpressionError> {
        if list.len() < 3 {
            return self.fail(format!("{word:?} needs at least two conditions"));
        }
        let terms = self.terms(list, 1, depth)?;
        let term = if logic.is_any { Term::Any(terms) } else { Term::All(terms) };
        Ok(if logic.is_negated { Term::Not(Box::new(term)) } else { term })
    }

    fn comparison(&mut self, name: &str, rest: &[Json]) -> Result<Term, ExpressionError> {
        self.comparisons += 1;
        if self.comparisons > COMPARISONS_MAX {
            return self.fail(format!("there are more than {COMPARISONS_MAX} comparisons"));
        }
        let variable = match Variable::parse(name, self.stage) {
            Ok(variable) => variable,
            Err(error) => return self.within(0, |own| own.fail(error.to_string())),
        };
        self.needs_body |= variable.needs_body();
        let (is_negated, first, rest) = match rest {
            [Json::String(not), rest @ ..] if not == "!" && rest.len() == 2 => (true, 2, rest),
            rest => (false, 1, rest),
        };
        let (operator, value) = match rest {
            // Two elements mean equality.
            [value] if !is_negated => ("==".to_owned(), value),
            [Json::String(operator), value] => (operator.to_ascii_lowercase(), value),
            [other, _] => {
                return self.within(first, |own| own.fail(format!("expected an operator, found {other}")));
            }
            _ => {
                return self
                    .fail("expected [variable, operator, value] or [variable, \"!\", operator, value]");
            }
        };
        let is_unequal = operator == "~=";
        let operator = if is_unequal { "==" } else { &operator };
        let test = match self.test(operator, value) {
            Ok(test) => test,
            Err(Problem::Operator) => {
                return self.within(first, |own| own.fail(format!("unknown operator {operator:?}")));
            }
            Err(Problem::Value(message)) => {
                let index = first + usize::from(rest.len() == 2);
                return self.within(index, |own| own.fail(message));
            }
        };
        Ok(Term::Compare { variable, test, is_negated: is_negated != is_unequal })
    }

    fn test(&self, operator: &str, value: &Json) -> Result<Test, Problem> {
        Ok(match operator {
            "==" => match value {
                Json::Null => Test::Absent,
                Json::Number(_) => Test::Number(number(value)?),
                value => Test::Text(scalar(value)?),
            },
            ">" => Test::More(number(value)?),
            ">=" => Test::AtLeast(number(value)?),
            "<" => Test::Less(number(value)?),
            "<=" => Test::AtMost(number(value)?),
            "~~" | "~*" => {
                let Json::String(text) = value else {
                    return Err(Problem::Value(format!("expected a regular expression, found {value}")));
                };
                Test::Regex(compile_regex(text, operator == "~*").map_err(Problem::Value)?)
            }
            "in" => Test::In(list(value)?.iter().map(member).collect::<Result<_, _>>()?),
            "has" => Test::Has(scalar(value)?),
            "ipmatch" => Test::Addresses(addresses(value)?),
            _ => return Err(Problem::Operator),
        })
    }
}

enum Problem {
    Operator,
    Value(String),
}

fn number(value: &Json) -> Result<f64, Problem> {
    let parsed = match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    };
    parsed.ok_or_else(|| Problem::Value(format!("expected a number, found {value}")))
}

fn scalar(value: &Json) -> Result<Box<[u8]>, Problem> {
    match value {
        Json::String(text) => Ok(text.as_bytes().into()),
        Json::Number(number) => Ok(number.to_string().into_bytes().into()),
        Json::Bool(flag) => Ok(flag.to_string().into_bytes().into()),
        other => Err(Problem::Value(format!("expected text or a number, found {other}"))),
    }
}

fn list(value: &Json) -> Result<&[Json], Problem> {
    match value {
        Json::Array(list) => Ok(list),
        other => Err(Problem::Value(format!("expected a list, found {other}"))),
    }
}

fn member(value: &Json) -> Result<Member, Problem> {
    Ok(match value {
        Json::Number(_) => Member::Number(number(value)?),
        value => Member::Text(scalar(value)?),
    })
}

fn addresses(value: &Json) -> Result<IpSet, Problem> {
    let single = std::slice::from_ref(value);
    let list = if value.is_string() { single } else { list(value)? };
    let texts: Option<Vec<&str>> = list.iter().map(Json::as_str).collect();
    let texts = texts.ok_or_else(|| Problem::Value(format!("expected addresses, found {value}")))?;
    IpSet::parse(&texts).map_err(|error| Problem::Value(error.to_string()))
}

impl Term {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::All(terms) => terms.iter().all(|term| term.holds(subject)),
            Self::Any(terms) => terms.iter().any(|term| term.holds(subject)),
            Self::Not(term) => !term.holds(subject),
            Self::Compare { variable, test, is_negated } => {
                let value = variable.read(subject);
                test.passes(value.as_deref()) != *is_negated
            }
        }
    }
}

impl Test {
    fn passes(&self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return matches!(self, Self::Absent) };
        match self {
            Self::Text(text) => value == &**text,
            Self::Number(own) => read_number(value) == Some(*own),
            Self::Absent => false,
            Self::More(bound) => read_number(value).is_some_and(|number| number > *bound),
            Self::AtLeast(bound) => read_number(value).is_some_and(|number| number >= *bound),
            Self::Less(bound) => read_number(value).is_some_and(|number| number < *bound),
            Self::AtMost(bound) => read_number(value).is_some_and(|number| number <= *bound),
            Self::Regex(regex) => regex.is_match(value),
            Self::In(members) => members.iter().any(|member| match member {
                Member::Text(text) => value == &**text,
                Member::Number(own) => read_number(value) == Some(*own),
            }),
            // A variable is text; its elements are what commas part.
            Self::Has(element) => {
                value.split(|byte| *byte == b',').any(|part| part.trim_ascii() == &**element)
            }
            Self::Addresses(set) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .is_some_and(|ip| set.contains(ip)),
        }
    }
}

fn read_number(value: &[u8]) -> Option<f64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::route::testing::{Request, client};

    fn holds(expression: Json, request: &Request) -> bool {
        let expression = Expression::parse(&expression, Stage::Request).unwrap();
        let client = client("192.0.2.7:4711");
        let head = request.head();
        expression.holds(&Subject::of_request(&client, client.ip(), &head))
    }

    #[test]
    fn every_operator_says_yes_and_no() {
        let request = Request::get("/shop?age=30&name=Jack&list=a,b%20,c&n=x&empty=")
            .header("X-Kind", "beta")
            .header("Cookie", "sid=7; theme=dark");
        let table = [
            (json!([["arg_name", "==", "Jack"]]), true),
            (json!([["arg_name", "Jack"]]), true),
            (json!([["arg_name", "==", "jack"]]), false),
            (json!([["arg_age", "==", 30]]), true),
            (json!([["arg_age", "==", "30.0"]]), false),
            (json!([["arg_n", "==", 30]]), false),
            (json!([["arg_missing", "==", null]]), true),
            (json!([["arg_name", "~=", "Jill"]]), true),
            (json!([["arg_missing", "~=", "x"]]), true),
            (json!([["arg_missing", "~=", null]]), false),
            (json!([["arg_n", "~=", 1]]), true),
            (json!([["arg_age", ">", 29]]), true),
            (json!([["arg_age", ">", "30"]]), false),
            (json!([["arg_age", ">=", 30]]), true),
            (json!([["arg_age", "<", 30.5]]), true),
            (json!([["arg_age", "<=", 29]]), false),
            (json!([["arg_n", "<", 1]]), false),
            (json!([["arg_name", "~~", "^J[a-c]"]]), true),
            (json!([["arg_name", "~~", "^j"]]), false),
            (json!([["arg_name", "~*", "^j"]]), true),
            (json!([["arg_name", "!", "~~", "^J"]]), false),
            (json!([["arg_missing", "~~", "."]]), false),
            (json!([["arg_missing", "!", "~~", "."]]), true),
            (json!([["http_x_kind", "in", ["alpha", "beta"]]]), true),
            (json!([["http_x_kind", "IN", ["alpha"]]]), false),
            (json!([["arg_age", "in", [29, 30]]]), true),
            (json!([["http_x_kind", "!", "in", ["alpha"]]]), true),
            (json!([["arg_list", "has", "b"]]), true),
            (json!([["arg_list", "has", "d"]]), false),
            (json!([["remote_addr", "ipmatch", ["192.0.2.0/24"]]]), true),
            (json!([["remote_addr", "!", "ipmatch", ["192.0.2.0/24"]]]), false),
            (json!([["cookie_theme", "==", "dark"], ["uri", "==", "/shop"]]), true),
            (json!([["cookie_theme", "==", "dark"], ["uri", "==", "/"]]), false),
            (json!(["OR", ["uri", "==", "/"], ["arg_age", "==", 30]]), true),
            (json!(["!OR", ["uri", "==", "/"], ["arg_age", "==", 30]]), false),
            (json!(["!AND", ["uri", "==", "/"], ["arg_age", "==", 30]]), true),
            (json!(["AND", ["OR", ["uri", "==", "/"], ["uri", "==", "/shop"]], ["arg_age", "==", 30]]), true),
            (json!([["OR", ["uri", "==", "/"], ["uri", "==", "/x"]], ["arg_age", "==", 30]]), false),
            (json!([]), true),
        ];
        for (expression, expected) in table {
            assert_eq!(holds(expression.clone(), &request), expected, "{expression}");
        }
    }

    #[test]
    fn bad_expressions_name_the_place_and_the_value() {
        let table = [
            (json!({}), "", "expected a list of conditions, found {}"),
            (json!(["arg_x", "==", 1]), "", "conditions stand in a list of their own: [[\"arg_x\", …]]"),
            (json!([["arg_x", "=", 1]]), "[0][1]", "unknown operator \"=\""),
            (json!([["arg_x", "!", "=~", 1]]), "[0][2]", "unknown operator \"=~\""),
            (
                json!([["arg_x"]]),
                "[0]",
                "expected [variable, operator, value] or [variable, \"!\", operator, value]",
            ),
            (json!([["arg_x", "==", "a"], []]), "[1]", "an empty condition"),
            (
                json!([["arg_x", "==", "a"], 7]),
                "[1]",
                "expected a condition [variable, operator, value], found 7",
            ),
            (json!([[7, "==", "a"]]), "[0][0]", "expected a variable's name, found 7"),
            (json!([["uri", ">", "a"]]), "[0][2]", "expected a number, found \"a\""),
            (json!([["uri", "~~", 5]]), "[0][2]", "expected a regular expression, found 5"),
            (json!([["uri", "~~", "a("]]), "[0][2]", "\"a(\" is not a regular expression: unclosed group"),
            (json!([["uri", "in", "a"]]), "[0][2]", "expected a list, found \"a\""),
            (json!([["uri", "==", ["a"]]]), "[0][2]", "expected text or a number, found [\"a\"]"),
            (
                json!([["remote_addr", "ipmatch", ["10.0.0.0/40"]]]),
                "[0][2]",
                "\"10.0.0.0/40\" is neither an IP address nor a CIDR block",
            ),
            (json!(["OR", ["uri", "/"]]), "", "\"OR\" needs at least two conditions"),
            (
                json!([["uri", "/"], ["OR", ["uri", "/"], ["uri", "<", {}]]]),
                "[1][2][2]",
                "expected a number, found {}",
            ),
            (json!([["nonsense", "==", 1]]), "[0][0]", "unknown variable \"nonsense\""),
            (
                json!([["frame_from", "==", 1]]),
                "[0][0]",
                "variable \"frame_from\" has no value here: it is known only for the frames of a stream route",
            ),
        ];
        for (expression, at, message) in table {
            let error = Expression::parse(&expression, Stage::Route).unwrap_err();
            assert_eq!((error.at.as_str(), error.message.as_str()), (at, message), "{expression}");
        }
    }

    #[test]
    fn nesting_size_and_regexes_are_bounded() {
        let mut deep = json!([["uri", "==", "/"]]);
        for _ in 0..DEPTH_MAX {
            deep = json!([deep]);
        }
        let error = Expression::parse(&deep, Stage::Route).unwrap_err();
        assert_eq!(error.message, "is nested deeper than 16 levels");
        let wide = Json::Array(vec![json!(["uri", "==", "/"]); COMPARISONS_MAX + 1]);
        let error = Expression::parse(&wide, Stage::Route).unwrap_err();
        assert_eq!(
            (error.at.as_str(), error.message.as_str()),
            ("[256]", "there are more than 256 comparisons")
        );
        let error = Expression::parse(&json!([["uri", "~~", "(a{1000}){1000}"]]), Stage::Route).unwrap_err();
        assert!(error.message.contains("bytes when compiled"), "{error}");
    }
}
