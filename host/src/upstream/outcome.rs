//! What became of an attempt, in the words checks and status use.

use std::io;

/// Why a connection or an exchange with a node failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nobody listens: the node answered with a reset.
    Refused,
    /// No answer to the connect in time: the way there is suspect, not only the node.
    ConnectTimeout,
    /// No way there: the network said so.
    Unreachable,
    /// The name has no address.
    Unresolved,
    /// The TLS handshake failed, the certificate included.
    Tls,
    /// A relay on the way could not go on.
    Relay,
    /// The connection broke before the answer was whole.
    Broken,
    /// The node took too long to answer.
    Timeout,
    /// The node does not speak the protocol.
    Malformed,
    /// A probe or answer had a status that counts as a failure.
    Status(u16),
    /// This side could not try: descriptors, ports or memory ran out. Says nothing of the node.
    Local,
}

impl Failure {
    /// A fixed code for logs, metrics and status.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::Unresolved => "unresolved",
            Self::Tls => "tls",
            Self::Relay => "relay",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::Status(_) => "status",
            Self::Local => "local",
        }
    }

    /// Whether nothing of a request can have reached the node, so that another
    /// may be tried whatever the request is.
    #[must_use]
    pub fn is_before_request(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::ConnectTimeout
                | Self::Unreachable
                | Self::Unresolved
                | Self::Tls
                | Self::Relay
                | Self::Local
        )
    }

    /// Whether it speaks of the way rather than of the node alone, so that
    /// another line is the better second try.
    #[must_use]
    pub fn is_of_the_way(self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::Unreachable | Self::Relay)
    }

    /// What a failed connect means.
    #[must_use]
    pub fn of_connect(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset | Kind::ConnectionAborted => Self::Refused,
            Kind::TimedOut => Self::ConnectTimeout,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::PermissionDenied => {
                Self::Unreachable
            }
            Kind::AddrInUse | Kind::AddrNotAvailable | Kind::OutOfMemory => Self::Local,
            _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOBUFS) => {
                    Self::Local
                }
                _ => Self::Unreachable,
            },
        }
    }
}

/// What an exchange with a node came to, as the flow reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response head with this status came; the time is that from the request to the head.
    Status(u16),
    /// The node answered, in a protocol without status codes.
    Answered,
    /// It failed. [`connect`](super::connect) reports its own failures.
    Failed(Failure),
    /// It ended without a word on the node: the client left.
    Abandoned,
}
