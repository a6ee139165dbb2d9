//! Prometheus text, read.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
    text: String,
}

impl Metrics {
    /// Reads the text format; panics on a line that is not of it.
    pub fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}"))).collect();
        Metrics { samples, text: text.to_owned() }
    }

    /// The sum of all samples of that name whose labels include these; none if
    /// there is no such sample.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| of.get(*label).is_some_and(|found| found == value))
        };
        let mut values = self
            .samples
            .iter()
            .filter(|(found, of, _)| found == name && fits(of))
            .map(|(_, _, value)| *value)
            .peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// The same, zero if there is no such sample: a counter that was never
    /// counted may not be there.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.value(name, labels).unwrap_or(0.0)
    }

    /// The scrape as it was.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (name, labels, rest) = match line.find('{') {
        Some(open) => {
            let (labels, rest) = labels(&line[open + 1..])?;
            (&line[..open], labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, BTreeMap::new(), rest)
        }
    };
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        number => number.parse().ok()?,
    };
    Some((name.to_owned(), labels, value))
}

fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = quoted[end + 1..].trim_start_matches(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_the_labels_left_out() {
        let metrics =
            Metrics::parse("# TYPE a counter\na{x=\"1\",y=\"p\\\"q\"} 2\na{x=\"2\",y=\"r\"} 3\nb 7\n");
        assert_eq!(metrics.value("a", &[]), Some(5.0));
        assert_eq!(metrics.value("a", &[("y", "p\"q")]), Some(2.0));
        assert_eq!(metrics.value("b", &[]), Some(7.0));
        assert_eq!(metrics.value("a", &[("x", "3")]), None);
    }
}
