//! Resuming sessions: ticket keys and session caches, shared by all workers.
//!
//! Each rule for client certificates has keys of its own, so that a ticket
//! given under one opens nothing under another; within a rule, rustls ties a
//! session to its server name. Ticket keys are made here, live in memory only,
//! and are replaced every six hours; a ticket is good for at most twelve.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
};

use super::Fingerprint;

/// Sessions without tickets that are remembered for a rule.
const SESSIONS_MAX: usize = 1024;
/// Rules whose keys are kept; beyond it the table starts anew and clients
/// do a full handshake once.
const RULES_MAX: usize = 4096;

/// Ticket keys and session caches by rule for client certificates. Survives
/// every change of configuration. Cloning gives another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<Fingerprint, Resumption>>>);

/// How sessions of one rule are resumed.
#[derive(Debug, Clone)]
pub(super) struct Resumption {
    pub(super) ticketer: Option<Arc<dyn ProducesTickets>>,
    pub(super) storage: Arc<dyn StoresServerSessions>,
}

impl Sessions {
    /// No keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The keys for a rule, made when first asked for.
    pub(super) fn for_rule(&self, rule: &Fingerprint) -> Resumption {
        let mut rules = self.0.lock();
        if let Some(known) = rules.get(rule) {
            return known.clone();
        }
        if rules.len() >= RULES_MAX {
            rules.clear();
        }
        // Without randomness for a key there are no tickets, only handshakes.
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().ok();
        let storage: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(SESSIONS_MAX);
        let made = Resumption { ticketer, storage };
        rules.insert(*rule, made.clone());
        made
    }

    /// No resumption at all.
    pub(super) fn none() -> Resumption {
        Resumption { ticketer: None, storage: Arc::new(NoServerSessionStorage {}) }
    }
}
