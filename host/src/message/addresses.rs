//! Sets of addresses: lists of IP addresses and CIDR blocks.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An entry that is neither an IP address nor a CIDR block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a CIDR block")]
pub struct AddressError(pub String);

/// A set of addresses, as sorted ranges: a look-up is a binary search however
/// long the list is. IPv4 addresses mapped into IPv6 count as IPv4.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl IpSet {
    /// Parses addresses (`10.0.0.1`, `::1`) and blocks (`10.0.0.0/8`).
    ///
    /// # Errors
    /// The first entry that is neither.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, AddressError> {
        let nets: Result<Vec<IpNet>, _> = entries.iter().map(|entry| parse_entry(entry.as_ref())).collect();
        Ok(Self::of(&nets?))
    }

    /// The set of all addresses in `nets`.
    #[must_use]
    pub fn of(nets: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merge(v4), v6: merge(v6) }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `ip` is in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => covers(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => covers(&self.v6, ip.to_bits()),
        }
    }
}

fn parse_entry(entry: &str) -> Result<IpNet, AddressError> {
    let text = entry.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    IpNet::from_str(bare)
        .or_else(|_| IpAddr::from_str(bare).map(|ip| IpNet::from(ip.to_canonical())))
        .map_err(|_| AddressError(entry.to_owned()))
}

fn merge<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged.into()
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[&str]) -> IpSet {
        IpSet::parse(entries).unwrap()
    }

    #[test]
    fn blocks_and_addresses_are_found_and_their_neighbours_are_not() {
        let set =
            set(&["10.0.0.0/8", "192.0.2.7", "10.1.0.0/16", "2001:db8::/32", "[::1]", "::ffff:198.51.100.1"]);
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "192.0.2.7",
            "2001:db8:ffff::",
            "::1",
            "::ffff:10.2.3.4",
            "198.51.100.1",
        ] {
            assert!(set.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::2", "::a00:1"]
        {
            assert!(!set.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn bad_entries_are_named() {
        for bad in ["", "10.0.0.0/33", "10.0.0", "host", "::1/129", "10.0.0.1/-1", "1.2.3.4:80"] {
            assert_eq!(IpSet::parse(&["10.0.0.1", bad]), Err(AddressError(bad.to_owned())));
        }
    }
}
