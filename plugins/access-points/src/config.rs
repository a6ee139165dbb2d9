//! What an operator writes.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use sluice_sdk::prelude::*;

/// The `config` of the module object, or of a route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Regions; of those whose networks hold a client, the one with the smallest
    /// network is its own.
    #[serde(default)]
    regions: Vec<Region>,
    /// The region of all others.
    default: Region,
    /// Seconds an answer holds at most.
    #[serde(default = "ttl")]
    pub(crate) ttl: u32,
    /// Who knows better now and then.
    #[serde(default)]
    pub(crate) provider: Option<Provider>,
}

fn ttl() -> u32 {
    60
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    pub(crate) name: String,
    /// Networks of its clients.
    #[serde(default)]
    clients: Vec<IpNet>,
    /// Its addresses, the preferred first.
    pub(crate) points: Vec<Point>,
}

/// An address clients connect to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    /// Host and port.
    pub(crate) address: String,
    /// The upstream that has this address as a node, for its health.
    #[serde(default)]
    pub(crate) upstream: Option<String>,
}

impl Point {
    pub(crate) fn of(address: &str) -> Self {
        Self { address: address.to_owned(), upstream: None }
    }
}

/// Where another list is to be had: see `provider.rs` for what it answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    /// Its host must be in the module's `grants.fetch`.
    pub(crate) url: String,
    /// Where the answer is kept, one of the module's `grants.kv`.
    #[serde(default = "namespace")]
    pub(crate) namespace: String,
    /// Seconds from one fetch to the next.
    #[serde(default = "interval")]
    interval: u64,
}

fn namespace() -> String {
    "access-points".to_owned()
}

fn interval() -> u64 {
    30
}

impl Provider {
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }
}

impl Config {
    /// What serde cannot see.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.ttl == 0 {
            return Err(ConfigError::new("ttl", 0, "at least one second"));
        }
        check_points("default", &self.default)?;
        for (place, region) in self.regions.iter().enumerate() {
            let path = format!("regions[{place}]");
            check_points(&path, region)?;
            if region.clients.is_empty() {
                let why = "no network: nobody is in this region";
                return Err(ConfigError::new(&format!("{path}.clients"), "[]", why));
            }
        }
        match &self.provider {
            Some(provider) if provider.interval == 0 => {
                Err(ConfigError::new("provider.interval", 0, "at least one second"))
            }
            _ => Ok(()),
        }
    }

    /// The region of a client; the default one for a client without an address.
    pub(crate) fn region_of(&self, address: Option<IpAddr>) -> &Region {
        // Clients of a socket for both families come as mapped addresses.
        let Some(address) = address.map(|address| address.to_canonical()) else { return &self.default };
        let length = |region: &Region| {
            region.clients.iter().filter(|network| network.contains(&address)).map(IpNet::prefix_len).max()
        };
        let found = self.regions.iter().filter_map(|region| Some((length(region)?, region)));
        found.max_by_key(|(length, _)| *length).map_or(&self.default, |(_, region)| region)
    }
}

fn check_points(path: &str, region: &Region) -> Result<(), ConfigError> {
    if region.points.is_empty() {
        let why = "no address: its clients would be told nothing";
        return Err(ConfigError::new(&format!("{path}.points"), "[]", why));
    }
    for (place, point) in region.points.iter().enumerate() {
        if !is_address(&point.address) {
            let field = format!("{path}.points[{place}].address");
            return Err(ConfigError::new(&field, format_args!("{:?}", point.address), "not HOST:PORT"));
        }
    }
    Ok(())
}

/// `HOST:PORT`, an IPv6 address in brackets.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}
