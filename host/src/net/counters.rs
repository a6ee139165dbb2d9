//! What happened at the edge, as counters by reason.
//!
//! Plain atomics without labels to look up; `observe` prints them under the
//! names given here, which are stable: dashboards and tests rely on them.

use std::sync::atomic::{AtomicU64, Ordering};

/// An enum whose variants are stable reason codes.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            const COUNT: usize = [$(Self::$variant),+].len();

            /// The reason code, as logs and metrics print it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why a downstream connection ended, as far as `net` and `server` know;
    /// flows have reasons of their own for what happens inside them.
    CloseReason {
        /// The flow ended by itself.
        Served = "served",
        /// The listener's connection limit was reached.
        TooManyConnections = "too_many_connections",
        /// The process has as many connections as its descriptors allow.
        DescriptorsShort = "descriptors_short",
        /// No bytes of the first message came in time.
        FirstByteTimeout = "first_byte_timeout",
        /// The peer closed before it sent anything.
        ClosedEarly = "closed_early",
        /// The PROXY header was missing, late or bad.
        ProxyHeader = "proxy_header",
        /// The TLS handshake failed.
        Handshake = "tls_handshake",
        /// The socket failed before a flow had it.
        Socket = "socket_error",
        /// The worker or the listener was going away.
        Draining = "draining",
        /// The task was dropped: the drain's deadline, or a panic.
        Aborted = "aborted",
    }
}

reasons! {
    /// Why a TLS handshake failed.
    HandshakeFailure {
        /// Not done in time.
        Timeout = "timeout",
        /// The peer closed in the middle.
        Closed = "closed",
        /// The socket failed.
        Socket = "socket_error",
        /// What came was not TLS.
        NotTls = "not_tls",
        /// The hello was over the limit of bytes.
        HelloTooLarge = "hello_too_large",
        /// No server name was asked for, and there is no certificate for that.
        NoServerName = "no_sni",
        /// There is no certificate for the name asked for.
        UnknownServerName = "unknown_sni",
        /// No version in common.
        Version = "no_shared_version",
        /// No cipher suite, group or signature scheme in common.
        Cipher = "no_shared_cipher",
        /// No protocol in common by ALPN.
        Alpn = "no_shared_alpn",
        /// A client certificate was wanted, none came.
        NoClientCertificate = "no_client_certificate",
        /// The client certificate was refused.
        BadClientCertificate = "bad_client_certificate",
        /// The client certificate is out of its time.
        ExpiredClientCertificate = "expired_client_certificate",
        /// The peer refused with an alert (as when it does not trust us).
        Alert = "alert_received",
        /// The peer broke the protocol.
        Protocol = "protocol_error",
    }
}

reasons! {
    /// Why a PROXY header was refused.
    ProxyHeaderFailure {
        /// Not whole in time.
        Timeout = "timeout",
        /// The peer closed before it was whole.
        Closed = "closed",
        /// The connection does not begin with one.
        Missing = "missing",
        /// It breaks the format.
        Malformed = "malformed",
        /// It is over the limit of bytes.
        TooLong = "too_long",
        /// Its checksum is wrong.
        Checksum = "checksum",
        /// The socket failed.
        Socket = "socket_error",
    }
}

/// Counters of everything before the flows. One for the process.
#[derive(Debug)]
pub struct Counters {
    /// Connections the process may have open at once.
    open_max: u64,
    open: AtomicU64,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    handed_over: AtomicU64,
    handshakes: AtomicU64,
    handshakes_resumed: AtomicU64,
    closed: [AtomicU64; CloseReason::COUNT],
    handshake_failed: [AtomicU64; HandshakeFailure::COUNT],
    proxy_header_failed: [AtomicU64; ProxyHeaderFailure::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self::with_room(u64::MAX)
    }
}

impl Counters {
    /// Counters of a process that may have `open_max` connections open at once,
    /// over all listeners.
    #[must_use]
    pub fn with_room(open_max: u64) -> Self {
        Self {
            open_max,
            open: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            handshakes_resumed: AtomicU64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            handshake_failed: std::array::from_fn(|_| AtomicU64::new(0)),
            proxy_header_failed: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

fn up(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// A connection was accepted; says whether there is room for it. It is
    /// [closed](Self::close) in any case.
    #[must_use]
    pub fn accept(&self) -> bool {
        up(&self.accepted);
        self.open.fetch_add(1, Ordering::Relaxed) < self.open_max
    }

    /// Accepting failed, as for want of descriptors.
    pub fn accept_error(&self) {
        up(&self.accept_errors);
    }

    /// A connection moved to a worker with fewer.
    pub fn hand_over(&self) {
        up(&self.handed_over);
    }

    /// A connection ended.
    pub fn close(&self, reason: CloseReason) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        up(&self.closed[reason as usize]);
    }

    /// A handshake succeeded.
    pub fn handshake(&self, is_resumed: bool) {
        up(&self.handshakes);
        if is_resumed {
            up(&self.handshakes_resumed);
        }
    }

    /// A handshake failed.
    pub fn handshake_failure(&self, reason: HandshakeFailure) {
        up(&self.handshake_failed[reason as usize]);
    }

    /// A PROXY header was refused.
    pub fn proxy_header_failure(&self, reason: ProxyHeaderFailure) {
        up(&self.proxy_header_failed[reason as usize]);
    }

    /// Connections accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Failed accepts.
    #[must_use]
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Connections that moved to another worker.
    #[must_use]
    pub fn handed_over(&self) -> u64 {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Handshakes that succeeded.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    /// Of these, resumed sessions.
    #[must_use]
    pub fn handshakes_resumed(&self) -> u64 {
        self.handshakes_resumed.load(Ordering::Relaxed)
    }

    /// Connections that ended for a reason.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].load(Ordering::Relaxed)
    }

    /// Handshakes that failed for a reason.
    #[must_use]
    pub fn handshake_failures(&self, reason: HandshakeFailure) -> u64 {
        self.handshake_failed[reason as usize].load(Ordering::Relaxed)
    }

    /// PROXY headers refused for a reason.
    #[must_use]
    pub fn proxy_header_failures(&self, reason: ProxyHeaderFailure) -> u64 {
        self.proxy_header_failed[reason as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_name_and_a_counter_of_its_own() {
        let counters = Counters::default();
        let names: HashSet<_> = HandshakeFailure::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), HandshakeFailure::ALL.len());
        for reason in HandshakeFailure::ALL {
            counters.handshake_failure(*reason);
        }
        assert!(HandshakeFailure::ALL.iter().all(|reason| counters.handshake_failures(*reason) == 1));
    }
}
