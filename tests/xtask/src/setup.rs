//! Installs what is missing, and says what and why.
//!
//! Everything comes from Debian's packages or the Rust registry by name; nothing is
//! downloaded by address. When nothing is missing it takes no time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{self, has_program};

/// What is going to be run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Builds and tests.
    Test,
    /// Benchmarks as well.
    Bench,
}

/// Something a package brings.
enum Sign {
    Program(&'static str),
    File(&'static str),
}

struct Package {
    name: &'static str,
    sign: Sign,
    why: &'static str,
    needs: Needs,
}

const fn package(name: &'static str, sign: Sign, why: &'static str) -> Package {
    Package { name, sign, why, needs: Needs::Test }
}

const fn for_bench(name: &'static str, sign: Sign, why: &'static str) -> Package {
    Package { name, sign, why, needs: Needs::Bench }
}

const PACKAGES: &[Package] = &[
    package("gcc", Sign::Program("cc"), "compiles the C parts of the TLS library"),
    package("libc6-dev", Sign::File("/usr/include/stdlib.h"), "headers for the same"),
    package("protobuf-compiler", Sign::Program("protoc"), "compiles proto/ for the demo services and tests"),
    package(
        "libprotobuf-dev",
        Sign::File("/usr/include/google/protobuf/empty.proto"),
        "the well-known types",
    ),
    package("nginx", Sign::Program("nginx"), "an upstream in tests, a peer in benchmarks"),
    package(
        "libnginx-mod-stream",
        Sign::File("/usr/lib/nginx/modules/ngx_stream_module.so"),
        "nginx's TCP relay, a peer in benchmarks",
    ),
    package("php-cli", Sign::Program("php"), "runs the PHP site of the demo and the tests"),
    package(
        "modsecurity-crs",
        Sign::File("/usr/share/modsecurity-crs/rules/REQUEST-901-INITIALIZATION.conf"),
        "a published rule set, which the firewall's tests load",
    ),
    package("haproxy", Sign::Program("haproxy"), "speaks PROXY v2 to us in tests, a peer in benchmarks"),
    package("etcd-server", Sign::Program("etcd"), "the store that tests of the fleet read and break"),
    package("etcd-client", Sign::Program("etcdctl"), "its command line, for the same tests"),
    package("curl", Sign::Program("curl"), "an HTTP/1.1 and HTTP/2 client in tests"),
    package("openssl", Sign::Program("openssl"), "s_client, a TLS client in tests"),
    package("iproute2", Sign::Program("ip"), "makes the network namespaces of the failover tests"),
    package("iptables", Sign::Program("iptables"), "drops packets in those namespaces"),
    package("python3", Sign::Program("python3"), "runs clients made for APISIX against the Admin API"),
    package("python3-pip", Sign::Program("pip3"), "brings those clients"),
    package("procps", Sign::Program("ps"), "reads the memory of the processes tests look at"),
    package("rustc-web", Sign::File("/usr/bin/rustc"), "compiles plugins for WebAssembly"),
    package("cargo-web", Sign::File("/usr/bin/cargo"), "the cargo of that compiler"),
    package(
        "rust-web-src",
        Sign::File("/usr/lib/rustlib/src/rust/library/std/Cargo.toml"),
        "std for plugins, built from these sources",
    ),
    package("lld", Sign::Program("wasm-ld"), "links plugins"),
    package("nodejs", Sign::Program("node"), "makes components of JavaScript, drives the browser in tests"),
    package("npm", Sign::Program("npm"), "brings the libraries for that"),
    package("chromium", Sign::Program("chromium"), "the browser that tests the chat page"),
    package(
        "fonts-dejavu-core",
        Sign::File("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
        "letters for that browser",
    ),
    package(
        "python3-venv",
        Sign::File("/usr/lib/python3.11/ensurepip/__main__.py"),
        "makes components of Python",
    ),
    for_bench(
        "libnginx-mod-http-lua",
        Sign::File("/usr/lib/nginx/modules/ngx_http_lua_module.so"),
        "runs the filters and the IM gateway Sluice is compared with in Lua",
    ),
    for_bench("lua-cjson", Sign::File("/usr/share/doc/lua-cjson/copyright"), "JSON for the latter"),
    for_bench("wrk", Sign::Program("wrk"), "makes HTTP/1.1 load in benchmarks"),
    for_bench("nghttp2-client", Sign::Program("h2load"), "makes HTTP/2 load in benchmarks"),
];

/// Installs what `needs` asks for and is not there.
pub(crate) fn run(needs: Needs) -> Result<()> {
    debian_packages(needs)?;
    if needs == Needs::Bench {
        return Ok(());
    }
    python_packages(&shell::root())?;
    node_packages(&shell::root())
}

fn debian_packages(needs: Needs) -> Result<()> {
    let missing: Vec<&Package> = PACKAGES
        .iter()
        .filter(|package| package.needs == Needs::Test || needs == Needs::Bench)
        .filter(|package| !package.sign.is_there())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("set-up installs {} Debian packages:", missing.len());
    for package in &missing {
        eprintln!("  {:<22} {}", package.name, package.why);
    }
    if !has_program("apt-get") {
        bail!("these packages come by apt-get, which is not here; install them by hand and run this again");
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let services = NoServices::hold()?;
    shell::run(as_root("apt-get", &["update", "-q"]))?;
    let install = [&["install", "-q", "-y", "--no-install-recommends"][..], &names].concat();
    shell::run(as_root("apt-get", &install))?;
    drop(services);
    match missing.iter().find(|package| !package.sign.is_there()) {
        Some(package) => {
            bail!("package {} is installed, yet {} is not there", package.name, package.sign.name())
        }
        None => Ok(()),
    }
}

/// Packages of the Python registry, each with all it needs, in a folder of the
/// project's own: name of the folder, exact requirements.
const PYTHON: &[(&str, &[&str])] = &[
    // The reference the transcoder is compared with.
    ("protobuf", &["protobuf==6.33.6"]),
    (
        "apisix-client",
        &[
            "apisix-client==1.0.3",
            "anyio==4.16.0",
            "attrs==24.3.0",
            "cattrs==24.1.3",
            "certifi==2026.10.19.post1",
            "h11==0.16.0",
            "httpcore==1.0.9",
            "httpx==0.28.1",
            "idna==3.20",
            "jsonschema==4.26.0",
            "jsonschema-specifications==2025.9.1",
            "pyhumps==3.8.0",
            "referencing==0.37.0",
            "rpds-py==2026.9.1",
            "typing-extensions==4.16.0",
        ],
    ),
    // Judges the description of the Admin API.
    (
        "openapi-spec-validator",
        &[
            "annotated-types==0.8.0",
            "attrs==26.1.0",
            "jsonschema==4.26.0",
            "jsonschema-path==0.5.0",
            "jsonschema-specifications==2025.9.1",
            "lazy-object-proxy==1.13.0",
            "openapi-schema-validator==0.9.0",
            "openapi-spec-validator==0.9.0",
            "pathable==0.6.0",
            "pydantic==2.14.4",
            "pydantic-core==2.50.5",
            "pydantic-settings==2.16.3",
            "python-dotenv==1.2.4",
            "PyYAML==6.0.4",
            "referencing==0.37.0",
            "rfc3339-validator==0.1.4",
            "rpds-py==2026.9.1",
            "six==1.17.0",
            "typing-extensions==4.16.0",
            "typing-inspection==0.4.5",
        ],
    ),
];

/// Brings the Python packages that are missing, or of which others are wanted,
/// into `target/python`.
fn python_packages(root: &Path) -> Result<()> {
    for (name, requirements) in PYTHON {
        let folder = root.join("target/python").join(name);
        let list = folder.join("requirements.txt");
        let wanted = requirements.join("\n");
        if fs::read_to_string(&list).is_ok_and(|there| there == wanted) {
            continue;
        }
        eprintln!("set-up brings the Python package {name} into {}", folder.display());
        // What is there is of other versions.
        let _ = fs::remove_dir_all(&folder);
        let target = folder.to_string_lossy();
        let options = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", &target];
        shell::run(shell::command("python3", &[&options[..], requirements].concat()))?;
        fs::write(&list, wanted).with_context(|| format!("cannot write {}", list.display()))?;
    }
    Ok(())
}

/// Packages of the npm registry that need no others, each in a folder of the
/// project's own: name and exact version.
const NODE: &[(&str, &str)] = &[
    // Drives the browser. The browser itself is Debian's.
    ("playwright-core", "1.65.1"),
];

/// Brings the npm packages that are missing, or of which another version is wanted,
/// into `target/node`.
fn node_packages(root: &Path) -> Result<()> {
    for (name, version) in NODE {
        let folder = root.join("target/node").join(name);
        let wanted = format!("{name}@{version}");
        let note = folder.join("wanted");
        if fs::read_to_string(&note).is_ok_and(|there| there == wanted) {
            continue;
        }
        eprintln!("set-up brings the npm package {wanted} into {}", folder.display());
        // What is there is of another version.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let target = folder.to_string_lossy();
        let options =
            ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", &target];
        shell::run(shell::command("npm", &[&options[..], &[&wanted]].concat()))?;
        fs::write(&note, &wanted).with_context(|| format!("cannot write {}", note.display()))?;
    }
    Ok(())
}

/// Installs a program of the Rust registry when it is not there.
pub(crate) fn cargo_program(name: &str, why: &str) -> Result<()> {
    if has_program(name) {
        return Ok(());
    }
    eprintln!("set-up installs {name} from the Rust registry: {why}");
    shell::run(shell::cargo(&["install", "--locked", "--quiet", name]))
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => has_program(name),
            Self::File(path) => Path::new(path).exists(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Program(name) | Self::File(name) => name,
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

fn as_root(program: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = if is_root() {
        shell::command(program, arguments)
    } else {
        shell::command("sudo", &[&["--preserve-env=DEBIAN_FRONTEND", program], arguments].concat())
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Keeps packages from starting their daemons while they are installed: tests
/// start their own, on free ports. A policy that is there already is left alone.
struct NoServices {
    is_ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn hold() -> Result<Self> {
        if !is_root() || Path::new(POLICY).exists() {
            return Ok(Self { is_ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { is_ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
