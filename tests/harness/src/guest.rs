//! Small modules written by hand: one that behaves, and ways to misbehave.
//!
//! A guest is a core module in text, made a component with the interfaces of
//! `wit/`. What it does on a head and on a body is given as instructions; the
//! rest, memory, results and configuration, is the same for all.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wasm_encoder::{ComponentSection, CustomSection};
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// Phases of a guest's interest, to be added up.
pub mod phases {
    /// Heads of requests.
    pub const REQUEST_HEAD: u8 = 1;
    /// Bodies of requests.
    pub const REQUEST_BODY: u8 = 2;
    /// Heads of responses.
    pub const RESPONSE_HEAD: u8 = 4;
    /// Bodies of responses.
    pub const RESPONSE_BODY: u8 = 8;
    /// Frames.
    pub const FRAMES: u8 = 16;
}

/// What a guest answers with: places of results in its memory.
pub mod verdict {
    /// A head is accepted, a piece of a body goes on.
    pub const GO_ON: u32 = 2048;
    /// 403 with the rule `evil` and the body `no`.
    pub const DENY: u32 = 3072;
    /// The head gets the field `x-guest` with the guest's version.
    pub const MARK: u32 = 3200;
    /// The body is replaced by `changed`.
    pub const REPLACE: u32 = 3328;
    /// `configure` refuses, with `a: is not wanted`.
    pub const REFUSE: u32 = 4300;
}

/// A guest to be.
#[derive(Debug, Clone)]
pub struct Guest {
    version: String,
    phases: u8,
    body_max: u32,
    frames_at: u32,
    truncates: bool,
    imports: Vec<&'static str>,
    functions: String,
    start: String,
    configure: String,
    head: String,
    body: String,
    response_head: String,
}

/// Instructions that leave [`verdict::DENY`] when the bytes hold `evil`, else
/// `otherwise`.
fn search(otherwise: u32) -> String {
    format!(
        "(local.set $at (local.get $bytes))
         (local.set $end (i32.sub (i32.add (local.get $bytes) (local.get $length)) (i32.const 3)))
         (block $out (loop $next
           (br_if $out (i32.ge_s (local.get $at) (local.get $end)))
           (if (i32.eq (i32.load align=1 (local.get $at)) (i32.const 0x6c697665))
             (then (return (i32.const {deny}))))
           (local.set $at (i32.add (local.get $at) (i32.const 1)))
           (br $next)))
         (i32.const {otherwise})",
        deny = verdict::DENY,
    )
}

impl Default for Guest {
    fn default() -> Self {
        Self::new("1")
    }
}

impl Guest {
    /// One that marks requests with its version, which may be any text, and
    /// denies those with `evil` in their head.
    #[must_use]
    pub fn new(version: &str) -> Guest {
        Guest {
            version: version.to_owned(),
            phases: phases::REQUEST_HEAD,
            body_max: 64 << 10,
            frames_at: 0,
            truncates: false,
            imports: Vec::new(),
            functions: String::new(),
            start: String::new(),
            configure: String::new(),
            head: search(verdict::MARK),
            body: search(verdict::GO_ON),
            response_head: format!("(i32.const {})", verdict::MARK),
        }
    }

    /// Looks at these phases.
    #[must_use]
    pub fn phases(mut self, phases: u8) -> Guest {
        self.phases = phases;
        self
    }

    /// Wants at most these bytes of a body; longer ones are cut, or refused.
    #[must_use]
    pub fn body_max(mut self, bytes: u32, truncates: bool) -> Guest {
        (self.body_max, self.truncates) = (bytes, truncates);
        self
    }

    /// Judges frames by the four bytes that lie there in their bodies, not by the
    /// first.
    #[must_use]
    pub fn frames_at(mut self, offset: u32) -> Guest {
        self.frames_at = offset;
        self
    }

    /// Runs these instructions when it is instantiated.
    #[must_use]
    pub fn on_start(mut self, instructions: &str) -> Guest {
        instructions.clone_into(&mut self.start);
        self
    }

    /// Runs these instructions when it is configured; `$text` and `$length` are
    /// the configuration.
    #[must_use]
    pub fn on_configure(mut self, instructions: &str) -> Guest {
        instructions.clone_into(&mut self.configure);
        self
    }

    /// Does this on a request's head; leaves the place of a verdict.
    #[must_use]
    pub fn on_head(mut self, instructions: &str) -> Guest {
        instructions.clone_into(&mut self.head);
        self
    }

    /// Does this on a request's head that has `evil` in it, and marks the others.
    #[must_use]
    pub fn on_evil(mut self, instructions: &str) -> Guest {
        let found = format!("(then {instructions} (return (i32.const {})))", verdict::GO_ON);
        let deny = format!("(then (return (i32.const {})))", verdict::DENY);
        self.head = search(verdict::MARK).replace(&deny, &found);
        self
    }

    /// Traps on one head in so many; each instance counts its own.
    #[must_use]
    pub fn traps_on_each(mut self, heads: u32) -> Guest {
        let count = format!(
            "(i32.store (i32.const 5000) (i32.add (i32.load (i32.const 5000)) (i32.const 1)))
             (if (i32.eqz (i32.rem_u (i32.load (i32.const 5000)) (i32.const {heads}))) (then unreachable))"
        );
        self.head = count + &self.head;
        self
    }

    /// Does this on a piece of a body, either way.
    #[must_use]
    pub fn on_body(mut self, instructions: &str) -> Guest {
        instructions.clone_into(&mut self.body);
        self
    }

    /// Does this on a response's head.
    #[must_use]
    pub fn on_response_head(mut self, instructions: &str) -> Guest {
        instructions.clone_into(&mut self.response_head);
        self
    }

    /// Imports an interface, with functions of it: `(import …)` in text.
    #[must_use]
    pub fn import(mut self, interface: &'static str, functions: &str) -> Guest {
        self.imports.push(interface);
        self.functions.push_str(functions);
        self
    }

    /// The component's bytes.
    ///
    /// # Panics
    /// When the instructions are not valid.
    #[must_use]
    #[track_caller]
    pub fn build(&self) -> Vec<u8> {
        let responds = self.phases & (phases::RESPONSE_HEAD | phases::RESPONSE_BODY) != 0;
        let mut world = "package test:guest;\nworld guest {\n".to_owned();
        for import in &self.imports {
            let _ = writeln!(world, "import {import};");
        }
        world.push_str("export sluice:plugin/lifecycle@0.1.0;\nexport sluice:plugin/request-filter@0.1.0;\n");
        if responds {
            world.push_str("export sluice:plugin/response-filter@0.1.0;\n");
        }
        if self.phases & phases::FRAMES != 0 {
            world.push_str("export sluice:plugin/frame-filter@0.1.0;\n");
        }
        world.push('}');
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        resolve.push_dir(&wit).expect("the interfaces parse");
        for (name, text) in OTHERS {
            resolve.push_str(name, text).expect("the other interfaces parse");
        }
        let package = resolve.push_str("guest.wit", &world).expect("the guest's world parses");
        let world = resolve.select_world(&[package], None).expect("there is one world");
        let mut module = wat::parse_str(self.text(responds)).expect("the guest's text is valid");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the guest fits its world");
        let mut encoder =
            ComponentEncoder::default().module(&module).expect("the guest exports what its world says");
        encoder.encode().expect("the guest becomes a component")
    }

    /// Writes the component to a file, in one step as an operator's tool would.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, path: impl Into<PathBuf>) {
        write_whole(&path.into(), &self.build());
    }

    fn text(&self, responds: bool) -> String {
        let Self { functions, start, configure, head, body, response_head, .. } = self;
        let filter = |name: &str, head: &str, body: &str| {
            format!(
                r#"(func (export "sluice:plugin/{name}@0.1.0#on-head")
                   (param $exchange i64) (param $bytes i32) (param $length i32)
                   (param $spans i32) (param $count i32) (param $last i32) (result i32)
                   (local $at i32) (local $end i32)
                   (global.set $heap (i32.const 65536)) {head})
                 (func (export "sluice:plugin/{name}@0.1.0#on-body")
                   (param $exchange i64) (param $bytes i32) (param $length i32) (param $last i32) (result i32)
                   (local $at i32) (local $end i32)
                   (global.set $heap (i32.const 65536)) {body})"#
            )
        };
        let request = filter("request-filter", head, body);
        let response = if responds { filter("response-filter", response_head, body) } else { String::new() };
        let frames = if self.phases & phases::FRAMES != 0 { FRAMES } else { "" };
        let frames = frames.replace("OFFSET", &self.frames_at.to_string());
        let (phases, max, cut) = (self.phases, self.body_max, u8::from(self.truncates));
        let word = |number: u32| {
            number.to_le_bytes().iter().fold(String::new(), |text, b| text + &format!("\\{b:02x}"))
        };
        let zero = word(0);
        let interest = format!(
            "{zero}\\{phases:02x}\\00\\00\\00{zero}{zero}{zero}{zero}{max}{max}\\{cut:02x}\\00\\00\\00{zero}{zero}{zero}",
            max = word(max)
        );
        let deny = format!(
            "\\03\\00\\00\\00{}{}{}{zero}{zero}{}{}",
            word(403),
            word(4096),
            word(4),
            word(4112),
            word(2)
        );
        let mark = format!("\\02\\00\\00\\00{}{}", word(3400), word(1));
        let edit = format!(
            "\\00\\00\\00\\00{}{}{}{}",
            word(4128),
            word(7),
            word(4144),
            word(self.version.len() as u32)
        );
        let version = self.version.bytes().fold(String::new(), |text, b| text + &format!("\\{b:02x}"));
        let refuse = format!("\\01\\00\\00\\00{}{}", word(4320), word(16));
        let replace = format!("\\02\\00\\00\\00{}{}", word(4208), word(7));
        format!(
            r#"(module {functions}
              (memory (export "memory") 2)
              (global $heap (mut i32) (i32.const 65536))
              (data (i32.const 1024) "{interest}")
              (data (i32.const 3072) "{deny}")
              (data (i32.const 3200) "{mark}")
              (data (i32.const 3328) "{replace}")
              (data (i32.const 3400) "{edit}")
              (data (i32.const 4096) "evil")
              (data (i32.const 4112) "no")
              (data (i32.const 4128) "x-guest")
              (data (i32.const 4144) "{version}")
              (data (i32.const 4208) "changed")
              (data (i32.const 4300) "{refuse}")
              (data (i32.const 4320) "a: is not wanted")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (block $fits (loop $grow
                  (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                  (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
                  (br $grow)))
                (local.get $at))
              (func $start {start})
              (start $start)
              (func (export "sluice:plugin/lifecycle@0.1.0#configure")
                (param $text i32) (param $length i32) (result i32)
                (global.set $heap (i32.const 65536))
                {configure}
                (i32.const 1024))
              {request}
              {response}
              {frames})"#
        )
    }
}

/// What a guest does with frames, by the first four bytes of their bodies:
/// `drop`, `swap` (the body becomes `changed`), `shut` and `trap`.
const FRAMES: &str = r#"(func (export "sluice:plugin/frame-filter@0.1.0#on-frames")
  (param $connection i64) (param $peer i32) (param $peer_length i32)
  (param $buffer i32) (param $length i32) (param $frames i32) (param $count i32) (result i32)
  (local $at i32) (local $word i32) (local $out i32)
  (global.set $heap (i32.const 65536))
  (local.set $out (i32.const 8192))
  (block $done (loop $next
    (br_if $done (i32.ge_u (local.get $at) (local.get $count)))
    (local.set $word (i32.load offset=OFFSET align=1
      (i32.add (local.get $buffer) (i32.load offset=8 (local.get $frames)))))
    (i32.store (local.get $out) (i32.const 0))
    (i32.store offset=4 (local.get $out) (i32.const 4096))
    (i32.store offset=8 (local.get $out) (i32.const 4))
    (if (i32.eq (local.get $word) (i32.const 0x706f7264))
      (then (i32.store (local.get $out) (i32.const 1))))
    (if (i32.eq (local.get $word) (i32.const 0x70617773))
      (then (i32.store (local.get $out) (i32.const 2))
            (i32.store offset=4 (local.get $out) (i32.const 4208))
            (i32.store offset=8 (local.get $out) (i32.const 7))))
    (if (i32.eq (local.get $word) (i32.const 0x74756873))
      (then (i32.store (local.get $out) (i32.const 4))))
    (if (i32.eq (local.get $word) (i32.const 0x70617274)) (then unreachable))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (local.set $frames (i32.add (local.get $frames) (i32.const 40)))
    (local.set $out (i32.add (local.get $out) (i32.const 12)))
    (br $next)))
  (i32.store (i32.const 8000) (i32.const 8192))
  (i32.store (i32.const 8004) (local.get $count))
  (i32.const 8000))"#;

/// Interfaces that are not ours, for guests that import what they must not.
const OTHERS: &[(&str, &str)] =
    &[("other.wit", "package other:secrets@1.0.0;\ninterface keys { read: func() -> u32; }\n")];

/// A component that exports these interfaces with the types `wit/` has, and
/// traps in every call. `change` replaces a text of `wit/` first.
///
/// # Panics
/// When the text is not there, or what comes of it is no WIT.
#[must_use]
#[track_caller]
pub fn hollow(interfaces: &[&str], change: Option<(&str, &str)>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut is_changed = change.is_none();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    for entry in std::fs::read_dir(wit).expect("the interfaces are there") {
        let path = entry.expect("the folder can be read").path();
        let mut text = std::fs::read_to_string(&path).expect("the interfaces can be read");
        if let Some((from, to)) = change
            && text.contains(from)
        {
            text = text.replace(from, to);
            is_changed = true;
        }
        let name = path.file_name().expect("a file has a name");
        std::fs::write(folder.path().join(name), text).expect("the interfaces can be written");
    }
    assert!(is_changed, "{change:?}: wit/ has no such text");
    let mut world = "package test:hollow;\nworld hollow {\n".to_owned();
    for interface in interfaces {
        let _ = writeln!(world, "export sluice:plugin/{interface}@0.1.0;");
    }
    world.push('}');
    let mut resolve = Resolve::default();
    resolve.push_dir(folder.path()).expect("the interfaces parse");
    let package = resolve.push_str("hollow.wit", &world).expect("the world parses");
    let world = resolve.select_world(&[package], None).expect("there is one world");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the module fits its world");
    let mut encoder = ComponentEncoder::default().module(&module).expect("it exports what its world says");
    encoder.encode().expect("it becomes a component")
}

/// A component with a custom section of its own: its digest is another, and it does
/// the same.
pub fn with_section(component: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = component.to_vec();
    let section = CustomSection { name: name.into(), data: content.into() };
    section.append_to_component(&mut bytes);
    bytes
}

/// Writes a file beside its place and moves it there.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn write_whole(path: &Path, bytes: &[u8]) {
    let folder = path.parent().expect("the file has a folder");
    std::fs::create_dir_all(folder).expect("the folder can be made");
    let name = path.file_name().expect("the file has a name").to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    std::fs::write(&new, bytes).expect("the file can be written");
    std::fs::rename(&new, path).expect("the file can be moved");
}
