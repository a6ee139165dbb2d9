//! The text format of Prometheus, version 0.0.4.
//!
//! Written here rather than with a metrics library: those write OpenMetrics,
//! which forces `_total` on every counter, and APISIX's names have none; and
//! their series live in maps keyed by label text, which the hot path must not touch.

use std::fmt::Write;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// The text of one scrape, being written.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

/// A sample's value.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl Exposition {
    /// Begins a family; its samples follow. `help` is one line of plain text.
    pub fn family(&mut self, name: &'static str, help: &str, kind: Kind) {
        self.name = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing into a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.write("", labels, None, value.into());
    }

    /// One histogram series: `bounds` with the count of observations at or under
    /// each (not cumulative), one more count for those above, and the sum.
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[&str], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (bound, count) in bounds.iter().copied().chain(["+Inf"]).zip(counts) {
            total += count;
            self.write("_bucket", labels, Some(("le", bound)), total.into());
        }
        self.write("_sum", labels, None, sum.into());
        self.write("_count", labels, None, total.into());
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], last: Option<(&str, &str)>, value: Value) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(last) {
            self.text.push(open);
            open = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = match value {
            Value::Whole(value) => writeln!(self.text, " {value}"),
            Value::Real(value) if value.is_nan() => writeln!(self.text, " NaN"),
            Value::Real(value) if value.is_infinite() => {
                writeln!(self.text, " {}Inf", if value > 0.0 { '+' } else { '-' })
            }
            Value::Real(value) => writeln!(self.text, " {value}"),
        };
    }
}
