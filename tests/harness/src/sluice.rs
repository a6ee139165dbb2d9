//! The program, as built, on free ports and a folder of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::metrics::Metrics;
use crate::network::Namespace;
use crate::ports::Port;
use crate::process::{Process, Signal, command_in, program};
use crate::raw::Raw;
use crate::wait::eventually;

/// All the program says of itself. What compiles modules would say more than all
/// the rest, and take longer for it than for compiling.
const LOG_LEVEL: &str = "debug,cranelift_codegen=info,cranelift_frontend=info,regalloc2=info,wasmtime=info,\
                         wasmtime_internal_cranelift=info";

/// An object as it is put into the store: a JSON value, or YAML text.
pub trait Document {
    /// The file's ending and its text.
    fn file(&self) -> (&'static str, String);
}

impl Document for Value {
    fn file(&self) -> (&'static str, String) {
        ("json", self.to_string())
    }
}

impl Document for &str {
    fn file(&self) -> (&'static str, String) {
        ("yaml", (*self).to_owned())
    }
}

impl Document for String {
    fn file(&self) -> (&'static str, String) {
        ("yaml", self.clone())
    }
}

impl<D: Document> Document for &D {
    fn file(&self) -> (&'static str, String) {
        (**self).file()
    }
}

/// What a [`Sluice`] starts with.
pub struct SluiceBuilder {
    folder: TempDir,
    boot: BTreeMap<String, Value>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    namespace: Option<Namespace>,
    listeners: BTreeMap<String, Port>,
    program: Option<PathBuf>,
    store: Store,
}

/// Where a gateway reads its objects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    /// In its folder.
    Directory,
    /// Where its boot file says.
    Boot,
}

/// A running gateway. Dropping it kills it; if the test failed, its log is
/// printed. A test fails, too, in which the gateway panicked or ended without
/// being told to: it must survive whatever it is sent.
pub struct Sluice {
    process: Process,
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    namespace: Option<Namespace>,
    listeners: BTreeMap<String, Port>,
    program: PathBuf,
    store: Store,
    status: Port,
    metrics: Port,
    api: Port,
}

impl SluiceBuilder {
    /// A listener on a free loopback port under that id; `object` says
    /// everything but `bind`.
    pub fn listener(mut self, id: &str, mut object: Value) -> Self {
        let port = Port::free();
        object["bind"] = json!(port.loopback());
        self.listeners.insert(id.to_owned(), port);
        self.put("listeners", id, &object)
    }

    /// An object of the store.
    pub fn put(self, kind: &str, id: &str, object: impl Document) -> Self {
        put(self.folder.path(), kind, id, &object);
        self
    }

    /// A file in the store's folder, for example in the standalone form.
    pub fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join("conf").join(name), text).expect("the store can be written");
        self
    }

    /// Bytes in the store's folder: `modules/guest.wasm`.
    pub fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        crate::guest::write_whole(&self.folder.path().join("conf").join(name), bytes);
        self
    }

    /// A key of the boot file. `admin` and `log` are extended, others replaced.
    pub fn boot(mut self, key: &str, value: Value) -> Self {
        match (self.boot.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, value) => {
                self.boot.insert(key.to_owned(), value);
            }
        }
        self
    }

    /// Reads its objects from a cluster, whose further settings `settings` has.
    /// Objects put with this builder are written nowhere: use [`Etcd::put`].
    pub fn etcd(mut self, etcd: &Etcd, settings: Value) -> Self {
        let mut store = settings;
        store["endpoints"] = json!(etcd.urls());
        self.store = Store::Boot;
        self.boot("store", json!({"etcd": store}))
    }

    /// Worker threads; 2 if not said.
    pub fn threads(self, count: usize) -> Self {
        self.boot("threads", json!(count))
    }

    /// A further argument of `sluice run`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A variable of its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it in a network namespace. Talk to it from there as well
    /// ([`Namespace::run`]).
    pub fn within(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.clone());
        self
    }

    /// Another build of the program.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Sluice {
        let mut sluice = self.spawn();
        sluice.wait_ready();
        sluice
    }

    /// Starts it and waits for nothing.
    pub fn spawn(mut self) -> Sluice {
        let (status, metrics, api) = (Port::free(), Port::free(), Port::free());
        let own = json!({"status": status.loopback(), "metrics": metrics.loopback(), "api": api.loopback()});
        self = self.boot("admin", own);
        let boot = serde_json::to_string_pretty(&self.boot).expect("the boot file is JSON");
        // JSON is YAML as well.
        std::fs::write(self.folder.path().join("sluice.yaml"), boot).expect("the boot file can be written");
        let program = self.program.unwrap_or_else(|| crate::process::program("sluice"));
        let command = run_command(
            &program,
            self.folder.path(),
            &self.arguments,
            &self.environment,
            self.namespace.as_ref(),
            self.store,
        );
        let process = Process::spawn("sluice", command, &self.folder.path().join("sluice.log"));
        Sluice {
            store: self.store,
            process,
            folder: self.folder,
            arguments: self.arguments,
            environment: self.environment,
            namespace: self.namespace,
            listeners: self.listeners,
            program,
            status,
            metrics,
            api,
        }
    }
}

fn run_command(
    program: &Path,
    folder: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    namespace: Option<&Namespace>,
    store: Store,
) -> Command {
    let mut command = command_in(namespace, program);
    command.args(["run", "-c"]).arg(folder.join("sluice.yaml"));
    if store == Store::Directory {
        command.arg("--conf").arg(folder.join("conf"));
    }
    command.args(arguments).envs(environment.iter().cloned()).current_dir(folder);
    command
}

/// Writes beside the store first: what appears in it is whole.
fn put(folder: &Path, kind: &str, id: &str, object: &dyn Document) {
    let (ending, text) = object.file();
    let kind_folder = folder.join("conf").join(kind);
    std::fs::create_dir_all(&kind_folder).expect("the store can be written");
    let whole = folder.join("staging");
    std::fs::write(&whole, text).expect("the store can be written");
    std::fs::rename(whole, kind_folder.join(format!("{id}.{ending}"))).expect("the store can be written");
    let other = if ending == "json" { "yaml" } else { "json" };
    // There is one only if the object was last put in the other form.
    let _ = std::fs::remove_file(kind_folder.join(format!("{id}.{other}")));
}

impl Sluice {
    /// A gateway with an empty store, two workers, access log and state in its
    /// own folder, log level debug.
    pub fn builder() -> SluiceBuilder {
        let folder = tempfile::tempdir().expect("a folder can be made");
        std::fs::create_dir(folder.path().join("conf")).expect("the store can be made");
        let boot = [
            ("node", json!({"id": "test", "region": "here"})),
            ("threads", json!(2)),
            ("cache_dir", json!(folder.path().join("cache"))),
            ("log", json!({"access": folder.path().join("access.log"), "level": LOG_LEVEL})),
        ];
        SluiceBuilder {
            boot: boot.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            folder,
            arguments: Vec::new(),
            environment: Vec::new(),
            namespace: None,
            listeners: BTreeMap::new(),
            program: None,
            store: Store::Directory,
        }
    }

    /// `sluice` with other arguments, for commands that end by themselves.
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(program("sluice"));
        crate::process::without_proxies(&mut command);
        command.args(arguments);
        command
    }

    /// The address of the Admin API.
    pub fn admin_address(&self) -> SocketAddr {
        self.api.loopback()
    }

    /// Where the Admin API has a kind, an object or anything else:
    /// `http://…/apisix/admin/` and `path`.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}/apisix/admin/{path}", self.api.loopback())
    }

    /// The process: signals, log, memory, descriptors, CPU time.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The process, to look at.
    pub fn observe(&self) -> &Process {
        &self.process
    }

    /// The folder with `sluice.yaml`, `conf/`, `access.log` and `sluice.log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store's folder.
    pub fn conf(&self) -> PathBuf {
        self.folder.path().join("conf")
    }

    /// The address of a listener made with [`SluiceBuilder::listener`] or
    /// [`Sluice::add_listener`].
    pub fn address(&self, listener: &str) -> SocketAddr {
        let port = self.listeners.get(listener);
        port.unwrap_or_else(|| panic!("there is no listener {listener}")).loopback()
    }

    /// `http://` and that address.
    pub fn url(&self, listener: &str) -> String {
        format!("http://{}", self.address(listener))
    }

    /// A connection to a listener.
    pub fn connect(&self, listener: &str) -> Raw {
        let address = self.address(listener);
        self.inside(|| Raw::connect(address))
    }

    /// Puts a listener on a free port into the running gateway's store.
    pub fn add_listener(&mut self, id: &str, mut object: Value) {
        let port = Port::free();
        object["bind"] = json!(port.loopback());
        self.listeners.insert(id.to_owned(), port);
        self.put("listeners", id, &object);
    }

    /// Writes an object into the store by rename, and waits for nothing.
    pub fn put(&self, kind: &str, id: &str, object: impl Document) {
        put(self.folder.path(), kind, id, &object);
    }

    /// Deletes an object's file, and waits for nothing.
    pub fn remove(&self, kind: &str, id: &str) {
        let file = |ending: &str| self.conf().join(kind).join(format!("{id}.{ending}"));
        let gone = ["json", "yaml"].map(|ending| std::fs::remove_file(file(ending)).is_ok());
        assert!(gone.contains(&true), "there is no {kind}/{id} to remove");
    }

    /// Puts an object that differs from what is there and waits until the
    /// gateway has taken it up, whether it is in force then or in quarantine
    /// ([`Sluice::quarantined`]). A listener is open then, too.
    pub fn apply(&self, kind: &str, id: &str, object: impl Document) {
        let before = self.revision();
        self.put(kind, id, object);
        // Every change that is read makes a revision, one that is refused as well:
        // an older quarantine of the same object must not be taken for this one.
        eventually(&format!("{kind}/{id} is applied"), || (self.revision() != before).then_some(()));
        if kind == "listeners" && self.quarantined(kind, id).is_none() {
            self.until_open(id);
        }
    }

    /// Waits until a listener is open on all its addresses.
    pub fn until_open(&self, listener: &str) {
        eventually(&format!("listener {listener} is open"), || {
            let status = self.status();
            let found = status["listeners"].as_array()?.iter().find(|one| one["id"] == listener)?;
            let binds = found["binds"].as_array()?;
            (!binds.is_empty() && binds.iter().all(|bind| bind["error"].is_null())).then_some(())
        });
    }

    /// Removes an object and waits until a new revision is in force.
    pub fn apply_removal(&self, kind: &str, id: &str) {
        let before = self.revision();
        self.remove(kind, id);
        eventually(&format!("{kind}/{id} is gone"), || (self.revision() != before).then_some(()));
    }

    fn revision(&self) -> Value {
        self.status()["config"]["revision"].clone()
    }

    /// Why an object is in quarantine; none if it is not.
    pub fn quarantined(&self, kind: &str, id: &str) -> Option<String> {
        let status = self.status();
        let all = status["config"]["quarantined"].as_array()?;
        let found = all.iter().find(|entry| entry["kind"] == kind && entry["id"] == id)?;
        Some(found["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until `/status/ready` says yes.
    pub fn wait_ready(&mut self) {
        let address = self.status.loopback();
        let namespace = self.namespace.clone();
        self.process.until("/status/ready says yes", || {
            let answer = in_namespace(namespace.as_ref(), || try_get(address, "/status/ready"));
            answer.is_some_and(|(status, _)| status == 200).then_some(())
        });
    }

    /// The status address.
    pub fn status_address(&self) -> SocketAddr {
        self.status.loopback()
    }

    /// The metrics' address.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics.loopback()
    }

    /// `/v1/status`.
    pub fn status(&self) -> Value {
        self.status_path("/v1/status")
    }

    /// Any JSON of the status address.
    pub fn status_path(&self, path: &str) -> Value {
        let (status, text) = self.get(self.status.loopback(), path);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{path}: {error} in answer {status}: {text}"))
    }

    /// An upstream in the status, by id; panics with the status if it is not
    /// there.
    pub fn upstream_status(&self, id: &str) -> Value {
        let status = self.status();
        let found =
            status["upstreams"].as_array().and_then(|all| all.iter().find(|one| one["id"] == id).cloned());
        found.unwrap_or_else(|| panic!("no upstream {id} in {status:#}"))
    }

    /// A line of an upstream in the status.
    pub fn line_status(&self, upstream: &str, line: &str) -> Value {
        let status = self.upstream_status(upstream);
        let found =
            status["lines"].as_array().and_then(|all| all.iter().find(|one| one["name"] == line).cloned());
        found.unwrap_or_else(|| panic!("no line {line} in {status:#}"))
    }

    /// A scrape of the metrics.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get(self.metrics.loopback(), "/apisix/prometheus/metrics").1)
    }

    fn get(&self, address: SocketAddr, path: &str) -> (u16, String) {
        let answer = self.inside(|| try_get(address, path));
        answer.unwrap_or_else(|| panic!("no answer to {path} from {address}\n{}", self.process.log()))
    }

    fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        in_namespace(self.namespace.as_ref(), action)
    }

    /// The lines of the access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in log line {line}"));
        whole.lines().map(parse).collect()
    }

    /// Waits for a line of the access log that `fits`, and returns it.
    pub fn logged(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("a log line with {what}"), || {
            self.access_log().into_iter().find(|line| fits(line))
        })
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait(deadline)
    }

    /// Starts the program again on the same ports and store, after it was
    /// killed or has ended, and waits until it is ready.
    pub fn restart(&mut self) {
        assert!(self.process.exit_status().is_some(), "the program runs; kill or terminate it first");
        self.process = self.spawn_again(&[]);
        self.wait_ready();
    }

    /// Starts a second process that takes the sockets over from this one
    /// (needs `takeover` in the boot file); returns the old process, which is
    /// about to drain.
    pub fn take_over(&mut self) -> Process {
        let second = self.spawn_again(&["--takeover"]);
        std::mem::replace(&mut self.process, second)
    }

    fn spawn_again(&self, more: &[&str]) -> Process {
        let mut arguments = self.arguments.clone();
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let folder = self.folder.path();
        let command = run_command(
            &self.program,
            folder,
            &arguments,
            &self.environment,
            self.namespace.as_ref(),
            self.store,
        );
        Process::spawn("sluice", command, &folder.join("sluice.log"))
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.process.expect_sound();
        }
    }
}

fn in_namespace<T: Send>(namespace: Option<&Namespace>, action: impl FnOnce() -> T + Send) -> T {
    match namespace {
        None => action(),
        Some(namespace) => namespace.run(action),
    }
}

/// A plain GET; none if nobody answers in full.
fn try_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut raw = Raw::try_connect(address).ok()?.read_timeout(Duration::from_secs(5));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    raw.try_send(request).ok()?;
    let answer = String::from_utf8_lossy(&raw.try_read_to_close().ok()?).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { unchunk(body)? } else { body.to_owned() }))
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_file_whatever_its_form() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "routes", "a", &json!({"uri": "/"}));
        put(folder.path(), "routes", "a", &"uri: /b\n");
        let files: Vec<_> = std::fs::read_dir(folder.path().join("conf/routes")).unwrap().collect();
        assert_eq!(files.len(), 1);
        assert_eq!(std::fs::read_to_string(folder.path().join("conf/routes/a.yaml")).unwrap(), "uri: /b\n");
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n").as_deref(), Some("abcde"));
        assert_eq!(unchunk("3\r\nab"), None);
    }
}
