//! What the requests of one route count.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::WorkerMetrics;
use super::exposition::{Exposition, Kind};
use super::table::{Chain, Table, add, read};

/// Nodes a route counts apart; more are counted as `other`.
const NODES: usize = 64;
/// Status codes a route and node count apart.
const CODES: usize = 24;

/// Upper bounds of the latency buckets, milliseconds: APISIX's, and three below
/// its first because a gateway's own share is far under a millisecond.
const BOUNDS: [&str; 18] = [
    "0.1", "0.25", "0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000",
    "10000", "30000", "60000",
];
const BOUNDS_MICROS: [u64; 18] = [
    100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// The labels of a route's series, APISIX's names. Fixed when the snapshot is
/// built; requests that matched no route have them all empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteLabels {
    /// The route's id.
    pub route: Box<str>,
    /// The pattern that matched. A route with several may ask for one handle
    /// for each, or for one with all of them joined.
    pub matched_uri: Box<str>,
    /// The host pattern that matched.
    pub matched_host: Box<str>,
    /// Id of the route's service.
    pub service: Box<str>,
}

/// What one request adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSample {
    /// The status sent; 0 (no answer went out) is counted as 499.
    pub status: u16,
    /// The node that answered, or was tried last.
    pub node: Option<IpAddr>,
    /// From the first byte of the request to the last of the response.
    pub total: Duration,
    /// The part of it spent waiting for the upstream.
    pub upstream: Option<Duration>,
    /// Bytes received for the request, head and framing included.
    pub bytes_in: u64,
    /// Bytes sent for the response, head and framing included.
    pub bytes_out: u64,
}

/// Counters of one route. The memory for them comes with the first request a
/// worker serves, so an idle route costs a few words.
#[derive(Debug)]
pub struct RouteMetrics {
    labels: RouteLabels,
    shards: Box<[OnceLock<Box<Chain<NodeSeries>>>]>,
}

#[derive(Debug)]
struct NodeSeries {
    node: NodeKey,
    codes: Table<CODES, 1>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    request: Latency,
    upstream: Latency,
    gateway: Latency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NodeKey {
    /// No node was chosen: the gateway itself answered.
    None,
    Address(IpAddr),
    Other,
}

#[derive(Debug, Default)]
struct Latency {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl RouteMetrics {
    pub(super) fn new(labels: RouteLabels, shards: usize) -> Self {
        Self { labels, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    /// The labels its series have.
    #[must_use]
    pub fn labels(&self) -> &RouteLabels {
        &self.labels
    }

    /// Counts a request that ended.
    pub fn request(&self, worker: &WorkerMetrics, sample: &RequestSample) {
        let Some(shard) = self.shards.get(worker.index()) else { return };
        let key = sample.node.map_or(NodeKey::None, NodeKey::Address);
        let series = shard.get_or_init(Box::default).find(
            NODES,
            |series| series.node == key,
            |last| NodeSeries::new(if last { NodeKey::Other } else { key }),
        );
        let status = if sample.status == 0 { 499 } else { sample.status };
        add(&series.codes.row(status.into())[0], 1);
        add(&series.bytes_in, sample.bytes_in);
        add(&series.bytes_out, sample.bytes_out);
        series.request.observe(sample.total);
        if let Some(upstream) = sample.upstream {
            series.upstream.observe(upstream);
        }
        series.gateway.observe(sample.total.saturating_sub(sample.upstream.unwrap_or_default()));
    }
}

impl NodeSeries {
    fn new(node: NodeKey) -> Self {
        Self {
            node,
            codes: Table::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            request: Latency::default(),
            upstream: Latency::default(),
            gateway: Latency::default(),
        }
    }
}

impl Latency {
    fn observe(&self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        add(&self.counts[bucket], 1);
        add(&self.micros, micros);
    }
}

/// One series summed over the workers.
struct Sum {
    node: NodeKey,
    node_label: String,
    codes: Vec<(Option<u32>, u64)>,
    bytes: [u64; 2],
    latencies: [([u64; BOUNDS.len() + 1], u64); 3],
}

impl Sum {
    fn add(&mut self, series: &NodeSeries) {
        series.codes.each(|code, [count]| match self.codes.iter_mut().find(|(known, _)| *known == code) {
            Some((_, sum)) => *sum += count,
            None => self.codes.push((code, count)),
        });
        self.bytes[0] += read(&series.bytes_in);
        self.bytes[1] += read(&series.bytes_out);
        for (sum, latency) in
            self.latencies.iter_mut().zip([&series.request, &series.upstream, &series.gateway])
        {
            for (total, count) in sum.0.iter_mut().zip(&latency.counts) {
                *total += read(count);
            }
            sum.1 += read(&latency.micros);
        }
    }
}

fn sums(route: &RouteMetrics) -> Vec<Sum> {
    let mut sums: Vec<Sum> = Vec::new();
    for series in route.shards.iter().filter_map(OnceLock::get).flat_map(|chain| chain.iter()) {
        let position = sums.iter().position(|sum| sum.node == series.node).unwrap_or_else(|| {
            let node_label = match series.node {
                NodeKey::None => String::new(),
                NodeKey::Address(address) => address.to_string(),
                NodeKey::Other => "other".into(),
            };
            let latencies = [([0; BOUNDS.len() + 1], 0); 3];
            sums.push(Sum { node: series.node, node_label, codes: Vec::new(), bytes: [0; 2], latencies });
            sums.len() - 1
        });
        sums[position].add(series);
    }
    sums.sort_by_key(|sum| sum.node);
    sums
}

/// Writes the families of all routes.
pub(super) fn collect(out: &mut Exposition, routes: &[Arc<RouteMetrics>]) {
    let mut routes: Vec<_> = routes
        .iter()
        .map(|route| (&route.labels, sums(route)))
        .filter(|(_, sums)| !sums.is_empty())
        .collect();
    routes.sort_by_key(|(labels, _)| (&labels.route, &labels.matched_host, &labels.matched_uri));

    out.family("apisix_http_status", "Requests by status, route and node.", Kind::Counter);
    for (labels, sums) in &routes {
        for sum in sums {
            for (code, count) in &sum.codes {
                let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
                out.sample(
                    &[
                        ("code", &code),
                        ("route", &labels.route),
                        ("matched_uri", &labels.matched_uri),
                        ("matched_host", &labels.matched_host),
                        ("service", &labels.service),
                        ("consumer", ""),
                        ("node", &sum.node_label),
                    ],
                    *count,
                );
            }
        }
    }

    // Bandwidth and latency have no matched_* labels: handles that differ only in those are one series.
    let merged = merge(routes);
    out.family("apisix_bandwidth", "Bytes by direction, route and node.", Kind::Counter);
    for ((route, service), sums) in &merged {
        for sum in sums {
            for (kind, bytes) in ["ingress", "egress"].into_iter().zip(sum.bytes) {
                out.sample(&labels(kind, route, service, &sum.node_label), bytes);
            }
        }
    }
    out.family("apisix_http_latency", "Latency in milliseconds by type, route and node.", Kind::Histogram);
    for ((route, service), sums) in &merged {
        for sum in sums {
            for (kind, (counts, micros)) in ["request", "upstream", "apisix"].into_iter().zip(&sum.latencies)
            {
                if counts.iter().any(|count| *count > 0) {
                    let labels = labels(kind, route, service, &sum.node_label);
                    out.histogram(&labels, &BOUNDS, counts, *micros as f64 / 1000.0);
                }
            }
        }
    }
}

fn labels<'a>(kind: &'a str, route: &'a str, service: &'a str, node: &'a str) -> [(&'a str, &'a str); 5] {
    [("type", kind), ("route", route), ("service", service), ("consumer", ""), ("node", node)]
}

fn merge(routes: Vec<(&RouteLabels, Vec<Sum>)>) -> Vec<((&str, &str), Vec<Sum>)> {
    let mut merged: Vec<((&str, &str), Vec<Sum>)> = Vec::new();
    for (labels, sums) in routes {
        let key = (&*labels.route, &*labels.service);
        // Sorted by route: handles of one route stand side by side.
        match merged
            .iter_mut()
            .rev()
            .take_while(|(known, _)| known.0 == key.0)
            .find(|(known, _)| *known == key)
        {
            None => merged.push((key, sums)),
            Some((_, into)) => {
                for sum in sums {
                    match into.iter_mut().find(|known| known.node == sum.node) {
                        None => into.push(sum),
                        Some(known) => known.absorb(&sum),
                    }
                }
            }
        }
    }
    merged
}

impl Sum {
    fn absorb(&mut self, other: &Self) {
        for (own, more) in self.bytes.iter_mut().zip(other.bytes) {
            *own += more;
        }
        for (own, more) in self.latencies.iter_mut().zip(&other.latencies) {
            for (count, add) in own.0.iter_mut().zip(more.0) {
                *count += add;
            }
            own.1 += more.1;
        }
    }
}
