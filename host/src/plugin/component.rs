//! From bytes to a component that can be instantiated.

use std::sync::Arc;

use wasmparser::Payload;
use wasmtime::component::{Component as Code, ComponentExportIndex, InstancePre};

use super::LoadError;
use super::cache::CodeCache;
use super::edge;
use super::engine::Engine;
use super::host::State;
use crate::config::{COMPONENT_BYTES_MAX, Digest};

/// The WIT package whose interfaces plugins export.
const PACKAGE: &str = "sluice:plugin/";
/// Its version.
const VERSION: &str = "0.1.0";

/// Interfaces of WASI 0.2 that are linked with nothing granted.
const WASI_LINKED: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// An interface a plugin may export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Interface {
    Lifecycle,
    RequestFilter,
    ResponseFilter,
    FrameFilter,
    Transcoder,
    Timer,
    Comparison,
}

impl Interface {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Lifecycle,
        Self::RequestFilter,
        Self::ResponseFilter,
        Self::FrameFilter,
        Self::Transcoder,
        Self::Timer,
        Self::Comparison,
    ];

    /// Its name in the package.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::RequestFilter => "request-filter",
            Self::ResponseFilter => "response-filter",
            Self::FrameFilter => "frame-filter",
            Self::Transcoder => "transcoder",
            Self::Timer => "timer",
            Self::Comparison => "comparison",
        }
    }

    fn path(self) -> String {
        format!("{PACKAGE}{}@{VERSION}", self.name())
    }
}

/// Places of the functions a component exports.
#[derive(Clone, Default)]
pub(super) struct Exports {
    pub(super) configure: Option<ComponentExportIndex>,
    pub(super) request: Option<[ComponentExportIndex; 2]>,
    pub(super) response: Option<[ComponentExportIndex; 2]>,
    pub(super) frames: Option<ComponentExportIndex>,
    pub(super) transcoder: Option<[ComponentExportIndex; 5]>,
    pub(super) tick: Option<ComponentExportIndex>,
    pub(super) breaking: Option<ComponentExportIndex>,
}

/// What a component imports and exports, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Bytes of the component.
    pub size: usize,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Names of what it imports.
    pub imports: Vec<String>,
    /// Names of what it exports.
    pub exports: Vec<String>,
    /// The interfaces of `sluice:plugin` among its exports.
    pub interfaces: Vec<Interface>,
    /// Fields of `grants` it needs.
    pub grants: Vec<&'static str>,
}

/// A compiled component, linked and ready to be instantiated.
pub struct Component {
    pub(super) engine: Engine,
    pub(super) made: Made,
    pub(super) exports: Exports,
    /// It may wait in a call, so it runs on a stack of its own.
    pub(super) waits: bool,
    outline: Outline,
}

/// What a component was made into.
pub(super) enum Made {
    /// A plugin of `sluice:plugin`.
    Plugin {
        pre: InstancePre<State>,
        /// The same where what it is granted may have its calls wait.
        waiting: Option<InstancePre<State>>,
    },
    /// An edge function by `wasi:http`.
    Function(Arc<edge::Prepared>),
}

/// The interfaces an edge function exports one of.
const FUNCTION_EXPORTS: [&str; 2] = ["wasi:http/incoming-handler@0.2.", "wasi:http/handler@0.3."];

impl Component {
    /// Compiles a component, or takes it from the cache on the disk. Takes from
    /// a tenth of a second to many seconds of all processors: not for a thread
    /// that serves.
    ///
    /// # Errors
    /// Says why the bytes are no plugin.
    pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Arc<Self>, LoadError> {
        let digest = Digest::of(bytes);
        if is_function(bytes) {
            return Self::function(engine, bytes, digest);
        }
        Self::plugin(engine, engine.cache(), bytes, digest)
    }

    /// Compiles a plugin of which nothing is to be left on the disk.
    pub(super) fn compile_unkept(engine: &Engine, bytes: &[u8]) -> Result<Arc<Self>, LoadError> {
        Self::plugin(engine, None, bytes, Digest::of(bytes))
    }

    fn plugin(
        engine: &Engine,
        cache: Option<&CodeCache>,
        bytes: &[u8],
        digest: Digest,
    ) -> Result<Arc<Self>, LoadError> {
        let code = compile(engine.wasmtime(), cache, bytes, &digest)?;
        let outline = outline(&code, bytes.len(), digest);
        let waits = check_imports(&outline)?;
        let exports = find_exports(&code);
        if exports.configure.is_none() {
            return Err(LoadError::NoLifecycle);
        }
        if outline.interfaces.len() < 2 {
            return Err(LoadError::NoExport(outline.exports.join(", ")));
        }
        let link = |waits| {
            let linked = engine.linker(waits).instantiate_pre(&code);
            linked.map_err(|error| LoadError::Invalid(format!("{error:#}")))
        };
        let pre = link(waits)?;
        let waiting = (!waits && outline.grants.contains(&"kv")).then(|| link(true)).transpose()?;
        let made = Made::Plugin { pre, waiting };
        Ok(Arc::new(Self { engine: engine.clone(), made, exports, waits, outline }))
    }

    fn function(engine: &Engine, bytes: &[u8], digest: Digest) -> Result<Arc<Self>, LoadError> {
        let (edge, cache) = engine.edge()?;
        let code = compile(edge.inner(), cache, bytes, &digest)?;
        let outline = outline(&code, bytes.len(), digest);
        let prepared =
            edge::Prepared::new(edge, &code).map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        let made = Made::Function(Arc::new(prepared));
        Ok(Arc::new(Self { engine: engine.clone(), made, exports: Exports::default(), waits: true, outline }))
    }

    /// Whether it is an edge function: it answers requests itself.
    #[must_use]
    pub fn is_function(&self) -> bool {
        matches!(self.made, Made::Function(_))
    }

    /// What a component imports and exports, whether or not it is a plugin.
    ///
    /// # Errors
    /// The bytes are no component, or one that is not valid.
    pub fn inspect(engine: &Engine, bytes: &[u8]) -> Result<Outline, LoadError> {
        let digest = Digest::of(bytes);
        let (own, cache) = match is_function(bytes) {
            true => engine.edge().map(|(edge, cache)| (edge.inner(), cache))?,
            false => (engine.wasmtime(), engine.cache()),
        };
        Ok(outline(&compile(own, cache, bytes, &digest)?, bytes.len(), digest))
    }

    /// What it imports and exports.
    #[must_use]
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Whether it exports an interface.
    #[must_use]
    pub fn has(&self, interface: Interface) -> bool {
        self.outline.interfaces.contains(&interface)
    }

    /// The engine it was compiled by.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("digest", &self.outline.digest).finish_non_exhaustive()
    }
}

/// Whether a component exports a handler of `wasi:http`. Bytes that are no
/// component do not; compiling them says why.
fn is_function(bytes: &[u8]) -> bool {
    let mut depth = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentExportSection(exports)) if depth == 0 => {
                let mut names = exports.into_iter().filter_map(Result::ok).map(|export| export.name.name);
                if names.any(|name| FUNCTION_EXPORTS.iter().any(|wanted| name.starts_with(wanted))) {
                    return true;
                }
            }
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

fn compile(
    engine: &wasmtime::Engine,
    cache: Option<&CodeCache>,
    bytes: &[u8],
    digest: &Digest,
) -> Result<Code, LoadError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge { size: bytes.len(), max: COMPONENT_BYTES_MAX });
    }
    if let Some(code) = cache.and_then(|cache| cache.read(digest, engine)) {
        return Ok(code);
    }
    // Not `Component::new`, which would take text as well.
    let code = Code::from_binary(engine, bytes).map_err(|error| {
        let text = format!("{error:#}");
        LoadError::Invalid(text.lines().next().unwrap_or_default().to_owned())
    })?;
    if let Some(cache) = cache {
        cache.write(digest, &code);
    }
    Ok(code)
}

fn outline(code: &Code, size: usize, digest: Digest) -> Outline {
    let component = code.component_type();
    let engine = code.engine();
    let imports: Vec<String> = component.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports: Vec<String> = component.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let interfaces =
        Interface::ALL.into_iter().filter(|interface| exports.contains(&interface.path())).collect();
    let own = |name: &str| imports.iter().any(|import| import.starts_with(&format!("{PACKAGE}{name}@")));
    let grants = [("key-value", "kv"), ("fetch", "fetch")]
        .into_iter()
        .filter_map(|(interface, grant)| own(interface).then_some(grant))
        .collect();
    Outline { size, digest, imports, exports, interfaces, grants }
}

/// Refuses what is not given; says whether calls may wait.
fn check_imports(outline: &Outline) -> Result<bool, LoadError> {
    let mut waits = false;
    for import in &outline.imports {
        let is_wasi = WASI_LINKED.iter().any(|linked| import.starts_with(linked)) && import.contains("@0.2.");
        if !is_wasi && !import.starts_with(PACKAGE) {
            return Err(LoadError::ForbiddenImport(import.clone()));
        }
        waits |= is_wasi || import.starts_with("sluice:plugin/fetch@");
    }
    Ok(waits)
}

fn find_exports(code: &Code) -> Exports {
    fn functions<const N: usize>(
        code: &Code,
        interface: Interface,
        names: [&str; N],
    ) -> Option<[ComponentExportIndex; N]> {
        let instance = code.get_export_index(None, interface.path())?;
        let mut found = Vec::with_capacity(N);
        for name in names {
            found.push(code.get_export_index(Some(&instance), name)?);
        }
        found.try_into().ok()
    }
    let filter = ["on-head", "on-body"];
    let transcoder = ["encode-request", "decode-reply", "encode-message", "decode-message", "text-fields"];
    Exports {
        configure: functions(code, Interface::Lifecycle, ["configure"]).map(|[one]| one),
        request: functions(code, Interface::RequestFilter, filter),
        response: functions(code, Interface::ResponseFilter, filter),
        frames: functions(code, Interface::FrameFilter, ["on-frames"]).map(|[one]| one),
        transcoder: functions(code, Interface::Transcoder, transcoder),
        tick: functions(code, Interface::Timer, ["tick"]).map(|[one]| one),
        breaking: functions(code, Interface::Comparison, ["breaking"]).map(|[one]| one),
    }
}
