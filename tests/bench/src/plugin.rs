//! What plugins add: the same request without one and with one, in turns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cases::{CONNECTIONS, Load};
use crate::load::{Outcome, Tls};
use crate::origin::SMALL;
use crate::proxy::{Contender, Kit, Program, Proxy, Stage};
use crate::report::{Added, Circumstances, Line, LoadFigures};
use crate::stats::Spread;
use crate::{cost, report};

/// A request without a plugin and with one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    /// Its name in reports and in the history.
    pub(crate) name: &'static str,
    what: &'static str,
    without: &'static str,
    with: &'static str,
    /// Bytes of the request's body.
    upload: usize,
    /// Bytes of the answer's body.
    answer: usize,
    /// Whether nginx has the same in Lua.
    in_lua: bool,
    /// Microseconds that may be added; none: there is no goal for it.
    goal: Option<f64>,
}

const NONE: &str = "/plugin/none/api/v1/orders";
const KIB: usize = 1024;
/// Bytes of what functions answer.
const HELLO: usize = "hello".len();

/// Every pair.
pub(crate) const PAIRS: &[Pair] = &[
    filter("plugin-head", "a filter's call for the head", "/plugin/head/api/v1/orders", 0, Some(5.0)),
    filter(
        "plugin-body-1KiB",
        "the same, and one for a body of 1 KiB",
        "/plugin/body/api/v1/orders",
        KIB,
        None,
    ),
    filter("plugin-body-16KiB", "the same of 16 KiB", "/plugin/body/api/v1/orders", 16 * KIB, None),
    Pair {
        // The calls for head and body without the guest's own work: what a head
        // may take, and two more.
        in_lua: false,
        ..filter(
            "plugin-crossing-16KiB",
            "a body of 16 KiB shown to a filter that does nothing with it",
            "/plugin/crossing/api/v1/orders",
            16 * KIB,
            Some(7.0),
        )
    },
    fresh(
        "plugin-fresh",
        "a fresh instance for the exchange, over one that is used again",
        "/plugin/crossing/api/v1/orders",
        "/plugin/fresh/api/v1/orders",
        Some(15.0),
    ),
    // What the guest does when it is configured comes on top: here it builds the
    // automaton for its words.
    fresh(
        "plugin-fresh-words",
        "the same, and the guest builds what it searches with",
        "/plugin/head/api/v1/orders",
        "/plugin/fresh-words/api/v1/orders",
        None,
    ),
    function("plugin-function-fresh", "/plugin/function-fresh/hello", 80.0),
    function("plugin-function-reused", "/plugin/function/hello", 30.0),
    Pair {
        in_lua: false,
        ..filter(
            "plugin-waf-get",
            "the firewall's rules for PHP on a clean GET whose query is another each time",
            // The nine zeros become a number of each request's own.
            "/plugin/waf/api/v1/orders?page=000000000&q=green+tea",
            0,
            Some(15.0),
        )
    },
];

const fn filter(
    name: &'static str,
    what: &'static str,
    with: &'static str,
    upload: usize,
    goal: Option<f64>,
) -> Pair {
    Pair { name, what, without: NONE, with, upload, answer: SMALL.1, in_lua: true, goal }
}

const fn fresh(
    name: &'static str,
    what: &'static str,
    without: &'static str,
    with: &'static str,
    goal: Option<f64>,
) -> Pair {
    Pair { name, what, without, with, upload: 0, answer: SMALL.1, in_lua: false, goal }
}

const fn function(name: &'static str, with: &'static str, goal: f64) -> Pair {
    let what = "an edge function, over an answer that is made without one";
    Pair {
        name,
        what,
        without: "/plugin/mocked/hello",
        with,
        upload: 0,
        answer: HELLO,
        in_lua: false,
        goal: Some(goal),
    }
}

impl Pair {
    fn load(&self, path: &'static str) -> Load {
        Load::Http {
            tls: false,
            connections: CONNECTIONS,
            path,
            upload: self.upload,
            body_bytes: self.answer,
        }
    }
}

/// Measures `pairs` on all contenders that have them.
pub(crate) fn run(
    pairs: &[&Pair],
    circumstances: &Circumstances,
    contenders: &[Contender],
    stage: &Stage,
    tls: &Tls,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let components = components();
    let proxies: Vec<(&Contender, Proxy)> = contenders
        .iter()
        .filter(|contender| contender.program != Program::Haproxy)
        .map(|contender| Ok((contender, Proxy::start(contender, stage, Kit::Plugins(&components), 900)?)))
        .collect::<Result<_>>()?;
    for pair in pairs {
        let takes_part: Vec<&(&Contender, Proxy)> = proxies
            .iter()
            .filter(|(contender, _)| pair.in_lua || contender.program != Program::Nginx)
            .collect();
        let rounds = rounds(pair, &takes_part, circumstances, stage, tls)?;
        let mut added = Vec::new();
        for ((contender, _), rounds) in takes_part.iter().zip(&rounds) {
            let costs = || rounds.iter().map(|(without, with)| (cost(without), cost(with)));
            let spread = |values: Vec<f64>| Spread::of(values).context("no round");
            let with: Vec<Outcome> = rounds.iter().map(|(_, with)| with.clone()).collect();
            let without: Vec<Outcome> = rounds.iter().map(|(without, _)| without.clone()).collect();
            let line = Line {
                case: pair.name,
                contender: contender.name.clone(),
                cost: spread(costs().map(|(without, with)| with - without).collect())?,
                ratio: spread(costs().map(|(without, with)| with / without).collect())?,
                load: LoadFigures::of(&with),
            };
            let goal = pair.goal.filter(|_| contender.program != Program::Nginx);
            added.push(Added { line, without: LoadFigures::of(&without), goal });
        }
        report::print_added(&format!("{}: {}", pair.name, pair.what), &added);
        lines.extend(added.into_iter().map(|added| added.line));
    }
    Ok(())
}

type Round = (Outcome, Outcome);

/// Loads each proxy in turn, without and with, another one and another way
/// first in each round.
fn rounds(
    pair: &Pair,
    proxies: &[&(&Contender, Proxy)],
    circumstances: &Circumstances,
    stage: &Stage,
    tls: &Tls,
) -> Result<Vec<Vec<Round>>> {
    let load = |proxy: &Proxy, path: &'static str, seconds: f64| {
        let outcome = stage
            .bed
            .run(pair.load(path), &proxy.ports, tls, &proxy.tree(), Duration::from_secs_f64(seconds))
            .with_context(|| format!("{} under {} at {path}\n{}", proxy.name, pair.name, proxy.log()))?;
        if outcome.operations == 0 {
            bail!("{} finished nothing at {path}", proxy.name);
        }
        Ok(outcome)
    };
    for (_, proxy) in proxies {
        load(proxy, pair.without, 0.3)?;
        load(proxy, pair.with, 0.3)?;
    }
    let mut rounds: Vec<Vec<Round>> = proxies.iter().map(|_| Vec::new()).collect();
    for round in 0..circumstances.rounds {
        for turn in 0..proxies.len() {
            let index = (round + turn) % proxies.len();
            let proxy = &proxies[index].1;
            let outcomes = if round % 2 == 0 {
                let without = load(proxy, pair.without, circumstances.seconds)?;
                (without, load(proxy, pair.with, circumstances.seconds)?)
            } else {
                let with = load(proxy, pair.with, circumstances.seconds)?;
                (load(proxy, pair.without, circumstances.seconds)?, with)
            };
            rounds[index].push(outcomes);
        }
    }
    Ok(rounds)
}

/// Where `cargo xtask plugins` puts components.
pub(crate) fn components() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}
