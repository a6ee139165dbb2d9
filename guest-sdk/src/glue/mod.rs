//! Between the generated bindings and the types of this crate. Exists in
//! components alone; [`export!`](crate::export) is its only user.
#![allow(missing_docs, reason = "hidden, and written by the generator for the most part")]

pub mod host;

mod convert;
#[cfg(feature = "http")]
mod http;

use std::cell::RefCell;
use std::thread::LocalKey;

#[cfg(feature = "http")]
pub use http::Handler;
#[cfg(feature = "http")]
pub use wasip2 as wasi;

use crate::{
    Comparison, ConnectionId, ExchangeId, Frame, FrameFilter, Frames, Plugin, RequestFilter, RequestHead,
    ResponseFilter, ResponseHead, Timer, Transcoder,
};

/// What the host gives. A component imports those functions alone that it calls.
#[allow(unsafe_code, unreachable_pub, rust_2018_idioms, clippy::all, reason = "generated")]
pub mod imports {
    wit_bindgen::generate!({ path: "../wit", world: "host" });
}

/// Generates one world's bindings. The types shared by interfaces are those of
/// [`imports`], for the worlds that use any.
macro_rules! bindings {
    ($module:ident, $world:literal, $export:literal $(, $types:literal)?) => {
        #[allow(unsafe_code, unreachable_pub, rust_2018_idioms, clippy::all, reason = "generated")]
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                world: $world,
                with: { $($types: crate::glue::imports::sluice::plugin::types)? },
                pub_export_macro: true,
                export_macro_name: $export,
            });
        }
    };
}

bindings!(lifecycle, "lifecycle-plugin", "export_lifecycle");
bindings!(request_filter, "request-filter-plugin", "export_request_filter", "sluice:plugin/types@0.1.0");
bindings!(response_filter, "response-filter-plugin", "export_response_filter", "sluice:plugin/types@0.1.0");
bindings!(frame_filter, "frame-filter-plugin", "export_frame_filter");
bindings!(transcoder, "transcoder-plugin", "export_transcoder", "sluice:plugin/types@0.1.0");
bindings!(timer, "timer-plugin", "export_timer");
bindings!(comparison, "comparison-plugin", "export_comparison");

pub use comparison::export_comparison;
pub use frame_filter::export_frame_filter;
pub use lifecycle::export_lifecycle;
pub use request_filter::export_request_filter;
pub use response_filter::export_response_filter;
pub use timer::export_timer;
pub use transcoder::export_transcoder;

use comparison::exports::sluice::plugin::comparison as wit_comparison;
use frame_filter::exports::sluice::plugin::frame_filter as wit_frames;
use imports::sluice::plugin::types::{ChunkVerdict, Head, HeadVerdict};
use lifecycle::exports::sluice::plugin::lifecycle as wit_lifecycle;
use request_filter::exports::sluice::plugin::request_filter as wit_request;
use response_filter::exports::sluice::plugin::response_filter as wit_response;
use timer::exports::sluice::plugin::timer as wit_timer;
use transcoder::exports::sluice::plugin::transcoder as wit_transcoder;

/// The component's one instance of its plugin.
pub trait Component: 'static {
    type Plugin: Plugin;

    fn slot() -> &'static LocalKey<RefCell<Option<Self::Plugin>>>;
}

/// Calls the plugin. The host configures an instance before anything else.
fn with<C: Component, R>(call: impl FnOnce(&mut C::Plugin) -> R) -> R {
    C::slot().with_borrow_mut(|slot| call(slot.as_mut().expect("the host calls configure first")))
}

impl<C: Component> wit_lifecycle::Guest for C {
    fn configure(config: String) -> Result<wit_lifecycle::Interest, String> {
        std::panic::set_hook(Box::new(|panic| crate::error!("{panic}")));
        let (plugin, interest) =
            crate::plugin::configure::<C::Plugin>(&config).map_err(|error| error.to_string())?;
        C::slot().set(Some(plugin));
        Ok(interest.into())
    }
}

impl<C: Component<Plugin: RequestFilter>> wit_request::Guest for C {
    fn on_head(exchange: u64, head: Head, end: bool) -> HeadVerdict {
        let head = RequestHead::new(&head.bytes, &head.spans);
        with::<C, _>(|plugin| plugin.on_head(ExchangeId(exchange), head, end)).into()
    }

    fn on_body(exchange: u64, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
        with::<C, _>(|plugin| plugin.on_body(ExchangeId(exchange), chunk, end)).into()
    }
}

impl<C: Component<Plugin: ResponseFilter>> wit_response::Guest for C {
    fn on_head(exchange: u64, head: Head, end: bool) -> HeadVerdict {
        let head = ResponseHead::new(&head.bytes, &head.spans);
        with::<C, _>(|plugin| plugin.on_head(ExchangeId(exchange), head, end)).into()
    }

    fn on_body(exchange: u64, chunk: Vec<u8>, end: bool) -> ChunkVerdict {
        with::<C, _>(|plugin| plugin.on_body(ExchangeId(exchange), chunk, end)).into()
    }
}

impl<C: Component<Plugin: FrameFilter>> wit_frames::Guest for C {
    fn on_frames(
        connection: u64,
        peer: String,
        buffer: Vec<u8>,
        frames: Vec<wit_frames::Frame>,
    ) -> Vec<wit_frames::FrameVerdict> {
        let part = |start: u32, length: u32| &buffer[start as usize..][..length as usize];
        let frames: Vec<Frame<'_>> = frames
            .iter()
            .map(|frame| Frame {
                bytes: part(frame.start, frame.length),
                body: part(frame.body_start, frame.body_length),
                command: frame.command,
                sequence: frame.sequence,
                user: frame.user,
            })
            .collect();
        let frames = Frames::new(ConnectionId(connection), &peer, &frames);
        with::<C, _>(|plugin| plugin.on_frames(frames)).into_iter().map(Into::into).collect()
    }
}

impl<C: Component<Plugin: Transcoder>> wit_transcoder::Guest for C {
    fn encode_request(
        head: Head,
        body: Vec<u8>,
        user: Option<u64>,
    ) -> Result<wit_transcoder::Outgoing, wit_transcoder::Problem> {
        let head = RequestHead::new(&head.bytes, &head.spans);
        with::<C, _>(|plugin| plugin.encode_request(head, &body, user)).map(Into::into).map_err(Into::into)
    }

    fn decode_reply(request: u32, reply: u32, body: Vec<u8>) -> Result<Vec<u8>, wit_transcoder::Problem> {
        with::<C, _>(|plugin| plugin.decode_reply(request, reply, &body)).map_err(Into::into)
    }

    fn encode_message(
        text: Vec<u8>,
        user: Option<u64>,
    ) -> Result<wit_transcoder::Message, wit_transcoder::Problem> {
        with::<C, _>(|plugin| plugin.encode_message(&text, user)).map(Into::into).map_err(Into::into)
    }

    fn decode_message(
        command: u32,
        id: Option<String>,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, wit_transcoder::Problem> {
        with::<C, _>(|plugin| plugin.decode_message(command, id.as_deref(), &body)).map_err(Into::into)
    }

    fn text_fields(command: u32, body: Vec<u8>) -> Result<Vec<String>, wit_transcoder::Problem> {
        with::<C, _>(|plugin| plugin.text_fields(command, &body)).map_err(Into::into)
    }
}

impl<C: Component<Plugin: Timer>> wit_timer::Guest for C {
    fn tick() -> Result<(), String> {
        with::<C, _>(|plugin| plugin.tick())
    }
}

impl<C: Component<Plugin: Comparison>> wit_comparison::Guest for C {
    fn breaking(old: String) -> Result<Vec<String>, String> {
        let old = crate::plugin::settings::<C::Plugin>(&old).map_err(|error| error.to_string())?;
        with::<C, _>(|plugin| plugin.breaking(old)).map_err(|error| error.to_string())
    }
}
