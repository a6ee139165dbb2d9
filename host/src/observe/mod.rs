//! What an operator sees of the running gateway: the access log and the metrics.
//!
//! Both are written for the hot path. A log line is formatted straight into a
//! buffer of its worker, which one thread empties into a file or stdout; a
//! request's metrics go into counters that only its own worker writes, through
//! handles resolved when the snapshot is built. Start at [`LogWriter`] and
//! [`Metrics`]; `docs/observability.md` fixes names, fields and units.

mod access_log;
mod events;
mod json;
mod log_config;
mod metrics;
mod record;

pub use access_log::{AccessLog, LogCounters, LogError, LogWriter};
pub use events::start_events;
pub use log_config::{EventFormat, LogConfig, LogTarget};
pub use metrics::{
    Collect, Exposition, KEPT_UNUSED, Kind, Metrics, PluginMetrics, PluginVerdict, ReasonFamily,
    RequestSample, RouteLabels, RouteMetrics, StreamRouteMetrics, Usage, WorkerMetrics, host_name, usage,
};
pub use record::{
    BlockedRecord, ClientText, ConnectionRecord, HttpRecord, Times, UpstreamRecord, VerdictRecord,
};
