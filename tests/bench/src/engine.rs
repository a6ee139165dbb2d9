//! What wasmtime alone takes for what plugins are measured by, with nothing of ours
//! around it: a call that brings bytes in and out, an instance made and dropped, an
//! edge function's whole life. What a plugin adds cannot come below these.

use std::convert::Infallible;
use std::hint::black_box;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use tokio::runtime::Runtime;
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable, TypedFunc};
use wasmtime::error::Context as _;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store, ensure,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::plugin::components;
use crate::process::thread_time;
use crate::report::{Circumstances, Line};
use crate::stats::Spread;

/// The names of what is measured, and what each is.
pub(crate) const PARTS: [(&str, &str); 3] = [
    ("engine-call", "a call with 100 bytes that gives them back; under a transcoder's call"),
    ("engine-instance", "the guest of `plugin-fresh` made and dropped, not called; under that"),
    ("engine-function", "the function of `plugin-function-fresh` made, called, dropped; under that"),
];

/// Operations of each part in a round.
const OPERATIONS: [u32; 3] = [50_000, 5_000, 2_000];

/// Ticks no call comes to: the epoch does not rise here.
const NEVER: u64 = 1_000_000;

/// A guest that gives back what it gets, without allocating.
const ECHO: &str = r#"(component
    (core module $echo
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
        (func (export "echo") (param i32 i32) (result i32)
            (i32.store (i32.const 16) (local.get 0))
            (i32.store (i32.const 20) (local.get 1))
            (i32.const 16)))
    (core instance $guest (instantiate $echo))
    (func (export "echo") (param "bytes" (list u8)) (result (list u8))
        (canon lift (core func $guest "echo")
            (memory $guest "memory") (realloc (func $guest "realloc")))))"#;

/// Measures all parts in turns.
pub(crate) fn run(circumstances: &Circumstances, lines: &mut Vec<Line>) -> Result<()> {
    let engine = Engine::new(&config())?;
    let mut echo = Echo::new(&engine)?;
    let filter = filter(&engine)?;
    let function = Function::new(&engine)?;
    let mut costs = [const { Vec::new() }; PARTS.len()];
    for _ in 0..circumstances.rounds {
        costs[0].push(thread_time(OPERATIONS[0], || echo.call())?);
        costs[1].push(thread_time(OPERATIONS[1], || filter.instantiate(&mut store(&engine)).map(drop))?);
        costs[2].push(thread_time(OPERATIONS[2], || function.serve())?);
    }
    println!("\nwasmtime alone, us");
    for ((name, what), costs) in PARTS.into_iter().zip(costs) {
        let cost = Spread::of(costs.into_iter().map(|nanos| nanos / 1e3)).context("no round")?;
        println!("  {name:<16}{:>8.2}  {:.2}..{:.2}   {what}", cost.median, cost.min, cost.max);
        let ratio = Spread { median: 1.0, min: 1.0, max: 1.0 };
        lines.push(Line { case: name, contender: "wasmtime".to_owned(), cost, ratio, load: None });
    }
    Ok(())
}

/// The host's, without what only costs: calls are not made ready for others beside them.
fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(16)
        .total_core_instances(256)
        .total_memories(32)
        .total_tables(64)
        .total_stacks(16)
        .max_memory_size(64 << 20)
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(4 << 20)
        .table_keep_resident(64 << 10);
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .wasm_memory64(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: Nowhere,
}

fn store(engine: &Engine) -> Store<Host> {
    let host = Host {
        wasi: WasiCtx::builder().build(),
        table: ResourceTable::new(),
        http: WasiHttpCtx::new(),
        outgoing: Nowhere,
    };
    let mut store = Store::new(engine, host);
    store.set_epoch_deadline(NEVER);
    store
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Refuses to send requests; the function sends none.
struct Nowhere;

type Answer = std::result::Result<(http::Response<WasiBody>, Sent), Error>;
type Sent = Box<dyn Future<Output = std::result::Result<(), Error>> + Send>;

impl WasiHttpHooks for Nowhere {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Sent,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

struct Echo {
    store: Store<Host>,
    echo: TypedFunc<(&'static [u8],), (Vec<u8>,)>,
}

impl Echo {
    fn new(engine: &Engine) -> Result<Self> {
        let code = Component::from_binary(engine, &wat::parse_str(ECHO)?)?;
        let mut store = store(engine);
        let instance = Linker::new(engine).instantiate(&mut store, &code)?;
        let echo = instance.get_typed_func(&mut store, "echo")?;
        Ok(Self { store, echo })
    }

    fn call(&mut self) -> Result<()> {
        const SENT: &[u8] = &[b'x'; 100];
        let (back,) = self.echo.call(&mut self.store, (black_box(SENT),))?;
        ensure!(back.len() == SENT.len(), "{} bytes came back", back.len());
        Ok(())
    }
}

fn guest(engine: &Engine, name: &str) -> Result<Component> {
    let path = components().join("guests").join(name).with_extension("wasm");
    let bytes = std::fs::read(&path)
        .with_context(|| format!("{} is not built: cargo xtask plugins", path.display()))?;
    Component::from_binary(engine, &bytes)
}

/// The filter; what it would call does nothing, since it is not called itself.
fn filter(engine: &Engine) -> Result<InstancePre<Host>> {
    let code = guest(engine, "keywords")?;
    let mut linker = Linker::new(engine);
    linker.define_unknown_imports_as_traps(&code)?;
    linker.instantiate_pre(&code)
}

/// The edge function, and the runtime its calls wait on.
struct Function {
    engine: Engine,
    pre: ProxyPre<Host>,
    runtime: Runtime,
}

impl Function {
    fn new(engine: &Engine) -> Result<Self> {
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let pre = ProxyPre::new(linker.instantiate_pre(&guest(engine, "edge")?)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { engine: engine.clone(), pre, runtime })
    }

    fn serve(&self) -> Result<()> {
        self.runtime.block_on(async {
            let mut store = store(&self.engine);
            let proxy = self.pre.instantiate_async(&mut store).await?;
            let body = Empty::<Bytes>::new().map_err(|never: Infallible| -> Error { match never {} });
            let request = http::Request::get("http://localhost/hello").body(body)?;
            let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
            let (sender, mut answer) = tokio::sync::oneshot::channel();
            let sender = store.data_mut().http().new_response_outparam(sender)?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, sender).await?;
            let answer = answer.try_recv()?.context("it answers with an error")?;
            let body = answer.into_body().collect().await?.to_bytes();
            ensure!(body == "hello", "it answers {body:?}");
            Ok(())
        })
    }
}
