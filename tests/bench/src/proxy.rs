//! The proxies under test: written configurations, started, watched, ended.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::cases::TRANSCODER;
use crate::load::Bed;
use crate::origin::Origin;
use crate::process::{self, Tree};

/// Which program a contender is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    Nginx,
    Haproxy,
    /// Sluice, from this path.
    Sluice(PathBuf),
    /// nginx that turns JSON into frames, in Lua.
    NginxLua,
    /// Sluice that does so by its module.
    SluiceIm(PathBuf),
}

/// One of those that are compared.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    /// Its name in reports.
    pub(crate) name: String,
    pub(crate) program: Program,
}

impl Contender {
    /// The same as one that turns JSON into frames; none where it cannot.
    pub(crate) fn as_translator(&self) -> Option<Self> {
        let (name, program) = match &self.program {
            Program::Nginx => ("nginx-lua".to_owned(), Program::NginxLua),
            Program::Sluice(path) => (self.name.clone(), Program::SluiceIm(path.clone())),
            _ => return None,
        };
        Some(Self { name, program })
    }

    /// What the program says of its version.
    pub(crate) fn version(&self) -> String {
        let (program, flag) = match &self.program {
            Program::Nginx | Program::NginxLua => (Path::new("nginx"), "-v"),
            Program::Haproxy => (Path::new("haproxy"), "-v"),
            Program::Sluice(path) | Program::SluiceIm(path) => (path.as_path(), "--version"),
        };
        let Ok(output) = Command::new(program).arg(flag).output() else { return "absent".into() };
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
    }
}

/// What a proxy is set up with besides the common objects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kit<'a> {
    /// Nothing.
    Plain,
    /// Filters and functions, with components from this folder; Lua in nginx.
    Plugins(&'a Path),
}

/// Where a proxy listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) tlv: SocketAddr,
    pub(crate) tlvs: SocketAddr,
    status: SocketAddr,
    metrics: SocketAddr,
}

impl Ports {
    /// Six that are free now.
    fn free() -> Result<Self> {
        let held: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
        let addresses: Vec<SocketAddr> =
            held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let [http, https, tlv, tlvs, status, metrics] = addresses[..] else { bail!("six ports are needed") };
        Ok(Self { http, https, tlv, tlvs, status, metrics })
    }
}

/// What all proxies of a run share.
pub(crate) struct Stage {
    /// The folder of certificates and of one folder a proxy.
    pub(crate) directory: PathBuf,
    /// The runtime of load and origin.
    pub(crate) bed: Bed,
    pub(crate) origin: Origin,
    /// Workers of each proxy.
    pub(crate) threads: usize,
    /// Files a process may have open.
    pub(crate) open_files: u64,
    /// The CPUs of the proxies, where they are held to some.
    pub(crate) cpus: Option<Vec<usize>>,
    /// The CPUs of everything else.
    pub(crate) own_cpus: Option<Vec<usize>>,
}

/// A proxy that runs. Dropped, it is ended.
pub(crate) struct Proxy {
    pub(crate) name: String,
    pub(crate) ports: Ports,
    child: Child,
    directory: PathBuf,
}

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// With components to compile.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(300);
const END_TIMEOUT: Duration = Duration::from_secs(5);

impl Proxy {
    /// Writes its configuration and starts it; returns when it accepts on all ports.
    pub(crate) fn start(contender: &Contender, stage: &Stage, kit: Kit<'_>, run: usize) -> Result<Self> {
        let directory = stage.directory.join(format!("{}-{run}", contender.name));
        fs::create_dir_all(&directory)?;
        let ports = Ports::free()?;
        let mut command = command(contender, stage, kit, &ports, &directory)?;
        let output = File::create(directory.join("output.log"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A child has the mask of the thread that starts it.
        if let Some(cpus) = &stage.cpus {
            process::pin(cpus)?;
        }
        let child = command.spawn();
        if let Some(cpus) = &stage.own_cpus {
            process::pin(cpus)?;
        }
        let child = child.with_context(|| format!("cannot start {}", contender.name))?;
        let mut proxy = Self { name: contender.name.clone(), ports, child, directory };
        let translates = matches!(contender.program, Program::NginxLua | Program::SluiceIm(_));
        let all = [ports.http, ports.https, ports.tlv, ports.tlvs];
        let timeout = match kit {
            Kit::Plain if !translates => START_TIMEOUT,
            _ => COMPILE_TIMEOUT,
        };
        proxy.wait_until_ready(if translates { &all[..1] } else { &all }, timeout)?;
        Ok(proxy)
    }

    fn wait_until_ready(&mut self, ports: &[SocketAddr], timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        for port in ports {
            while TcpStream::connect(port).is_err() {
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} ended with {status}:\n{}", self.name, self.log());
                }
                if Instant::now() > deadline {
                    bail!("{} does not listen on {port}:\n{}", self.name, self.log());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// The process and its workers.
    pub(crate) fn tree(&self) -> Tree {
        Tree::of(self.child.id())
    }

    /// The end of what it said on its outputs.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        for file in ["output.log", "error.log"] {
            text += &fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(
    contender: &Contender,
    stage: &Stage,
    kit: Kit<'_>,
    ports: &Ports,
    directory: &Path,
) -> Result<Command> {
    let tls = &stage.directory;
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let (lua, lua_locations) = match kit {
        Kit::Plain => ("", ""),
        Kit::Plugins(_) => (LUA_MODULES, include_str!("../peers/lua.conf")),
    };
    let values = [
        ("LUA", lua.to_owned()),
        ("LUA_LOCATIONS", lua_locations.to_owned()),
        ("WORDS", WORDS.to_owned()),
        ("DIR", directory.display().to_string()),
        ("USER", user.to_owned()),
        ("THREADS", stage.threads.to_string()),
        ("FILES", stage.open_files.to_string()),
        // haproxy reserves files by itself and refuses a number that does not fit.
        ("SESSIONS", (stage.open_files / 2).saturating_sub(100).to_string()),
        ("CERT", tls.join("cert.pem").display().to_string()),
        ("KEY", tls.join("key.pem").display().to_string()),
        ("PEM", tls.join("both.pem").display().to_string()),
        ("HTTP_ORIGIN", stage.origin.http.to_string()),
        ("TLV_ORIGIN", stage.origin.tlv.to_string()),
        ("HTTP", ports.http.to_string()),
        ("HTTPS", ports.https.to_string()),
        ("TLV", ports.tlv.to_string()),
        ("TLVS", ports.tlvs.to_string()),
        ("STATUS", ports.status.to_string()),
        ("METRICS", ports.metrics.to_string()),
    ];
    let write = |name: &str, template: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        fs::write(&path, fill(template, &values)?)?;
        Ok(path)
    };
    let mut command = match &contender.program {
        Program::Nginx => {
            let file = write("nginx.conf", include_str!("../peers/nginx.conf"))?;
            let mut command = Command::new("nginx");
            command.arg("-p").arg(directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(file);
            command
        }
        Program::Haproxy => {
            let file = write("haproxy.cfg", include_str!("../peers/haproxy.cfg"))?;
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(file);
            command
        }
        Program::Sluice(path) => {
            fs::create_dir_all(directory.join("conf"))?;
            let boot = write("sluice.yaml", include_str!("../peers/sluice/sluice.yaml"))?;
            write("conf/objects.yaml", include_str!("../peers/sluice/objects.yaml"))?;
            fs::write(directory.join("conf/generated.json.yaml"), generated(tls)?)?;
            if let Kit::Plugins(components) = kit {
                write("conf/plugins.yaml", include_str!("../peers/sluice/plugins.yaml"))?;
                write_modules(components, &directory.join("conf/modules"))?;
            }
            let mut command = Command::new(path);
            command.arg("run").arg("-c").arg(boot);
            command
        }
        Program::NginxLua => {
            let file = write("nginx.conf", include_str!("../peers/nginx-im.conf"))?;
            fs::write(directory.join("im.lua"), include_str!("../peers/im.lua"))?;
            let mut command = Command::new("nginx");
            command.arg("-p").arg(directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(file);
            command
        }
        Program::SluiceIm(path) => {
            for folder in ["conf/modules", "conf/protos"] {
                fs::create_dir_all(directory.join(folder))?;
            }
            let boot = write("sluice.yaml", include_str!("../peers/sluice/sluice.yaml"))?;
            write("conf/im.yaml", include_str!("../peers/sluice/im.yaml"))?;
            let proto = serde_json::json!({ "content": include_str!("../../../proto/im/v1/im.proto") });
            fs::write(directory.join("conf/protos/im.json"), proto.to_string())?;
            fs::copy(TRANSCODER, directory.join("conf/modules/transcode.wasm"))
                .with_context(|| format!("{TRANSCODER}: `cargo xtask plugins` builds it"))?;
            let mut command = Command::new(path);
            command.arg("run").arg("-c").arg(boot);
            command
        }
    };
    command.current_dir(directory);
    Ok(command)
}

/// What the keyword filter looks for.
const WORDS: &str =
    r#"["eval(", "base64_decode", "system(", "union select", "<script", "../", "/etc/passwd", "cmd.exe"]"#;

/// What nginx loads to run Lua.
const LUA_MODULES: &str = "load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;";

/// Modules by name: the component, and what its object says.
const MODULES: [(&str, &str, &str); 5] = [
    ("keywords", "guests/keywords.wasm", "{}"),
    ("keywords-fresh", "guests/keywords.wasm", "{instance: fresh}"),
    ("function", "guests/edge.wasm", "{instance: reuse}"),
    ("function-fresh", "guests/edge.wasm", "{instance: fresh}"),
    ("waf", "plugins/waf.wasm", "{}"),
];

fn write_modules(components: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (name, component, object) in MODULES {
        let from = components.join(component);
        fs::copy(&from, folder.join(format!("{name}.wasm")))
            .with_context(|| format!("{} is not built: cargo xtask plugins", from.display()))?;
        fs::write(folder.join(format!("{name}.yaml")), object)?;
    }
    Ok(())
}

/// Routes that a table of a gateway of some size would have, and the certificate.
fn generated(tls: &Path) -> Result<String> {
    let mut routes: Vec<serde_json::Value> = (0..300)
        .map(|number| {
            let methods = if number % 2 == 0 { ["GET", "HEAD"] } else { ["POST", "PUT"] };
            serde_json::json!({
                "id": format!("route-{number}"),
                "uri": format!("/api/v{}/service-{number}/*", number % 3),
                "hosts": ["bench.test", format!("host-{}.test", number % 20)],
                "methods": methods,
                "upstream_id": "origin",
            })
        })
        .collect();
    routes.push(serde_json::json!({
        "id": "orders", "uri": "/api/v1/orders/*", "host": "bench.test",
        "methods": ["GET", "POST"], "upstream_id": "origin",
    }));
    let ssls = serde_json::json!([{
        "id": "bench", "sni": "bench.test",
        "cert": fs::read_to_string(tls.join("cert.pem"))?,
        "key": fs::read_to_string(tls.join("key.pem"))?,
    }]);
    // JSON is YAML.
    Ok(serde_json::to_string_pretty(&serde_json::json!({ "routes": routes, "ssls": ssls }))?)
}

/// Replaces each `{{NAME}}`; one that is not known is an error.
fn fill(template: &str, values: &[(&str, String)]) -> Result<String> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").context("`{{` without `}}`")?;
        filled += before;
        // The comment that explains the form stands in the templates too.
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => filled += value,
            None if name == "…" => filled += "placeholder",
            None => bail!("no value for {{{{{name}}}}}"),
        }
        rest = after;
    }
    Ok(filled + rest)
}

/// Makes the P-256 certificate all proxies show.
pub(crate) fn write_certificate(directory: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec![crate::load::HOST.to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(directory.join("cert.pem"), &cert)?;
    fs::write(directory.join("key.pem"), &key)?;
    fs::write(directory.join("both.pem"), cert + &key)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn placeholders_are_filled_and_unknown_ones_refused() {
        let values = [("A", "1".to_owned()), ("AB", "2".to_owned())];
        assert_eq!(fill("x {{A}} {{AB}}{{A}}", &values).unwrap(), "x 1 21");
        assert!(fill("{{C}}", &values).unwrap_err().to_string().contains("{{C}}"));
        assert!(fill("{{A", &values).is_err());
    }
}
