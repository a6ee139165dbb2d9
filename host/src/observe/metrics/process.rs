//! What the process itself uses.

use std::time::Instant;

use super::exposition::{Exposition, Kind};

/// Resident memory in bytes and open descriptors, as the kernel counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub resident: u64,
    /// Virtual memory in bytes.
    pub virtual_size: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Most descriptors it may open.
    pub descriptors_max: u64,
    /// CPU time used, in milliseconds.
    pub cpu_ms: u64,
}

/// Reads the process's own usage. What cannot be read is 0.
#[must_use]
pub fn usage() -> Usage {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let statm = read("statm");
    let mut pages = statm.split(' ').map(|field| field.parse::<u64>().unwrap_or(0));
    let page = rustix::param::page_size() as u64;
    let virtual_size = pages.next().unwrap_or(0) * page;
    let resident = pages.next().unwrap_or(0) * page;
    // The name in parentheses may hold anything: fields count from its end.
    let stat = read("stat");
    let fields = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Usage {
        resident,
        virtual_size,
        // The listing's own descriptor is not counted.
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count().saturating_sub(1))
            as u64,
        descriptors_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(0),
        cpu_ms: ticks * 1000 / per_second,
    }
}

/// The host's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Writes the families about the process.
pub(super) fn collect(out: &mut Exposition, node_id: &str, started: Instant) {
    let usage = usage();
    out.family("apisix_node_info", "The gateway node.", Kind::Gauge);
    out.sample(&[("hostname", &host_name())], 1u64);
    out.family("sluice_build_info", "Version of the program and id of the node.", Kind::Gauge);
    out.sample(&[("version", env!("CARGO_PKG_VERSION")), ("node", node_id)], 1u64);
    out.family("sluice_uptime_seconds", "Seconds since the start.", Kind::Gauge);
    out.sample(&[], started.elapsed().as_secs_f64());
    out.family("process_cpu_seconds_total", "CPU time used, user and system.", Kind::Counter);
    out.sample(&[], usage.cpu_ms as f64 / 1000.0);
    out.family("process_resident_memory_bytes", "Resident memory.", Kind::Gauge);
    out.sample(&[], usage.resident);
    out.family("process_virtual_memory_bytes", "Virtual memory.", Kind::Gauge);
    out.sample(&[], usage.virtual_size);
    out.family("process_open_fds", "Open descriptors.", Kind::Gauge);
    out.sample(&[], usage.descriptors);
    out.family("process_max_fds", "Most descriptors the process may open.", Kind::Gauge);
    out.sample(&[], usage.descriptors_max);
}
