//! What is printed and what is kept: medians of ratios with their spread,
//! beside the goals.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cases::Goal;
use crate::load::Outcome;
use crate::stats::{Spread, percentile};

/// Contenders that no goal is for.
const PEERS: [&str; 4] = ["nginx", "nginx-lua", "haproxy", "native"];

/// Figures of one contender in one case.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) case: &'static str,
    pub(crate) contender: String,
    /// CPU time an operation in microseconds, or bytes a connection.
    pub(crate) cost: Spread,
    /// The same relative to the first contender, round by round.
    pub(crate) ratio: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load: Option<LoadFigures>,
}

/// Figures that only load has.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct LoadFigures {
    /// Operations a second, the median of the rounds.
    pub(crate) rate: f64,
    /// Share of one CPU the proxy took.
    pub(crate) busy: f64,
    /// Microseconds, medians of the rounds' percentiles.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl LoadFigures {
    /// Of all rounds of one contender.
    pub(crate) fn of(rounds: &[Outcome]) -> Option<Self> {
        let median = |value: &dyn Fn(&Outcome) -> f64| Spread::of(rounds.iter().map(value)).map(|s| s.median);
        let at = |share: f64| median(&|round| f64::from(percentile(&round.latencies, share)) / 10.0);
        Some(Self {
            rate: median(&|round| round.operations as f64 / round.elapsed.as_secs_f64())?,
            busy: median(&|round| round.cpu.as_secs_f64() / round.elapsed.as_secs_f64())?,
            p50: at(0.5)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
        })
    }
}

/// Prints a case as a table.
pub(crate) fn print(title: &str, unit: &str, lines: &[Line], goal: Goal, is_ratio: bool) {
    let mut text = format!("\n{title}\n");
    let _ = write!(text, "  {:<14}{unit:>12}   {:<22}", "", "relative, min..max");
    if lines.iter().any(|line| line.load.is_some()) {
        let _ =
            write!(text, "{:>10}{:>7}{:>9}{:>9}{:>9}", "a second", "busy", "p50 us", "p99 us", "p99.9 us");
    }
    let _ = writeln!(text, "  goal");
    for line in lines {
        let ratio = format!("{:.2}  {:.2}..{:.2}", line.ratio.median, line.ratio.min, line.ratio.max);
        let digits = if is_ratio { 2 } else { 0 };
        let _ = write!(text, "  {:<14}{:>12.digits$}   {ratio:<22}", line.contender, line.cost.median);
        if let Some(load) = line.load {
            let _ = write!(
                text,
                "{:>10.0}{:>6.0}%{:>9.0}{:>9.0}{:>9.0}",
                load.rate,
                load.busy * 100.0,
                load.p50,
                load.p99,
                load.p999
            );
        }
        let is_ours = !PEERS.contains(&line.contender.as_str());
        if is_ours {
            let value = if is_ratio { line.ratio.median } else { line.cost.median };
            let _ = write!(text, "  {}", verdict(value, goal));
        }
        text.push('\n');
    }
    print!("{text}");
    let _ = std::io::stdout().flush();
}

/// What a plugin adds to an operation.
pub(crate) struct Added {
    /// Its cost is what is added, in microseconds; its load that with the plugin.
    pub(crate) line: Line,
    /// The load without it.
    pub(crate) without: Option<LoadFigures>,
    /// Microseconds that may be added.
    pub(crate) goal: Option<f64>,
}

/// Prints what a plugin adds as a table.
pub(crate) fn print_added(title: &str, all: &[Added]) {
    let mut text = format!("\n{title}\n");
    let _ = writeln!(
        text,
        "  {:<14}{:>24}   {:<22}{:>22}  goal",
        "", "added us, min..max", "relative, min..max", "a second, without with"
    );
    for Added { line, without, goal } in all {
        let cost = format!("{:.2}  {:.2}..{:.2}", line.cost.median, line.cost.min, line.cost.max);
        let ratio = format!("{:.2}  {:.2}..{:.2}", line.ratio.median, line.ratio.min, line.ratio.max);
        let rate = |load: Option<LoadFigures>| load.map_or(0.0, |load| load.rate);
        let rates = format!("{:.0} {:.0}", rate(*without), rate(line.load));
        let _ = write!(text, "  {:<14}{cost:>24}   {ratio:<22}{rates:>22}", line.contender);
        if let Some(goal) = *goal {
            let _ = write!(text, "  {}", verdict(line.cost.median, Goal { aim: goal, limit: goal }));
        }
        text.push('\n');
    }
    print!("{text}");
    let _ = std::io::stdout().flush();
}

/// How a value stands to its goal.
pub(crate) fn verdict(value: f64, goal: Goal) -> String {
    let Goal { aim, limit } = goal;
    if value <= aim {
        format!("met ({aim})")
    } else if value <= limit {
        format!("within the limit {limit}, aim {aim}")
    } else {
        format!("MISSED (limit {limit}, aim {aim})")
    }
}

/// Where and how figures were taken.
#[derive(Debug, Serialize)]
pub(crate) struct Circumstances {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// Load average of the last minute before the run: how quiet it was.
    pub(crate) load_average: String,
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) threads: usize,
    pub(crate) is_pinned: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
}

/// The commit the tree is at, with a mark when files differ from it.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { commit + "+changes" } else { commit }
}

/// The processor's name.
pub(crate) fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

/// The first word, or all, of a file of `/proc`.
pub(crate) fn fact(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
}

/// Adds one line to the history.
pub(crate) fn append(path: &Path, circumstances: &Circumstances, lines: &[Line]) -> Result<()> {
    #[derive(Serialize)]
    struct Entry<'a> {
        #[serde(flatten)]
        circumstances: &'a Circumstances,
        results: &'a [Line],
    }
    let mut line = serde_json::to_string(&Entry { circumstances, results: lines })?;
    line.push('\n');
    let mut file = OpenOptions::new().create(true).append(true).open(path);
    file.as_mut()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .and_then(|file| Ok(file.write_all(line.as_bytes())?))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_tells_met_within_and_missed() {
        let goal = Goal { aim: 0.8, limit: 1.0 };
        assert!(verdict(0.8, goal).starts_with("met"));
        assert!(verdict(0.9, goal).starts_with("within"));
        assert!(verdict(1.1, goal).starts_with("MISSED"));
    }
}
