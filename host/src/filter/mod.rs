//! What happens to a request, a response, a connection or a frame on its way:
//! the built-in plugins, and the chain that runs them.
//!
//! [`merge`] puts the plugins of service, plugin config and route together;
//! [`Chain::build`] resolves them once, so that running one looks nothing up by
//! name. [`Filters`] is the pair of chains a request meets: the global rules'
//! and its route's. A chain says what it needs ([`Chain::body_interest`] and
//! its like), so that an empty phase costs nothing. Fields and defaults are
//! APISIX's; `docs/plugins-builtin.md` has them all.

mod build;
mod chain;
mod consumers;
mod exchange;
mod module;
mod plugins;
mod verdict;

pub use build::{
    BuildContext, ChainKind, FindModule, FoundModule, Groups, ModulePlace, ModuleSource, UpstreamSource,
    merge,
};
pub use chain::{Chain, Filters, FrameContext};
pub use consumers::{Consumer, Consumers, Grant, Proof, is_auth_plugin};
pub use exchange::{ConnectionScope, Exchange, FilterNote, RequestId, Word};
pub use module::FrameBatch;
pub use verdict::{
    BodyAction, BodyInterest, ConnectionVerdict, FrameVerdict, LocalResponse, Longer, Rewritten, Verdict,
};

/// Name and priority of every built-in plugin.
pub fn built_in_plugins() -> impl Iterator<Item = (&'static str, i32)> {
    plugins::all()
}
