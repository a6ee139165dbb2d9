//! The control plane's own servers: status, health and metrics; and the client
//! behind `sluice status`.
//!
//! Answers are made by pure functions of a request and what the gateway says of
//! itself ([`Gateway`]); [`serve`] is the thin HTTP server around them. Schemas
//! are in `docs/observability.md` and only ever grow. The Admin API is one more
//! [`Site`], in `api`.

mod api;
pub mod client;
mod collect;
mod convert;
mod exchange;
pub mod fleet;
mod health;
mod server;
mod sites;
mod status;
mod table;

pub use api::{AccessKey, AdminSite, Desk, Keys, QUESTIONS_MAX, Question, Role, own_change};
pub use collect::{LogCollector, NetCollector, StatusCollector, UpstreamCollector};
pub use exchange::{Request, Response, Site};
pub use server::{ServerLimits, bind, serve};
pub use sites::{MetricsSite, StatusSite};
pub use status::{
    BindStatus, BreakingStatus, ConfigStatus, ConnectionStatus, HealthCounter, InForce, LineStatus,
    ListenerStatus, ModuleStatus, NodeInfo, NodeStatus, ProcessStatus, ProvenanceStatus, Quarantined,
    Readiness, RunningStatus, Since, State, Status, StoreStatus, TrialStatus, UpstreamStatus,
};

/// What the gateway says of itself. Asked on a thread of its own, so it may take
/// short locks; it must not wait for anything else.
pub trait Gateway: Send + Sync {
    /// Whether it serves.
    fn readiness(&self) -> Readiness;
    /// Everything there is to know.
    fn status(&self) -> Status;
    /// The objects in force and their revisions; none is known without a store.
    fn in_force(&self) -> InForce {
        InForce::default()
    }
    /// What the nodes that read the same store tell of themselves.
    ///
    /// # Errors
    /// The store cannot be read, or is of this node alone.
    fn fleet(&self) -> Result<Vec<serde_json::Value>, String> {
        Err("there is no fleet".to_owned())
    }
}
