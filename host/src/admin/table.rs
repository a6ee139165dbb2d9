//! The status as a table of 80 columns.

use std::fmt::Write;

use super::status::{LineStatus, NodeStatus, Since, State, Status, UpstreamStatus};

/// Whether the table may use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    /// ANSI colours.
    Colour,
    /// Text alone.
    Plain,
}

/// Columns a table may take.
const WIDTH: usize = 80;
/// Columns of the first field: names of upstreams, lines and nodes.
const NAME: usize = 36;

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Warn,
    Bad,
    Dim,
    Bold,
}

struct Page {
    text: String,
    paint: Paint,
}

/// The whole table, lines ended by line feeds.
pub(super) fn render(status: &Status, paint: Paint) -> String {
    let mut page = Page { text: String::new(), paint };
    page.head(status);
    page.quarantined(status);
    page.breaking(status);
    page.listeners(status);
    page.upstreams(status);
    page.modules(status);
    page.text
}

impl Page {
    fn head(&mut self, status: &Status) {
        let node = &status.node;
        let tone = match status.state.as_str() {
            "ready" => Tone::Good,
            "draining" => Tone::Warn,
            _ => Tone::Bad,
        };
        let title = format!("sluice {}  {} ({})  ", node.version, node.id, node.region);
        self.painted(Tone::Bold, &fit(&title, WIDTH - 30));
        self.painted(tone, &clean(&status.state));
        let _ = writeln!(self.text, "  up {}", span(status.process.uptime_seconds));
        if let Some(reason) = &status.reason {
            self.note(Tone::Bad, reason);
        }
        let config = &status.config;
        let applied = match config.revision {
            0 => "no configuration yet".to_owned(),
            revision => format!("revision {revision}, applied {} ago", span(config.applied.for_seconds)),
        };
        self.row(&format!("{applied}  {}", config.source));
        if let Some(stale) = &config.stale {
            self.note(Tone::Bad, &format!("store cannot be read, the last good state serves: {stale}"));
        }
        let (connections, process) = (&status.connections, &status.process);
        self.row(&format!(
            "{} connections, {} requests active, {} MiB, {}/{} descriptors",
            connections.active,
            connections.requests_active,
            process.resident_bytes >> 20,
            process.descriptors,
            process.descriptors_max,
        ));
    }

    fn quarantined(&mut self, status: &Status) {
        if status.config.quarantined.is_empty() {
            return;
        }
        self.title("QUARANTINED");
        for object in &status.config.quarantined {
            let served = if object.last_good { "last good version serves" } else { "not in use" };
            let name = format!("{}/{}", object.kind, object.id);
            let origin = if object.id.is_empty() { &object.origin } else { &name };
            let row = format!("{origin}  {served}, for {}", span(object.since.for_seconds));
            self.painted(Tone::Bad, &fit(&row, WIDTH));
            self.text.push('\n');
            self.note(Tone::Dim, &object.reason);
        }
    }

    fn breaking(&mut self, status: &Status) {
        if status.config.breaking.is_empty() {
            return;
        }
        self.title("BREAKS CLIENTS");
        for change in &status.config.breaking {
            let row = format!(
                "{}/{}  plugin {}, changed {} ago",
                change.kind,
                change.id,
                change.plugin,
                span(change.since.for_seconds)
            );
            self.painted(Tone::Bad, &fit(&row, WIDTH));
            self.text.push('\n');
            for text in &change.changes {
                self.note(Tone::Dim, text);
            }
        }
    }

    fn listeners(&mut self, status: &Status) {
        if status.listeners.is_empty() {
            return;
        }
        self.title(&format!("{}{:<28}{:<10}{:>6}", cell("LISTENER", NAME), "ADDRESS", "SPEAKS", "OPEN"));
        for listener in &status.listeners {
            let speaks = match listener.tls.as_str() {
                "terminate" => format!("{}+tls", listener.protocol),
                "passthrough" => "tls".to_owned(),
                _ => listener.protocol.clone(),
            };
            for (index, bind) in listener.binds.iter().enumerate() {
                let id = if index == 0 { listener.id.as_str() } else { "" };
                let open = if index == 0 { listener.connections.to_string() } else { String::new() };
                let left = format!("{}{}", cell(id, NAME), cell(&bind.address, 28));
                let _ = writeln!(self.text, "{left}{}{open:>6}", cell(&speaks, 10));
                if let Some(error) = &bind.error {
                    self.note(Tone::Bad, &format!("not bound: {error}"));
                }
            }
        }
    }

    fn upstreams(&mut self, status: &Status) {
        if status.upstreams.is_empty() {
            return;
        }
        self.title(&format!(
            "{}{:<14}{:>6}{:>10}{:>7}{:>7}",
            cell("UPSTREAM, LINES AND NODES", NAME),
            "STATE",
            "FOR",
            "RTT",
            "FAILED",
            "USED"
        ));
        for upstream in &status.upstreams {
            self.upstream(upstream);
        }
    }

    fn upstream(&mut self, upstream: &UpstreamStatus) {
        let kind = if upstream.kind == "upstreams" { String::new() } else { format!("{}/", upstream.kind) };
        let check = upstream.check.as_deref().unwrap_or("unchecked");
        self.painted(Tone::Bold, &fit(&format!("{kind}{}", upstream.id), NAME));
        self.painted(Tone::Dim, &fit(&format!("  {}, {check}", upstream.scheme), WIDTH - NAME));
        self.text.push('\n');
        for line in &upstream.lines {
            self.line(line);
        }
    }

    fn line(&mut self, line: &LineStatus) {
        let mark = if line.active { "▸" } else { " " };
        let via = if line.via.is_empty() { String::new() } else { format!(" via {}", line.via.join(", ")) };
        let name = format!("{mark} {} ·{}{via}", line.name, line.priority);
        self.state_row(&name, line.state, &line.since, line.rtt_ms, [line.failures, line.in_use]);
        self.why(line.state, line.why.as_ref());
        for node in &line.nodes {
            self.node(node);
        }
    }

    fn node(&mut self, node: &NodeStatus) {
        let name = format!("    {} ×{}", node.name(), node.weight);
        self.state_row(&name, node.state, &node.since, node.rtt_ms, [node.failures, node.in_use]);
        self.why(node.state, node.why.as_ref());
    }

    fn state_row(&mut self, name: &str, state: State, since: &Since, rtt: Option<f64>, counts: [u64; 2]) {
        self.text.push_str(&cell(name, NAME));
        let tone = match state {
            State::Healthy => Tone::Good,
            State::MostlyHealthy | State::Held => Tone::Warn,
            State::MostlyUnhealthy | State::Unhealthy => Tone::Bad,
            State::Unknown => Tone::Dim,
        };
        let word = match state {
            State::MostlyHealthy => "failing",
            State::MostlyUnhealthy => "recovering",
            state => state.as_str(),
        };
        self.painted(tone, &cell(word, 14));
        let long = if since.since.is_empty() { "-".to_owned() } else { span(since.for_seconds) };
        let rtt = rtt.map_or_else(|| "-".to_owned(), |rtt| format!("{:.2}ms", rtt.clamp(0.0, 9999.0)));
        let [failed, used] = counts.map(short);
        let _ = writeln!(self.text, "{long:>6}{rtt:>10}{failed:>7}{used:>7}");
    }

    fn why(&mut self, state: State, why: Option<&String>) {
        if let Some(why) = why.filter(|_| state != State::Healthy) {
            self.note(Tone::Dim, why);
        }
    }

    fn modules(&mut self, status: &Status) {
        if status.modules.is_empty() {
            return;
        }
        self.title(&format!("{}{:<14}{:<16}{}", cell("MODULE", NAME), "STATE", "VERSION", "CANARY"));
        for module in &status.modules {
            let canary = module.canary.as_deref().unwrap_or("-");
            let left = format!("{}{}", cell(&module.name, NAME), cell(&module.state, 14));
            let _ = writeln!(self.text, "{left}{}{}", cell(&module.active, 16), fit(canary, 14));
            for running in &module.running {
                let failed: u64 = running.failures.values().sum();
                let breaker = if running.breaker_open { ", breaker open" } else { "" };
                let tone = if running.breaker_open { Tone::Bad } else { Tone::Dim };
                let (version, instances, calls) = (&running.version, running.instances, running.calls);
                self.note(
                    tone,
                    &format!("{version}: {instances} instances, {calls} calls, {failed} failed{breaker}"),
                );
            }
            if let Some(trial) = &module.trial {
                let tone = if trial.state == "rolled_back" { Tone::Bad } else { Tone::Dim };
                let shadow = if trial.shadow { ", in the shadow" } else { "" };
                let (state, percent, exchanges, failed) =
                    (&trial.state, trial.percent, trial.counts.exchanges, trial.counts.failed);
                let line =
                    format!("{canary}: {state}, {percent} %{shadow}, {exchanges} exchanges, {failed} failed");
                self.note(tone, &line);
                if let Some(why) = &trial.why {
                    self.note(tone, why);
                }
            }
            if let Some(why) = &module.why {
                self.note(Tone::Dim, why);
            }
        }
    }

    fn title(&mut self, text: &str) {
        self.text.push('\n');
        self.painted(Tone::Dim, text.trim_end());
        self.text.push('\n');
    }

    fn row(&mut self, text: &str) {
        self.text.push_str(&fit(text, WIDTH));
        self.text.push('\n');
    }

    /// A remark below a row, wrapped to at most three lines.
    fn note(&mut self, tone: Tone, text: &str) {
        let text: Vec<char> = clean(text).chars().collect();
        let width = WIDTH - 6;
        for (index, piece) in text.chunks(width).take(3).enumerate() {
            let mut piece: String = piece.iter().collect();
            if index == 2 && text.len() > 3 * width {
                piece = fit(&format!("{piece}…."), width);
            }
            self.text.push_str("      ");
            self.painted(tone, piece.trim_end());
            self.text.push('\n');
        }
    }

    fn painted(&mut self, tone: Tone, text: &str) {
        if self.paint == Paint::Plain {
            return self.text.push_str(text);
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Bold => "1",
        };
        let _ = write!(self.text, "\x1b[{code}m{text}\x1b[0m");
    }
}

/// Text a terminal can be shown: what came from objects and peers may hold anything.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `width` characters, `…` in place of what is cut.
fn fit(text: &str, width: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= width {
        return text;
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Exactly `width` characters, the last one a space.
fn cell(text: &str, width: usize) -> String {
    format!("{:<width$}", fit(text, width - 1))
}

/// A span of time in at most five characters.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", (seconds / 86_400).min(9999)),
    }
}

/// A count in at most six characters.
fn short(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1000),
        10_000_000..10_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", (count / 1_000_000_000).min(99_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{BindStatus, BreakingStatus, ListenerStatus, ModuleStatus, Quarantined};

    fn full(long: &str) -> Status {
        let since = Since { since: "2026-01-01T00:00:00Z".into(), for_seconds: u64::MAX };
        let node = NodeStatus {
            host: long.into(),
            port: 65_535,
            weight: u32::MAX,
            state: State::MostlyUnhealthy,
            why: Some(long.into()),
            since: since.clone(),
            rtt_ms: Some(12_345.678),
            failures: u64::MAX,
            in_use: u64::MAX,
            ..NodeStatus::default()
        };
        let line = LineStatus {
            name: long.into(),
            via: vec![long.into()],
            priority: i32::MIN,
            active: true,
            state: State::Held,
            why: Some(long.into()),
            since: since.clone(),
            nodes: vec![node],
            ..LineStatus::default()
        };
        let mut status = Status { state: "starting".into(), reason: Some(long.into()), ..Status::default() };
        status.node.id = long.into();
        status.config.revision = u64::MAX;
        status.config.source = long.into();
        status.config.stale = Some(long.into());
        status.config.quarantined = vec![Quarantined {
            kind: "routes".into(),
            id: long.into(),
            reason: long.into(),
            since: since.clone(),
            ..Quarantined::default()
        }];
        status.config.breaking = vec![BreakingStatus {
            kind: "stream_routes".into(),
            id: long.into(),
            plugin: long.into(),
            changes: vec![long.into()],
            since,
        }];
        status.listeners = vec![ListenerStatus {
            id: long.into(),
            protocol: "http".into(),
            tls: "terminate".into(),
            binds: vec![BindStatus { address: long.into(), error: Some(long.into()) }],
            ..ListenerStatus::default()
        }];
        status.upstreams = vec![UpstreamStatus {
            kind: "stream_routes".into(),
            id: long.into(),
            scheme: "tlv".into(),
            lines: vec![line],
            ..UpstreamStatus::default()
        }];
        let name = || long.to_owned();
        status.modules = vec![ModuleStatus {
            name: name(),
            active: name(),
            state: name(),
            canary: Some(name()),
            ..Default::default()
        }];
        status
    }

    #[test]
    fn the_table_fits_80_columns_whatever_it_shows() {
        for long in ["", "x", &"wide ".repeat(200), "\x1b[2J\r\n\u{9b}1m"] {
            let text = render(&full(long), Paint::Plain);
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", line.chars().count());
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let status = full("some name");
        let coloured = render(&status, Paint::Colour);
        let mut plain = coloured.clone();
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            plain = plain.replace(code, "");
        }
        assert_ne!(coloured, plain);
        assert_eq!(plain, render(&status, Paint::Plain));
    }

    #[test]
    fn an_operator_sees_which_line_serves_and_why_the_other_does_not() {
        let node = |host: &str, state, why: Option<&str>| NodeStatus {
            host: host.into(),
            port: 9000,
            weight: 1,
            state,
            why: why.map(Into::into),
            since: Since { since: "2026-01-01T00:00:00Z".into(), for_seconds: 75 },
            rtt_ms: Some(0.4),
            in_use: 12,
            ..NodeStatus::default()
        };
        let line = |name: &str, priority, active, state, node| LineStatus {
            name: name.into(),
            priority,
            active,
            state,
            nodes: vec![node],
            ..LineStatus::default()
        };
        let status = Status {
            upstreams: vec![UpstreamStatus {
                kind: "upstreams".into(),
                id: "im".into(),
                scheme: "tlv".into(),
                check: Some("tlv".into()),
                lines: vec![
                    line(
                        "leased",
                        10,
                        false,
                        State::Unhealthy,
                        node("10.1.0.5", State::Unhealthy, Some("refused")),
                    ),
                    line("public", 5, true, State::Healthy, node("203.0.113.7", State::Healthy, None)),
                ],
            }],
            ..Status::default()
        };
        let text = render(&status, Paint::Plain);
        let expected = "\
UPSTREAM, LINES AND NODES           STATE            FOR       RTT FAILED   USED
im  tlv, tlv
  leased ·10                        unhealthy          -         -      0      0
    10.1.0.5:9000 ×1                unhealthy       1m15    0.40ms      0     12
      refused
▸ public ·5                         healthy            -         -      0      0
    203.0.113.7:9000 ×1             healthy         1m15    0.40ms      0     12
";
        assert!(text.ends_with(expected), "{text}");
    }
}
