//! One connection to one member: listing, watching, and whether it lives.

use std::error::Error as _;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use etcd_client::{Client, GetOptions, KvClient, WatchOptions, WatchRequestSender, WatchResponseStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::options::{EtcdOptions, address_of};
use super::values;
use crate::config::source::record::AREAS;

/// The largest answer, in bytes: a page of keys, or the events of one revision.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys of a page; fewer where their values are large.
const PAGE_KEYS: i64 = 1000;
/// The most keys of a listing.
const KEYS_MAX: usize = 500_000;
/// The most bytes of a listing.
const LISTING_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Folders that other programs keep below APISIX's prefix and that change all the time.
const FOREIGN_AREAS: [&str; 1] = ["data_plane"];

/// A key as it stands at a revision; no value: it was deleted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) revision: u64,
    /// The revision that made the key; 0 for one that is gone.
    pub(super) created: u64,
}

/// Everything below the prefix at one revision.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    pub(super) revision: u64,
    pub(super) cluster: u64,
}

/// Why a session has ended, or could not begin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lost(pub(super) String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Lost {
    pub(super) fn of(what: &str, error: &etcd_client::Error) -> Self {
        Self(format!("{what}: {}", told(error)))
    }
}

/// An error with its causes: the library's own text leaves them out.
pub(super) fn told(error: &etcd_client::Error) -> String {
    let mut text = match error {
        etcd_client::Error::GRpcStatus(status) => format!("{} ({:?})", status.message(), status.code()),
        other => other.to_string(),
    };
    let mut cause = match error {
        etcd_client::Error::GRpcStatus(status) => status.source(),
        etcd_client::Error::TransportError(error) => error.source(),
        _ => None,
    };
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A connection to a member.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    pub(super) endpoint: String,
    timeout: Duration,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection to {}", self.endpoint)
    }
}

impl Connection {
    /// Connects, and logs in where there is a user.
    pub(super) async fn open(options: &EtcdOptions, endpoint: &str) -> Result<Self, Lost> {
        let limit = options.timeout;
        let address = address_of(endpoint).unwrap_or_default();
        // The client library connects when it first needs to and tells little
        // of why it could not.
        match timeout(limit, TcpStream::connect(&address)).await {
            Err(_) => return Err(Lost(format!("no connection to {endpoint} within {limit:?}"))),
            Ok(Err(error)) => return Err(Lost(format!("no connection to {endpoint}: {error}"))),
            Ok(Ok(_)) => {}
        }
        let connect_options = options.connect_options().map_err(|error| Lost(error.to_string()))?;
        let connecting = Client::connect([endpoint], Some(connect_options));
        match timeout(limit, connecting).await {
            Err(_) => Err(Lost(format!("{endpoint} did not answer within {limit:?}"))),
            Ok(Err(error)) => Err(Lost::of(&format!("cannot use {endpoint}"), &error)),
            Ok(Ok(client)) => Ok(Self { client, endpoint: endpoint.to_owned(), timeout: limit }),
        }
    }

    /// Waits for an answer of the member, not for ever.
    pub(super) async fn answer<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Lost> {
        match timeout(self.timeout, call).await {
            Err(_) => {
                Err(Lost(format!("{} did not answer within {:?} ({what})", self.endpoint, self.timeout)))
            }
            Ok(Err(error)) => Err(Lost::of(&format!("{} at {}", what, self.endpoint), &error)),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn lease(&self) -> etcd_client::LeaseClient {
        self.client.lease_client()
    }

    /// Everything below `root` but the records, at one revision.
    pub(super) async fn list(&self, root: &str) -> Result<Listing, Lost> {
        let mut listing = Listing { entries: Vec::new(), revision: 0, cluster: 0 };
        let mut bytes = 0;
        for range in watched_ranges(root) {
            let mut start = range.start;
            let mut page = PAGE_KEYS;
            while start < range.end {
                let options = GetOptions::new()
                    .with_range(range.end.clone())
                    .with_limit(page)
                    .with_revision(listing.revision as i64);
                let mut kv = self.kv();
                let answer = self.answer("listing", kv.get(start.clone(), Some(options))).await;
                let mut answer = match answer {
                    Err(lost) if lost.0.contains("message length too large") && page > 1 => {
                        page = (page / 8).max(1);
                        continue;
                    }
                    answer => answer?,
                };
                if let (0, Some(header)) = (listing.revision, answer.header()) {
                    listing.revision = header.revision().unsigned_abs();
                    listing.cluster = header.cluster_id();
                }
                let more = answer.more();
                for pair in answer.take_kvs() {
                    let revision = pair.mod_revision().unsigned_abs();
                    let created = pair.create_revision().unsigned_abs();
                    let (key, value) = pair.into_key_value();
                    bytes += key.len() + value.len();
                    start = key.clone();
                    listing.entries.push(Entry { key, value: Some(value), revision, created });
                }
                if bytes > LISTING_BYTES_MAX || listing.entries.len() > KEYS_MAX {
                    return Err(Lost(format!(
                        "{root} holds more than {KEYS_MAX} keys or {LISTING_BYTES_MAX} bytes, the most that is read"
                    )));
                }
                if !more {
                    break;
                }
                start.push(0);
            }
        }
        Ok(listing)
    }

    /// Watches everything that [`Connection::list`] lists, from a revision on:
    /// one stream, with one range for each stretch between the records.
    pub(super) async fn watch(
        &self,
        root: &str,
        from: u64,
    ) -> Result<(WatchRequestSender, WatchResponseStream), Lost> {
        let options = |end: Vec<u8>| {
            WatchOptions::new()
                .with_range(end)
                .with_start_revision(from as i64)
                .with_progress_notify()
                .with_fragment()
        };
        let mut ranges = watched_ranges(root).into_iter();
        let first = ranges.next().unwrap_or_default();
        let mut client = self.client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opened = client.watch(first.start, Some(options(first.end)));
        let mut stream = self.answer("watching", opened).await?;
        for range in ranges {
            let added = stream.watch(range.start, Some(options(range.end)));
            self.answer("watching", added).await?;
        }
        Ok(stream.split())
    }
}

/// The stretches of keys below `root` (which ends with a slash) that hold
/// objects: all but records, values of modules, and what other programs write there without end.
fn watched_ranges(root: &str) -> Vec<Range<Vec<u8>>> {
    let mut areas: Vec<&str> =
        AREAS.iter().map(|area| area.name()).chain(FOREIGN_AREAS).chain([values::FOLDER]).collect();
    areas.sort_unstable();
    let mut ranges = Vec::new();
    let mut start = root.as_bytes().to_vec();
    for area in areas {
        ranges.push(start..format!("{root}{area}/").into_bytes());
        // '0' follows '/'.
        start = format!("{root}{area}0").into_bytes();
    }
    let mut end = root.as_bytes().to_vec();
    end.pop();
    end.push(b'0');
    ranges.push(start..end);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_is_in_one_range_and_no_record_is() {
        let ranges = watched_ranges("/sluice/");
        let count =
            |key: &str| ranges.iter().filter(|range| range.contains(&key.as_bytes().to_vec())).count();
        for kind in crate::config::KINDS {
            assert_eq!(count(&format!("/sluice/{kind}/a")), 1, "{kind}");
        }
        for key in
            ["/sluice/aaa", "/sluice/blobs", "/sluice/modules/x", "/sluice/zzz/ü", "/sluice/nodesque/a"]
        {
            assert_eq!(count(key), 1, "{key}");
        }
        for key in [
            "/sluice/blobs/sha256-00/0",
            "/sluice/nodes/a",
            "/sluice/history/1",
            "/sluice/kv/waf/logins/a",
            "/sluice",
            "/sluicf/a",
            "/sluice0",
        ] {
            assert_eq!(count(key), 0, "{key}");
        }
    }
}
