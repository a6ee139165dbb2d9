//! Gates: what keeps a rule from being tried on values it cannot match.

use std::collections::HashMap;

use crate::lang::variables::Variable;
use crate::pattern::grams::Grams;
use crate::program::{Gate, Kind, KindGates, Link, Node, Phase, Rule};
use crate::text::bytes::ByteSet;
use crate::text::transform::Transform;

/// The tables of the gates of all phases.
pub(super) struct Tables {
    pub(super) phases: [Phase; 5],
    pub(super) nodes: Vec<Node>,
    pub(super) gates: Vec<Gate>,
    pub(super) grams: Grams,
    pub(super) literal_gates: Vec<Vec<u32>>,
}

/// Makes the tables for rules in their order.
pub(super) fn build(rules: &[Rule]) -> Tables {
    let mut phases: [Phase; 5] = Default::default();
    for phase in &mut phases {
        phase.kinds = vec![KindGates::default(); Kind::COUNT];
    }
    let root = Node { parent: 0, transform: Transform::Length, trigger: ByteSet::EMPTY };
    let mut nodes = vec![root];
    let mut gates = Vec::new();
    let mut literals: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut literal_gates: Vec<Vec<u32>> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let phase = &mut phases[usize::from(rule.phase) - 1];
        let position = phase.order.len() as u32;
        phase.order.push(index as u32);
        let link = &rule.links[0];
        let (Some(kinds), Some(required)) = (kinds(link), link.operator.required().filter(|_| !link.negated))
        else {
            phase.always.push(position);
            continue;
        };
        let number = gates.len() as u32;
        let path = path(link, &mut nodes);
        for kind in Kind::ALL.iter().filter(|kind| kinds >> **kind as u8 & 1 == 1) {
            let entry = &mut phase.kinds[*kind as usize];
            entry.used = true;
            for &node in &path {
                need(entry, node, &nodes);
            }
            if required.literals.is_none() {
                entry.unlettered.push(number);
            }
        }
        for literal in required.literals.into_iter().flatten() {
            let next = literals.len() as u32;
            let id = *literals.entry(literal).or_insert(next);
            if id == next {
                literal_gates.push(Vec::new());
            }
            literal_gates[id as usize].push(number);
        }
        let nodes = if link.multi_match { path } else { path.last().copied().into_iter().collect() };
        gates.push(Gate { phase: rule.phase, position, kinds, nodes, sets: required.sets });
    }
    let literals: Vec<(Vec<u8>, u32)> = literals.into_iter().collect();
    Tables { phases, nodes, gates, grams: Grams::new(&literals), literal_gates }
}

/// The kinds of value a link looks at, a bit each; none if it also looks at
/// something that has no kind.
fn kinds(link: &Link) -> Option<u64> {
    let mut kinds = 0;
    for target in &link.targets.included {
        let of_target = Kind::of(target.variable);
        if of_target.is_empty() || target.count || target.variable == Variable::Tx {
            return None;
        }
        kinds |= of_target.iter().fold(0, |bits, kind| bits | 1u64 << *kind as u8);
    }
    (kinds != 0).then_some(kinds)
}

/// The nodes of a link's transformations, from the text as it is. Those that
/// only change capitals are left out where gates, which see no capitals, come
/// to the same result.
fn path(link: &Link, nodes: &mut Vec<Node>) -> Vec<u16> {
    let mut path = vec![0];
    for (at, (transform, trigger)) in link.transforms.iter().enumerate() {
        let folds = matches!(transform, Transform::Lowercase | Transform::Uppercase);
        if folds && link.transforms[at + 1..].iter().all(|(later, _)| later.keeps_folding()) {
            continue;
        }
        let node = Node { parent: path[path.len() - 1], transform: *transform, trigger: *trigger };
        let index =
            nodes.iter().skip(1).position(|known| *known == node).map(|at| at + 1).unwrap_or_else(|| {
                nodes.push(node);
                nodes.len() - 1
            });
        path.push(index as u16);
    }
    path
}

/// Notes that a kind needs this node and those before it.
fn need(entry: &mut KindGates, node: u16, nodes: &[Node]) {
    if entry.nodes.contains(&node) {
        return;
    }
    if node != 0 {
        need(entry, nodes[usize::from(node)].parent, nodes);
        entry.trigger = entry.trigger.union(&nodes[usize::from(node)].trigger);
    }
    entry.nodes.push(node);
}
