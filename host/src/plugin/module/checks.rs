//! What a component has to pass before it is called for anyone.

use std::sync::Arc;
use std::time::Duration;

use super::{BODY_BYTES_MAX, Settings, Source, TIMER_INTERVAL_MIN, wait};
use crate::plugin::abi::{Head, Interest, Phases};
use crate::plugin::component::{Component, Interface};
use crate::plugin::host::Owner;
use crate::plugin::image;
use crate::plugin::instance::{Config, Live, Side, shorten};
use crate::plugin::{CallError, LoadError};

/// How long the call may take that tries a module out; the first one is slow.
const TRIAL_DEADLINE: Duration = Duration::from_millis(200);

/// The image of a component, tried out as the component was; or why there is none.
///
/// # Errors
/// There is no place for an instance at this moment.
pub(super) fn make_image(
    component: &Component,
    source: Source<'_>,
    owner: &Arc<Owner>,
    config: &Arc<Config>,
    interest: &Interest,
) -> Result<Result<Arc<Component>, String>, LoadError> {
    let made = source().map_err(LoadError::NoImage).and_then(|bytes| {
        let image = image::bake(component, &bytes, owner, config)?;
        wait(async {
            let mut live = Live::instantiate(&image, owner).await?;
            try_out(&mut live, interest).await.map_err(LoadError::Tried)
        })?;
        Ok(image)
    });
    match made {
        Ok(image) => Ok(Ok(image)),
        Err(error @ LoadError::Tried(CallError::Busy)) => Err(error),
        Err(error) => {
            let reason = shorten(&match error {
                LoadError::NoImage(why) => why,
                other => format!("its image {other}"),
            });
            tracing::info!(module = %owner.module, reason, "each new instance of a module is configured");
            Ok(Err(reason))
        }
    }
}

pub(super) fn check_grants(component: &Component, settings: &Settings) -> Result<(), LoadError> {
    for grant in &component.outline().grants {
        let is_given = match *grant {
            "kv" => !settings.kv.is_empty() || !settings.store.is_empty(),
            _ => !settings.fetch.is_empty(),
        };
        if !is_given {
            let import = match *grant {
                "kv" => "sluice:plugin/key-value",
                _ => "sluice:plugin/fetch",
            };
            return Err(LoadError::NotGranted { import: import.to_owned(), grant });
        }
    }
    Ok(())
}

pub(super) fn check_interest(component: &Component, interest: Interest) -> Result<Interest, LoadError> {
    let needs = [
        (Phases::REQUEST_HEAD | Phases::REQUEST_BODY, Interface::RequestFilter),
        (Phases::RESPONSE_HEAD | Phases::RESPONSE_BODY, Interface::ResponseFilter),
        (Phases::FRAMES, Interface::FrameFilter),
    ];
    for (phases, interface) in needs {
        if (interest.phases & phases) != Phases::empty() && !component.has(interface) {
            let name = interface.name();
            return Err(LoadError::Interest(format!("phases of {name}, which it does not export")));
        }
    }
    for (field, value) in
        [("request-body-max", interest.request_body_max), ("response-body-max", interest.response_body_max)]
    {
        if value > BODY_BYTES_MAX {
            return Err(LoadError::Interest(format!("{field} of {value}, at most {BODY_BYTES_MAX}")));
        }
    }
    let interval = interest.timer_interval;
    if interval > 0 && u128::from(interval) < TIMER_INTERVAL_MIN.as_millis() {
        return Err(LoadError::Interest(format!("timer-interval of {interval} ms, at least 100")));
    }
    if interval > 0 && !component.has(Interface::Timer) {
        return Err(LoadError::Interest("timer-interval without exporting timer".to_owned()));
    }
    Ok(interest)
}

/// Calls what the module wants, with harmless input.
pub(super) async fn try_out(live: &mut Live, interest: &Interest) -> Result<(), CallError> {
    let wants = |phase: Phases| (interest.phases & phase) != Phases::empty();
    if wants(Phases::REQUEST_HEAD) {
        let text = b"GEThttplocalhost/127.0.0.1";
        let spans = [0, 3, 3, 4, 7, 9, 16, 1, 17, 9];
        live.on_head(Side::Request, 0, Head { bytes: text, spans: &spans }, true, TRIAL_DEADLINE).await?;
    }
    if wants(Phases::RESPONSE_HEAD) {
        let head = Head { bytes: b"200", spans: &[0, 3] };
        live.on_head(Side::Response, 0, head, true, TRIAL_DEADLINE).await?;
    }
    if wants(Phases::FRAMES) {
        live.on_frames(0, "127.0.0.1", &[], &[], TRIAL_DEADLINE).await?;
    }
    live.take_notes();
    Ok(())
}
