//! What the demo starts, and where its files and ports are.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sluice_harness::{Authority, Identity, Port, Process, Raw, Signal, program, tool};

/// Ports that `examples/demo` names, and the control ports beside them.
const PORTS: [u16; 12] = [8443, 8444, 9443, 8001, 8002, 8003, 9001, 9002, 9009, 9090, 9091, 9180];

/// Keys that stand in the example, each replaced by chance, and the variable of
/// the IM server that has it.
const KEYS: [(&str, &str); 2] = [
    ("demo-confirm-key-of-32-bytes-or-more", "QR_CONFIRM_KEY"),
    ("demo-session-key-of-32-bytes-or-more", "QR_SESSION_KEY"),
];

/// The demo's folder and its ports.
pub(crate) struct Place {
    folder: PathBuf,
    /// What stands for each of [`KEYS`].
    keys: [String; 2],
    /// Port of the example to port in use.
    ports: BTreeMap<u16, u16>,
    // Held for as long as the demo runs.
    _held: Vec<Port>,
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    /// The ports of the example, files in `.sluice/demo` of the workspace.
    pub(crate) fn on_known_ports() -> Place {
        for port in PORTS {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                eprintln!("port {port} of 127.0.0.1 is needed: {error}. Is another demo running?");
                std::process::exit(1);
            }
        }
        let folder = workspace().join(".sluice/demo");
        // What an earlier demo left behind; there may be none.
        let _ = std::fs::remove_dir_all(&folder);
        let ports = PORTS.into_iter().map(|port| (port, port)).collect();
        Place::fill(Place { folder, keys: chance(), ports, _held: Vec::new(), _temporary: None })
    }

    /// Free ports and a temporary folder.
    pub(crate) fn on_free_ports() -> Place {
        let temporary = tempfile::tempdir().expect("a folder can be made");
        let held: Vec<Port> = PORTS.iter().map(|_| Port::free()).collect();
        let ports = PORTS.into_iter().zip(held.iter().map(Port::number)).collect();
        let folder = temporary.path().join("demo");
        Place::fill(Place { folder, keys: chance(), ports, _held: held, _temporary: Some(temporary) })
    }

    /// Copies the example's store and adds what is made anew each time:
    /// certificates, keys, components and the boot file.
    fn fill(self) -> Place {
        self.copy(&workspace().join("examples/demo"), &self.file("conf"));
        std::fs::create_dir_all(self.file("conf/ssls")).expect("the store can be made");
        self.add_components();
        let authority = Authority::new("Sluice demo root");
        self.write("ca.pem", &authority.pem());
        let ssl = |identity: Identity| identity.ssl(&["localhost"]).to_string();
        self.write("conf/ssls/localhost.json", &ssl(authority.leaf(&["localhost", "first.demo"])));
        self.write("second-certificate.json", &ssl(authority.leaf(&["localhost", "second.demo"])));
        let boot = "node: {id: demo, region: here}\n\
                    admin: {status: 127.0.0.1:9090, metrics: 127.0.0.1:9091, api: 127.0.0.1:9180}\n\
                    cache_dir: cache\n\
                    log: {access: access.log}\n";
        self.write("sluice.yaml", &self.with_ports(boot));
        self
    }

    fn copy(&self, from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("the demo's folder can be made");
        for entry in std::fs::read_dir(from).expect("examples/demo is there") {
            let path = entry.expect("examples/demo can be read").path();
            let target = to.join(path.file_name().expect("an entry has a name"));
            if path.is_dir() {
                self.copy(&path, &target);
            } else if path.extension().is_none_or(|ending| ending != "wasm") {
                let text = std::fs::read_to_string(&path).expect("an example is text");
                let text =
                    KEYS.iter().zip(&self.keys).fold(text, |text, ((key, _), own)| text.replace(key, own));
                std::fs::write(target, self.with_ports(&text)).expect("the store can be written");
            }
        }
    }

    /// Puts the component of each module beside its object.
    fn add_components(&self) {
        let own = std::env::current_exe().expect("a running program has a path");
        let built =
            own.ancestors().nth(2).expect("programs are in a folder of the target folder").join("plugins");
        for object in std::fs::read_dir(self.file("conf/modules")).expect("the store can be read") {
            let object = object.expect("the store can be read").path();
            let name = object.with_extension("wasm");
            let component = built.join(name.file_name().expect("an object's file has a name"));
            if let Err(error) = std::fs::copy(&component, &name) {
                panic!("{}: {error}; `cargo xtask plugins` builds it", component.display());
            }
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).expect("the demo's folder can be written");
    }

    /// `text` with the example's ports replaced by those in use.
    pub(crate) fn with_ports(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (example, used)| {
            ["127.0.0.1", "localhost"].iter().fold(text, |text, host| {
                text.replace(&format!("{host}:{example}"), &format!("{host}:{used}"))
            })
        })
    }

    /// A file of the demo.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The demo's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn address(&self, example: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[&example]))
    }
}

/// Two keys nobody knows.
fn chance() -> [String; 2] {
    let mut chance = std::fs::File::open("/dev/urandom").expect("the system has chance");
    [(); 2].map(|()| {
        let mut bytes = [0; 32];
        chance.read_exact(&mut bytes).expect("chance has no end");
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// The workspace's root.
fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.expect("the crate stands two folders deep").to_owned()
}

/// The running programs. They end with this value.
pub(crate) struct Parts {
    processes: Vec<Process>,
}

impl Parts {
    /// Starts everything and waits until each part can be used.
    pub(crate) fn start(place: &Place) -> Parts {
        let mut parts = Parts { processes: Vec::new() };
        let site = workspace().join("tests/services/php-site");
        for (line, port) in [("leased", 8001), ("public", 8002)] {
            let mut php = tool("php");
            php.arg("-S")
                .arg(place.address(port).to_string())
                .arg("-t")
                .arg(&site)
                .arg(site.join("index.php"));
            let name = format!("site-{line}");
            let pid = parts.spawn(place, &name, php, place.address(port), Signal::INT);
            place.write(&format!("{name}.pid"), &pid.to_string());
        }
        let mut im = Command::new(program("im-server"));
        im.arg("--line").arg(format!("leased={}", place.address(9001)));
        im.arg("--line").arg(format!("public={}", place.address(9002)));
        im.arg("--qr-login").arg(format!("{}/chat/login/confirm", place.address(8444)));
        im.envs(KEYS.iter().map(|(_, variable)| variable).zip(&place.keys));
        im.arg("--control").arg(place.address(9009).to_string()).arg("--proxy-protocol");
        parts.spawn(place, "im-server", im, place.address(9009), Signal::TERM);

        let mut echo = Command::new(program("http-echo"));
        echo.arg("--listen").arg(place.address(8003).to_string());
        parts.spawn(place, "http-echo", echo, place.address(8003), Signal::TERM);

        let mut sluice = Command::new(program("sluice"));
        sluice.arg("run").arg("-c").arg(place.file("sluice.yaml")).arg("--conf").arg(place.file("conf"));
        sluice.current_dir(place.folder());
        parts.spawn(place, "sluice", sluice, place.address(8443), Signal::TERM);
        parts
    }

    fn spawn(&mut self, place: &Place, name: &str, command: Command, ready: SocketAddr, stop: Signal) -> u32 {
        let log = place.file(&format!("{name}.log"));
        let mut process = Process::spawn(name, command, &log).stop_with(stop);
        process.until(&format!("{ready} is listened on"), || Raw::try_connect(ready).ok().map(drop));
        let pid = process.pid();
        self.processes.push(process);
        pid
    }

    /// Waits for Ctrl-C or SIGTERM.
    pub(crate) fn until_interrupted(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be built").block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .expect("a signal can be listened for");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
                () = self.report_ends() => {}
            }
        });
    }

    /// Says when a part ends by itself: the page asks to kill one.
    async fn report_ends(&mut self) {
        let mut ended = vec![false; self.processes.len()];
        loop {
            for (process, ended) in self.processes.iter_mut().zip(&mut ended) {
                if let (false, Some(status)) = (*ended, process.exit_status()) {
                    println!("{} has ended: {status}", process.name());
                    *ended = true;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
