//! One instance of a component, and calls into it.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance as Linked, Lift, Lower, TypedFunc,
};
use wasmtime::{Store, UpdateDeadline};

use super::abi::{
    Breaking, ChunkVerdict, Configure, DecodeMessage, DecodeReply, EncodeMessage, EncodeRequest, Frame,
    FrameRuling, Head, HeadVerdict, Interest, OnBody, OnFrames, OnHead, Outgoing, TextFields, TextMessage,
    Tick, TranscodeProblem,
};
use super::component::{Component, Made};
use super::deadline::Look;
use super::engine::Place;
use super::host::{FileAccess, HOST_CALLS_MAX, Note, Owner, State};
use super::{CallError, LoadError};

/// Fuel for what a guest hands to the host in one call, about its bytes.
const HOST_FUEL: usize = 32 << 20;

type Typed<T> = TypedFunc<<T as Signature>::Params, <T as Signature>::Results>;

/// The two halves of a pair of types.
pub(super) trait Signature {
    type Params;
    type Results;
}

impl<P, R> Signature for (P, R) {
    type Params = P;
    type Results = R;
}

/// The functions of an instance.
struct Functions {
    configure: Typed<Configure<'static>>,
    request: Option<(Typed<OnHead<'static>>, Typed<OnBody<'static>>)>,
    response: Option<(Typed<OnHead<'static>>, Typed<OnBody<'static>>)>,
    frames: Option<Typed<OnFrames<'static>>>,
    transcoder: Option<Box<Transcoder>>,
    tick: Option<Typed<Tick>>,
    breaking: Option<Typed<Breaking<'static>>>,
}

struct Transcoder {
    encode_request: Typed<EncodeRequest<'static>>,
    decode_reply: Typed<DecodeReply<'static>>,
    encode_message: Typed<EncodeMessage<'static>>,
    decode_message: Typed<DecodeMessage<'static>>,
    text_fields: Typed<TextFields<'static>>,
}

/// Which of the two filters of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// How late a busy worker may come back to a guest whose wait in the host is over:
/// one that is told of a time-out is to say what becomes of its exchange.
const BUSY_WORKER: Duration = Duration::from_millis(250);

/// An instance. After an error it is good for nothing but to be dropped.
pub(super) struct Live {
    store: Store<State>,
    linked: Linked,
    functions: Functions,
    waits: bool,
    /// Calls until it is replaced by a new one.
    pub(super) calls_left: u32,
    _place: Place,
}

impl Live {
    /// Instantiates a component and configures it.
    pub(super) async fn start(
        component: &Component,
        owner: &Arc<Owner>,
        config: &Arc<Config>,
    ) -> Result<(Self, Interest), LoadError> {
        let mut live = Self::instantiate(component, owner).await?;
        live.store.data_mut().files = Some(Box::new(FileAccess::of(config)));
        let configure: Typed<Configure<'_>> = live.functions.configure;
        let answer = live.call(configure, (&config.text,), owner.limits.configure_deadline).await;
        live.store.data_mut().files = None;
        let (answer,) = answer.map_err(LoadError::Tried)?;
        let interest = answer.map_err(|text| LoadError::Refused(shorten(&text)))?;
        Ok((live, interest))
    }

    /// Instantiates a component, which may be an image: then it is configured.
    pub(super) async fn instantiate(component: &Component, owner: &Arc<Owner>) -> Result<Self, LoadError> {
        let place = component.engine.take_place().ok_or(LoadError::Tried(CallError::Busy))?;
        let state = State::new(Arc::clone(owner), component.engine.tick());
        let mut store = Store::new(component.engine.wasmtime(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOST_FUEL);
        store.epoch_deadline_callback(|mut context| {
            let state = context.data_mut();
            state.ticking.call();
            Ok(match state.clock.look() {
                Look::Stop => UpdateDeadline::Interrupt,
                Look::Again(ticks) => UpdateDeadline::Continue(ticks),
            })
        });
        begin(&mut store, owner.limits.configure_deadline);
        let Made::Plugin { pre, waiting } = &component.made else {
            return Err(LoadError::Invalid("is an edge function, which is called as a whole".to_owned()));
        };
        let waiting = waiting.as_ref().filter(|_| owner.may_wait());
        let waits = component.waits || waiting.is_some();
        let pre = waiting.unwrap_or(pre);
        let linked = match waits {
            true => pre.instantiate_async(&mut store).await,
            false => pre.instantiate(&mut store),
        };
        let linked = linked.map_err(|error| LoadError::Tried(explain(&store, &error)))?;
        let functions = functions(&mut store, &linked, component)?;
        Ok(Self { store, linked, functions, waits, calls_left: u32::MAX, _place: place })
    }

    /// Lets it have more memory than its module's limit says.
    pub(super) fn allow_memory(&mut self, bytes: usize) {
        self.store.data_mut().memory.max += bytes;
    }

    /// Calls a function that has no parameters, by its name, and looks at what it
    /// gives while the instance holds it.
    pub(super) async fn read<R, T>(
        &mut self,
        interface: &str,
        name: &str,
        look: impl FnOnce(&Store<State>, R) -> T,
    ) -> Result<T, CallError>
    where
        R: Lift + Send + Sync + 'static,
    {
        let linked = self.linked;
        let exported = linked.get_export_index(&mut self.store, None, interface).ok_or_else(absent)?;
        let index = linked.get_export_index(&mut self.store, Some(&exported), name).ok_or_else(absent)?;
        let function: TypedFunc<(), (R,)> =
            linked.get_typed_func(&mut self.store, index).map_err(|error| explain(&self.store, &error))?;
        let deadline = self.store.data().owner.limits.configure_deadline;
        let (read,) = self.call(function, (), deadline).await?;
        Ok(look(&self.store, read))
    }

    /// Bytes of linear memory it has.
    pub(super) fn memory(&self) -> usize {
        self.store.data().memory.bytes
    }

    /// Takes what the guest noted in its last call.
    pub(super) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.store.data_mut().notes)
    }

    pub(super) async fn on_head(
        &mut self,
        side: Side,
        exchange: u64,
        head: Head<'_>,
        end: bool,
        deadline: Duration,
    ) -> Result<HeadVerdict, CallError> {
        let (function, _) = self.filter(side)?;
        let function: Typed<OnHead<'_>> = function;
        self.call(function, (exchange, head, end), deadline).await.map(|(verdict,)| verdict)
    }

    pub(super) async fn on_body(
        &mut self,
        side: Side,
        exchange: u64,
        chunk: &[u8],
        end: bool,
        deadline: Duration,
    ) -> Result<ChunkVerdict, CallError> {
        let (_, function) = self.filter(side)?;
        let function: Typed<OnBody<'_>> = function;
        self.call(function, (exchange, chunk, end), deadline).await.map(|(verdict,)| verdict)
    }

    pub(super) async fn on_frames(
        &mut self,
        connection: u64,
        peer: &str,
        buffer: &[u8],
        frames: &[Frame],
        deadline: Duration,
    ) -> Result<Vec<FrameRuling>, CallError> {
        let function: Typed<OnFrames<'_>> = self.functions.frames.ok_or_else(absent)?;
        self.call(function, (connection, peer, buffer, frames), deadline).await.map(|(rulings,)| rulings)
    }

    pub(super) async fn tick(&mut self, deadline: Duration) -> Result<Result<(), String>, CallError> {
        let function = self.functions.tick.ok_or_else(absent)?;
        self.call(function, (), deadline).await.map(|(answer,)| answer)
    }

    pub(super) async fn breaking(
        &mut self,
        old: &str,
        deadline: Duration,
    ) -> Result<Result<Vec<String>, String>, CallError> {
        let function: Typed<Breaking<'_>> = self.functions.breaking.ok_or_else(absent)?;
        self.call(function, (old,), deadline).await.map(|(answer,)| answer)
    }

    pub(super) async fn encode_request(
        &mut self,
        head: Head<'_>,
        body: &[u8],
        user: Option<u64>,
        deadline: Duration,
    ) -> Result<Result<Outgoing, TranscodeProblem>, CallError> {
        let function: Typed<EncodeRequest<'_>> = self.transcoder()?.encode_request;
        self.call(function, (head, body, user), deadline).await.map(|(answer,)| answer)
    }

    pub(super) async fn decode_reply(
        &mut self,
        request: u32,
        reply: u32,
        body: &[u8],
        deadline: Duration,
    ) -> Result<Result<Vec<u8>, TranscodeProblem>, CallError> {
        let function: Typed<DecodeReply<'_>> = self.transcoder()?.decode_reply;
        self.call(function, (request, reply, body), deadline).await.map(|(answer,)| answer)
    }

    pub(super) async fn encode_message(
        &mut self,
        text: &[u8],
        user: Option<u64>,
        deadline: Duration,
    ) -> Result<Result<TextMessage, TranscodeProblem>, CallError> {
        let function: Typed<EncodeMessage<'_>> = self.transcoder()?.encode_message;
        self.call(function, (text, user), deadline).await.map(|(answer,)| answer)
    }

    pub(super) async fn decode_message(
        &mut self,
        command: u32,
        id: Option<&str>,
        body: &[u8],
        deadline: Duration,
    ) -> Result<Result<Vec<u8>, TranscodeProblem>, CallError> {
        let function: Typed<DecodeMessage<'_>> = self.transcoder()?.decode_message;
        self.call(function, (command, id, body), deadline).await.map(|(answer,)| answer)
    }

    pub(super) async fn text_fields(
        &mut self,
        command: u32,
        body: &[u8],
        deadline: Duration,
    ) -> Result<Result<Vec<String>, TranscodeProblem>, CallError> {
        let function: Typed<TextFields<'_>> = self.transcoder()?.text_fields;
        self.call(function, (command, body), deadline).await.map(|(answer,)| answer)
    }

    fn transcoder(&self) -> Result<&Transcoder, CallError> {
        self.functions.transcoder.as_deref().ok_or_else(absent)
    }

    fn filter(&self, side: Side) -> Result<(Typed<OnHead<'static>>, Typed<OnBody<'static>>), CallError> {
        let functions = match side {
            Side::Request => self.functions.request,
            Side::Response => self.functions.response,
        };
        functions.ok_or_else(absent)
    }

    /// One call. Ready at the first poll unless the component may wait.
    async fn call<P, R>(
        &mut self,
        function: TypedFunc<P, R>,
        params: P,
        deadline: Duration,
    ) -> Result<R, CallError>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        self.calls_left = self.calls_left.saturating_sub(1);
        begin(&mut self.store, deadline);
        let result = if self.waits {
            // Epochs do not interrupt a guest that waits in the host.
            let patience = deadline + self.store.data().owner.limits.fetch_timeout + BUSY_WORKER;
            let calling = function.call_async(&mut self.store, params);
            match tokio::time::timeout(patience, calling).await {
                Ok(result) => result,
                Err(_) => return Err(CallError::Deadline),
            }
        } else {
            function.call(&mut self.store, params)
        };
        result.map_err(|error| explain(&self.store, &error))
    }
}

/// A configuration, as text for the guest and as a value for the host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) text: String,
    pub(super) value: serde_json::Value,
}

impl Config {
    pub(super) fn new(value: serde_json::Value) -> Arc<Self> {
        Arc::new(Self { text: value.to_string(), value })
    }
}

fn absent() -> CallError {
    CallError::Trap("the component has no such export".to_owned())
}

/// Makes a store ready for a call.
fn begin(store: &mut Store<State>, deadline: Duration) {
    let state = store.data_mut();
    state.ticking.call();
    state.host_calls = HOST_CALLS_MAX;
    state.memory.is_refused = false;
    let ticks = state.clock.begin(deadline);
    store.set_epoch_deadline(ticks);
}

/// Why a call failed.
fn explain(store: &Store<State>, error: &wasmtime::Error) -> CallError {
    let state = store.data();
    if state.clock.is_over {
        return CallError::Deadline;
    }
    if state.memory.is_refused {
        return CallError::Memory(state.memory.max);
    }
    let text = match error.downcast_ref::<wasmtime::Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    CallError::Trap(shorten(text.trim_start_matches("wasm trap: ")))
}

/// The first line of a text, at most 512 characters of it.
pub(super) fn shorten(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(512).collect()
}

fn functions(
    store: &mut Store<State>,
    linked: &Linked,
    component: &Component,
) -> Result<Functions, LoadError> {
    let exports = &component.exports;
    let configure = exports.configure.as_ref().ok_or(LoadError::NoLifecycle)?;
    let filter = |side: &Option<[ComponentExportIndex; 2]>, store: &mut Store<State>, name| {
        side.as_ref()
            .map(|[head, body]| Ok((typed(store, linked, head, name)?, typed(store, linked, body, name)?)))
            .transpose()
    };
    Ok(Functions {
        request: filter(&exports.request, store, "request-filter")?,
        response: filter(&exports.response, store, "response-filter")?,
        configure: typed(store, linked, configure, "lifecycle.configure")?,
        frames: exports
            .frames
            .as_ref()
            .map(|index| typed(store, linked, index, "frame-filter.on-frames"))
            .transpose()?,
        tick: exports.tick.as_ref().map(|index| typed(store, linked, index, "timer.tick")).transpose()?,
        breaking: exports
            .breaking
            .as_ref()
            .map(|index| typed(store, linked, index, "comparison.breaking"))
            .transpose()?,
        transcoder: exports
            .transcoder
            .as_ref()
            .map(|[one, two, three, four, five]| {
                Ok::<_, LoadError>(Box::new(Transcoder {
                    encode_request: typed(store, linked, one, "transcoder.encode-request")?,
                    decode_reply: typed(store, linked, two, "transcoder.decode-reply")?,
                    encode_message: typed(store, linked, three, "transcoder.encode-message")?,
                    decode_message: typed(store, linked, four, "transcoder.decode-message")?,
                    text_fields: typed(store, linked, five, "transcoder.text-fields")?,
                }))
            })
            .transpose()?,
    })
}

fn typed<P, R>(
    store: &mut Store<State>,
    linked: &Linked,
    index: &ComponentExportIndex,
    name: &str,
) -> Result<TypedFunc<P, R>, LoadError>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    linked.get_typed_func(store, index).map_err(|error| LoadError::WrongType {
        export: name.to_owned(),
        why: shorten(&format!("{error:#}")),
    })
}
