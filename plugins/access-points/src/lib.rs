//! Tells clients where to connect: the ordered access addresses of their region,
//! with a time to live.
//!
//! A client that has an answer keeps it for its time to live, and for as long
//! after that as it gets no new one; a client that never got one uses the list it
//! was built with. So every answer is whole: there is no address that is not
//! configured, or given by the provider.
//!
//! The order is: healthy before unhealthy, as the gateway's own health checks
//! have it, then as the provider said, then as configured.

mod config;
mod provider;

use std::net::IpAddr;

use serde::Serialize;
use sluice_sdk::key_value::Namespace;
use sluice_sdk::prelude::*;
use sluice_sdk::{fetch, health};

use config::{Config, Point, Region};
use provider::Answer;

/// The key of the provider's answer.
const KEY: &str = "provider";

struct AccessPoints {
    config: Config,
}

/// What a client gets.
#[derive(Debug, Serialize)]
struct Told<'a> {
    region: &'a str,
    /// Host and port, the best first.
    points: Vec<String>,
    /// Seconds.
    ttl: u32,
}

impl Plugin for AccessPoints {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config })
    }

    fn interest(&self) -> Interest {
        match &self.config.provider {
            Some(provider) => Interest::new().timer(provider.interval()),
            None => Interest::new(),
        }
    }
}

impl Function for AccessPoints {
    fn handle(&mut self, request: Request) -> Response {
        if request.method != "GET" {
            return Response::new(405).header("allow", "GET");
        }
        // Set by the gateway; what a client sends under this name never arrives.
        let address = request.field("x-real-ip").and_then(|address| address.parse::<IpAddr>().ok());
        let region = self.config.region_of(address);
        let answer = self.provided();
        let told = Told {
            region: &region.name,
            points: self.points(region, answer.as_ref()),
            ttl: answer.as_ref().map_or(self.config.ttl, |answer| answer.ttl.min(self.config.ttl)),
        };
        sluice_sdk::metrics::add("answers", 1);
        Response::new(200)
            // Shared caches would give one region's answer to another.
            .header("cache-control", format!("private, max-age={}", told.ttl))
            .json(&told)
    }
}

impl Timer for AccessPoints {
    fn tick(&mut self) -> Result<(), String> {
        let Some(provider) = &self.config.provider else { return Ok(()) };
        let url = &provider.url;
        let answer = fetch::Request::get(url).send().map_err(|error| format!("{url}: {error}"))?;
        if answer.status != 200 {
            return Err(format!("{url} answers {}", answer.status));
        }
        Answer::parse(&answer.body).map_err(|error| format!("{url}: {error}"))?;
        // An old answer is better than none for some fetches that fail.
        let kept = Namespace::node(&provider.namespace).set(KEY, &answer.body, 10 * provider.interval());
        kept.map_err(|error| format!("namespace {}: {error}", provider.namespace))
    }
}

impl AccessPoints {
    /// The provider's latest answer; none while there is none that holds.
    fn provided(&self) -> Option<Answer> {
        let provider = self.config.provider.as_ref()?;
        match Namespace::node(&provider.namespace).get(KEY) {
            Ok(bytes) => Answer::parse(&bytes?).ok(),
            Err(error) => {
                sluice_sdk::warn!("namespace {}: {error}; the configured list is told", provider.namespace);
                None
            }
        }
    }

    /// The region's addresses, each once, the best first.
    fn points(&self, region: &Region, answer: Option<&Answer>) -> Vec<String> {
        let provided = answer.and_then(|answer| answer.regions.get(&region.name));
        let provided = provided.into_iter().flatten().map(|address| Point::of(address));
        let mut points: Vec<Point> = Vec::new();
        for point in provided.chain(region.points.iter().cloned()) {
            match points.iter_mut().find(|known| known.address == point.address) {
                // What is configured knows how its health is found.
                Some(known) => known.upstream = known.upstream.take().or(point.upstream),
                None => points.push(point),
            }
        }
        points.sort_by_key(|point| !is_healthy(point));
        points.into_iter().map(|point| point.address).collect()
    }
}

/// Whether an address takes traffic, as far as is known here.
fn is_healthy(point: &Point) -> bool {
    let Some(upstream) = &point.upstream else { return true };
    let nodes = health::nodes(upstream);
    let mut own = nodes.iter().filter(|node| node.address == point.address).peekable();
    own.peek().is_none() || own.any(|node| node.healthy)
}

sluice_sdk::export!(AccessPoints: Function, Timer);

#[cfg(test)]
mod tests;
