//! What the service manager is told (`Type=notify`).

use sd_notify::NotifyState;

/// Serving; after a takeover this process is the unit's main one.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Ending.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, and nothing to do about it.
    let _ = sd_notify::notify(states);
}
