//! What happens to a module beside the traffic, while it is in use: its timer, and
//! new instances in the places of those that are lost or spent.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::module::{Plugin, Visit, wait};

/// Starts both on the runtime that is current. They end with the module.
pub(super) fn start(plugin: &Arc<Plugin>) {
    let interval = match plugin.function() {
        Some(function) => function.timer_interval(),
        None => {
            tokio::spawn(tend(Arc::downgrade(plugin)));
            let milliseconds = plugin.interest().timer_interval;
            (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()))
        }
    };
    if let Some(interval) = interval {
        tokio::spawn(run(Arc::downgrade(plugin), interval));
    }
}

/// Runs a timer, one run after the other.
async fn run(plugin: Weak<Plugin>, interval: Duration) {
    let mut visit = Visit::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(plugin) = plugin.upgrade() else { return };
        if plugin.is_withdrawn() {
            continue;
        }
        let module = Arc::clone(plugin.name());
        let failure = match plugin.function() {
            Some(function) => match function.tick().await {
                Ok(answer) => answer.err(),
                Err(error) => Some(error.to_string()),
            },
            None => {
                let mut own = std::mem::take(&mut visit);
                let work = tokio::task::spawn_blocking(move || {
                    // What is no answer is counted, and told by the calls' own log.
                    let answer = wait(plugin.tick(&mut own)).0.unwrap_or(Ok(()));
                    (own, answer.err())
                });
                match work.await {
                    Ok((own, failure)) => {
                        visit = own;
                        failure
                    }
                    Err(error) => Some(error.to_string()),
                }
            }
        };
        if let Some(reason) = failure {
            tracing::warn!(%module, reason, "a module's timer failed");
        }
    }
}

/// Makes new instances where they are wanted.
async fn tend(plugin: Weak<Plugin>) {
    /// How often it is looked whether the module is still in use.
    const LOOK: Duration = Duration::from_secs(5);
    /// Time before another try when there was no new instance to be had.
    const PAUSE: Duration = Duration::from_secs(1);
    loop {
        let Some(wanted) = plugin.upgrade().map(|plugin| plugin.wanted()) else { return };
        let _ = tokio::time::timeout(LOOK, wanted.notified()).await;
        let Some(strong) = plugin.upgrade() else { return };
        if !strong.wants_instances() || strong.is_withdrawn() {
            continue;
        }
        let work = tokio::task::spawn_blocking(move || strong.refill());
        if !work.await.unwrap_or(false) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
