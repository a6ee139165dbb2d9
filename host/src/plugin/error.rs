//! What goes wrong with modules.

/// Why a component cannot be used as a module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The machine cannot run the engine.
    #[error("the engine for modules cannot run here: {0}")]
    Engine(String),
    /// The bytes are no component, or one that is not valid.
    #[error("is not a usable component: {0}")]
    Invalid(String),
    /// It is larger than allowed.
    #[error("has {size} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// It imports what is not given to plugins.
    #[error("imports {0}, which is not given to plugins")]
    ForbiddenImport(String),
    /// It imports what only a grant gives.
    #[error("imports {import}, which needs the grant {grant}")]
    NotGranted {
        /// The interface.
        import: String,
        /// The field of `grants`.
        grant: &'static str,
    },
    /// It exports nothing the host calls.
    #[error("exports no interface of sluice:plugin besides lifecycle; exports are {0}")]
    NoExport(String),
    /// It has no `lifecycle`.
    #[error("does not export sluice:plugin/lifecycle, which every plugin does")]
    NoLifecycle,
    /// It exports an interface with other types than the host's.
    #[error("exports {export} that does not fit: {why}")]
    WrongType {
        /// The function.
        export: String,
        /// What differs.
        why: String,
    },
    /// Its `configure` said no.
    #[error("refuses its configuration: {0}")]
    Refused(String),
    /// A call while it was tried out failed.
    #[error("fails when it is tried out: {0}")]
    Tried(CallError),
    /// It cannot be kept as it is once it is configured.
    #[error("has no image of its configured state: {0}")]
    NoImage(String),
    /// Its interest makes no sense.
    #[error("asks for what it cannot have: {0}")]
    Interest(String),
}

/// Why a call did not give a verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest trapped.
    #[error("trap: {0}")]
    Trap(String),
    /// It did not come back in time.
    #[error("did not come back within its deadline")]
    Deadline,
    /// It wanted more memory than it may have.
    #[error("wanted more memory than its limit of {0} bytes")]
    Memory(usize),
    /// What it gave back is not allowed.
    #[error("gave back {0}")]
    Garbage(String),
    /// All its instances, or all places of the node, are taken.
    #[error("no instance is free")]
    Busy,
    /// It waits where a plugin must answer at once.
    #[error("waits in a call that may not wait")]
    Waits,
    /// It failed too often and is not called for a while.
    #[error("is not called for a while, because it failed too often")]
    BreakerOpen,
    /// No trust key vouches for it any more.
    #[error("is withdrawn: no trust key vouches for it any more")]
    Withdrawn,
}

impl CallError {
    /// A stable code for counters and the access log.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Trap(_) => "module_trap",
            Self::Deadline => "module_deadline",
            Self::Memory(_) => "module_memory",
            Self::Garbage(_) => "module_garbage",
            Self::Busy => "module_busy",
            Self::Waits => "module_waits",
            Self::BreakerOpen => "module_breaker",
            // As where it could not be had from the start.
            Self::Withdrawn => "module_missing",
        }
    }

    /// The status a client gets when this happens to the function that was to
    /// answer it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Trap(_) | Self::Memory(_) | Self::Waits => 500,
            Self::Garbage(_) => 502,
            Self::Busy | Self::BreakerOpen | Self::Withdrawn => 503,
            Self::Deadline => 504,
        }
    }
}
