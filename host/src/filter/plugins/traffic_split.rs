//! `traffic-split`: some requests go to other upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use serde_json::Value;

use crate::filter::build::{BuildContext, Built, FieldError, UpstreamSource, fields, within};
use crate::filter::chain::Step;
use crate::filter::exchange::Exchange;
use crate::message::{Stage, Subject};
use crate::route::Expression;
use crate::upstream::Upstream;

const RULES_MAX: usize = 128;
const UPSTREAMS_MAX: usize = 20;
const WEIGHT_MAX: u32 = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    rules: Vec<RuleFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    #[serde(default, rename = "match")]
    matches: Option<Vec<MatchFields>>,
    #[serde(default)]
    weighted_upstreams: Option<Vec<WeightedFields>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchFields {
    vars: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightedFields {
    #[serde(default)]
    upstream_id: Option<Value>,
    #[serde(default)]
    upstream: Option<Value>,
    #[serde(default)]
    weight: Option<u32>,
}

/// Upstreams and their shares; `None` is the route's own.
#[derive(Debug)]
struct Shares {
    entries: Box<[(Option<Arc<Upstream>>, u64)]>,
    total: u64,
    /// Steps through all numbers below `total` before any comes again, far
    /// apart from one to the next.
    stride: u64,
    turn: AtomicU64,
}

#[derive(Debug)]
struct Rule {
    matches: Box<[Expression]>,
    shares: Shares,
}

#[derive(Debug)]
pub(in crate::filter) struct TrafficSplit {
    rules: Box<[Rule]>,
}

impl TrafficSplit {
    pub(super) fn build(config: &Value, context: &BuildContext<'_>, _: Option<&Self>) -> Built<Self> {
        let fields: Fields = fields(config)?;
        within("rules", fields.rules.len(), 0, RULES_MAX)?;
        let mut rules = Vec::with_capacity(fields.rules.len());
        for (index, rule) in fields.rules.into_iter().enumerate() {
            let place = format!("rules[{index}]");
            let matches = parse_matches(&format!("{place}.match"), rule.matches.unwrap_or_default())?;
            let shares =
                Shares::build(&format!("{place}.weighted_upstreams"), rule.weighted_upstreams, context)?;
            rules.push(Rule { matches, shares });
        }
        Ok(Self { rules: rules.into() })
    }

    pub(super) fn needs_body(&self) -> bool {
        self.rules.iter().any(|rule| rule.matches.iter().any(Expression::needs_body))
    }

    pub(super) fn request(&self, exchange: &mut Exchange) -> Step {
        let subject = exchange.subject();
        if let Some(rule) = self.rules.iter().find(|rule| rule.holds(&subject)) {
            exchange.upstream = rule.shares.pick().cloned();
        }
        Step::Next
    }
}

fn parse_matches(field: &str, list: Vec<MatchFields>) -> Built<Box<[Expression]>> {
    list.iter()
        .enumerate()
        .map(|(index, entry)| {
            Expression::parse(&entry.vars, Stage::Request)
                .map_err(|error| FieldError::new(format!("{field}[{index}].vars{}", error.at), error.message))
        })
        .collect()
}

impl Rule {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|expression| expression.holds(subject))
    }
}

impl Shares {
    fn build(field: &str, list: Option<Vec<WeightedFields>>, context: &BuildContext<'_>) -> Built<Self> {
        // Without a list all goes to the route's own upstream.
        let list = list
            .unwrap_or_else(|| vec![WeightedFields { upstream_id: None, upstream: None, weight: Some(1) }]);
        within(field, list.len(), 1, UPSTREAMS_MAX)?;
        let mut entries = Vec::with_capacity(list.len());
        for (index, entry) in list.into_iter().enumerate() {
            let place = format!("{field}[{index}]");
            let weight = entry.weight.unwrap_or(1);
            within(&format!("{place}.weight"), weight, 0, WEIGHT_MAX)?;
            entries.push((find_upstream(&place, &entry, context)?, u64::from(weight)));
        }
        let total: u64 = entries.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Err(FieldError::new(field, "all weights are 0"));
        }
        Ok(Self { entries: entries.into(), total, stride: stride(total), turn: AtomicU64::new(0) })
    }

    fn pick(&self) -> Option<&Arc<Upstream>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.total;
        let mut point = turn * self.stride % self.total;
        for (upstream, weight) in &self.entries {
            if point < *weight {
                return upstream.as_ref();
            }
            point -= weight;
        }
        None
    }
}

/// A number without a common divisor with `total`, near its golden section.
fn stride(total: u64) -> u64 {
    let has_none = |number: &u64| {
        let (mut a, mut b) = (*number, total);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let start = (total as f64 * 0.618_034) as u64;
    (start.max(1)..=total).find(has_none).unwrap_or(1)
}

fn find_upstream(
    place: &str,
    entry: &WeightedFields,
    context: &BuildContext<'_>,
) -> Built<Option<Arc<Upstream>>> {
    let (field, source, shown);
    match (&entry.upstream_id, &entry.upstream) {
        (None, None) => return Ok(None),
        (Some(Value::String(id)), _) => {
            (field, source, shown) = ("upstream_id", UpstreamSource::Id(id), Value::from(id.as_str()));
        }
        (Some(Value::Number(id)), _) => {
            let field = format!("{place}.upstream_id");
            return (context.upstream)(UpstreamSource::Id(&id.to_string()))
                .map(Some)
                .map_err(|message| FieldError::with(field, id.to_string(), message));
        }
        (Some(other), _) => {
            return Err(FieldError::with(format!("{place}.upstream_id"), other.clone(), "must be an id"));
        }
        (None, Some(object)) => {
            let inline = format!("{place}.upstream");
            let source = UpstreamSource::Inline { place: &inline, object };
            return (context.upstream)(source)
                .map(Some)
                .map_err(|message| FieldError::new(inline.clone(), message));
        }
    }
    (context.upstream)(source)
        .map(Some)
        .map_err(|message| FieldError::with(format!("{place}.{field}"), shown, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_over_a_round_and_spread_within_it() {
        for weights in [vec![1, 1], vec![3, 7], vec![90, 10], vec![1, 0, 5, 20]] {
            let total = weights.iter().sum::<u64>();
            let mut seen = vec![0_u64; weights.len()];
            for turn in 0..total {
                let mut point = turn * stride(total) % total;
                for (index, weight) in weights.iter().enumerate() {
                    if point < *weight {
                        seen[index] += 1;
                        break;
                    }
                    point -= weight;
                }
            }
            assert_eq!(seen, weights);
        }
    }
}
