//! Which rules can match which values.

use super::Transaction;
use crate::pattern::grams;
use crate::program::{KindGates, Program};
use crate::text::table::TextId;

/// A rule that may match a value: position in the phase, kind, index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    fn new(position: u32, kind: usize, index: usize) -> Candidate {
        Candidate(u64::from(position) << 32 | (kind as u64) << 24 | index as u64 & 0xff_ffff)
    }

    pub(super) fn position(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn kind(self) -> usize {
        (self.0 >> 24 & 0xff) as usize
    }

    pub(super) fn index(self) -> usize {
        (self.0 & 0xff_ffff) as usize
    }
}

/// Buffers for finding candidates, kept from value to value.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) candidates: Vec<Candidate>,
    node_texts: Vec<TextId>,
    seen_texts: Vec<TextId>,
    folded: Vec<u8>,
    literals: Vec<u32>,
    /// A bit for each literal: whether this scan has found it already.
    found: Vec<u64>,
}

impl Scratch {
    pub(super) fn new(program: &Program) -> Scratch {
        Scratch {
            candidates: Vec::new(),
            node_texts: vec![TextId::EMPTY; program.nodes.len()],
            seen_texts: Vec::new(),
            folded: Vec::new(),
            literals: Vec::new(),
            found: vec![0; program.literal_gates.len().div_ceil(64)],
        }
    }

    /// Leaves the gates whose literals stand in a text, in order.
    fn scan(&mut self, program: &Program, text: &[u8], hits: &mut Vec<u32>) {
        grams::fold_into(text, &mut self.folded);
        self.literals.clear();
        program.grams.scan(&self.folded, |literal| {
            let (word, bit) = (&mut self.found[literal as usize / 64], 1 << (literal % 64));
            if *word & bit == 0 {
                *word |= bit;
                self.literals.push(literal);
            }
        });
        let start = hits.len();
        for &literal in &self.literals {
            self.found[literal as usize / 64] = 0;
            hits.extend_from_slice(&program.literal_gates[literal as usize]);
        }
        hits[start..].sort_unstable();
        let mut kept = start;
        for at in start..hits.len() {
            if at == start || hits[at] != hits[kept - 1] {
                hits[kept] = hits[at];
                kept += 1;
            }
        }
        hits.truncate(kept);
    }
}

impl Transaction {
    /// Finds the candidates of a phase, in order.
    pub(super) fn find_candidates(&mut self, program: &Program, phase: u8) {
        self.scratch.candidates.clear();
        let table = &program.phases[usize::from(phase) - 1];
        for (kind, gates) in table.kinds.iter().enumerate().filter(|(_, gates)| gates.used) {
            for index in 0..self.values[kind].len() {
                let text = self.values[kind][index].text;
                if self.texts.present(text).intersects(&gates.trigger) {
                    self.candidates_of_tree(program, phase, gates, kind, index);
                } else {
                    self.candidates_of_text(program, phase, gates, kind, index, text, Nodes::All);
                }
            }
        }
        self.scratch.candidates.sort_unstable();
        self.scratch.candidates.dedup();
    }

    /// A value that some transformation may change.
    fn candidates_of_tree(
        &mut self,
        program: &Program,
        phase: u8,
        gates: &KindGates,
        kind: usize,
        index: usize,
    ) {
        let text = self.values[kind][index].text;
        for &node in &gates.nodes {
            let of_node = match node {
                0 => text,
                _ => {
                    let step = &program.nodes[usize::from(node)];
                    let before = self.scratch.node_texts[usize::from(step.parent)];
                    self.texts.transformed(before, step.transform, &step.trigger)
                }
            };
            self.scratch.node_texts[usize::from(node)] = of_node;
        }
        self.scratch.seen_texts.clear();
        for &node in &gates.nodes {
            let text = self.scratch.node_texts[usize::from(node)];
            if !self.scratch.seen_texts.contains(&text) {
                self.scratch.seen_texts.push(text);
                self.candidates_of_text(program, phase, gates, kind, index, text, Nodes::WithText);
            }
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the innermost step; a struct of these would be built a text"
    )]
    fn candidates_of_text(
        &mut self,
        program: &Program,
        phase: u8,
        gates: &KindGates,
        kind: usize,
        index: usize,
        text: TextId,
        nodes: Nodes,
    ) {
        let scratch = &mut self.scratch;
        let (start, end) = self.texts.hits(text, |text, hits| scratch.scan(program, text, hits));
        let present = self.texts.present(text).folded();
        let consider = |number: u32, texts_of_nodes: &[TextId]| {
            let gate = &program.gates[number as usize];
            let here = match nodes {
                Nodes::All => true,
                Nodes::WithText => gate.nodes.iter().any(|node| texts_of_nodes[usize::from(*node)] == text),
            };
            (here && gate.sets.iter().all(|set| set.intersects(&present)))
                .then(|| Candidate::new(gate.position, kind, index))
        };
        for hit in start..end {
            let number = self.texts.hit(hit);
            let gate = &program.gates[number as usize];
            if gate.phase == phase && gate.kinds >> kind & 1 == 1 {
                let candidate = consider(number, &scratch.node_texts);
                scratch.candidates.extend(candidate);
            }
        }
        for &number in &gates.unlettered {
            let candidate = consider(number, &scratch.node_texts);
            scratch.candidates.extend(candidate);
        }
    }
}

/// At which nodes of the tree a value is a certain text.
#[derive(Clone, Copy)]
enum Nodes {
    All,
    /// Where the table of texts says so.
    WithText,
}
