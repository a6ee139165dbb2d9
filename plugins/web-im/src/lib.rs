//! Serves the chat page: its files, and `config.json`, which says where the page
//! finds the IM service and what else it talks to.
//!
//! The files are part of the component, so a version of the plugin is a version of
//! the page, and hot-loading the one swaps the other. Nothing of a client is kept:
//! the module may say `instance: reuse`.

mod assets;

use serde::Serialize;
use sluice_sdk::prelude::*;

use assets::Asset;

/// What the page may load: of its own origin alone. A script in a message has
/// nothing to run by, and no other page may frame this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'";

/// The most hosts of other access points.
const ACCESS_HOSTS_MAX: usize = 32;

/// Where the page's configuration is asked for.
const CONFIG: &str = "config.json";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Path of the route to the IM service.
    #[serde(default = "api")]
    api: String,
    /// Path of `qr-login`, without the step.
    #[serde(default = "login")]
    login: String,
    /// Path of `access-points`; empty: the page asks for none.
    #[serde(default)]
    access_points: String,
    /// Hosts of access points the page may go to when its own does not answer:
    /// `host`, `host:port`, `*.domain`, `*.domain:port`.
    #[serde(default)]
    access_hosts: Vec<String>,
    /// What stands below the QR picture; `{code}` is the code in it.
    #[serde(default)]
    hint: String,
    /// What the page is called.
    #[serde(default = "title")]
    title: String,
    /// Seconds from one heartbeat of the page to the next.
    #[serde(default = "heartbeat")]
    heartbeat: u32,
    /// Seconds a poll waits for something new.
    #[serde(default = "poll_wait")]
    poll_wait: u32,
    /// Seconds after which a page that polls tries WebSocket again.
    #[serde(default = "upgrade_after")]
    upgrade_after: u32,
}

fn api() -> String {
    "/im".to_owned()
}

fn login() -> String {
    "/login".to_owned()
}

fn title() -> String {
    "Sluice Chat".to_owned()
}

fn heartbeat() -> u32 {
    20
}

fn poll_wait() -> u32 {
    25
}

fn upgrade_after() -> u32 {
    60
}

/// What the page is told of the configuration.
#[derive(Serialize)]
struct Told<'a> {
    api: &'a str,
    login: &'a str,
    access_points: &'a str,
    access_hosts: &'a [String],
    hint: &'a str,
    title: &'a str,
    heartbeat: u32,
    poll_wait: u32,
    upgrade_after: u32,
}

struct WebIm {
    config: Config,
    policy: String,
}

impl Plugin for WebIm {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let paths =
            [("api", &config.api), ("login", &config.login), ("access_points", &config.access_points)];
        for (field, path) in paths {
            let may_be_empty = field == "access_points";
            // `//host` is another origin, which the page may not talk to.
            let is_path = path.starts_with('/') && !path.starts_with("//");
            if !(is_path || may_be_empty && path.is_empty()) {
                return Err(ConfigError::new(field, format_args!("{path:?}"), "not a path such as \"/im\""));
            }
        }
        let times = [
            ("heartbeat", config.heartbeat),
            ("poll_wait", config.poll_wait),
            ("upgrade_after", config.upgrade_after),
        ];
        for (field, seconds) in times {
            if seconds == 0 || seconds > 3600 {
                return Err(ConfigError::new(field, seconds, "1 to 3600 seconds"));
            }
        }
        if config.access_hosts.len() > ACCESS_HOSTS_MAX {
            let count = config.access_hosts.len();
            return Err(ConfigError::new("access_hosts", count, "at most 32 hosts"));
        }
        for (index, host) in config.access_hosts.iter().enumerate() {
            if !is_host(host) {
                let field = format!("access_hosts[{index}]");
                let message = "not a host such as \"b.example.com:8443\" or \"*.example.com\"";
                return Err(ConfigError::new(&field, format_args!("{host:?}"), message));
            }
        }
        // Not every browser takes one scheme for the other; none lets a page of `https`
        // talk to the plain ones.
        let schemes = ["https", "wss", "http", "ws"];
        let hosts = config.access_hosts.iter();
        let hosts = hosts.flat_map(|host| schemes.map(|scheme| format!(" {scheme}://{host}")));
        let policy = [POLICY.to_owned()].into_iter().chain(hosts).collect();
        Ok(Self { config, policy })
    }

    fn interest(&self) -> Interest {
        Interest::new()
    }
}

impl Function for WebIm {
    fn handle(&mut self, request: Request) -> Response {
        let response = match &*request.method {
            "GET" | "HEAD" => self.answer(&request),
            _ => Response::new(405).header("allow", "GET, HEAD"),
        };
        response
            .header("content-security-policy", &self.policy)
            .header("x-content-type-options", "nosniff")
            .header("referrer-policy", "no-referrer")
            .header("cross-origin-opener-policy", "same-origin")
            .header("cross-origin-resource-policy", "same-origin")
            .header("permissions-policy", "camera=(), microphone=(), geolocation=()")
    }

    fn body_max(&self) -> usize {
        0
    }
}

impl WebIm {
    fn answer(&self, request: &Request) -> Response {
        // Wherever the route puts the page: the files are named by the last part.
        let name = request.path().rsplit('/').next().unwrap_or_default();
        if name == CONFIG {
            return Response::new(200).header("cache-control", "no-store").json(&self.told());
        }
        if let Some(asset) = assets::find(name) {
            return file(asset, request.field("if-none-match").unwrap_or_default());
        }
        // The page's files are beside it, so its own path ends in a slash.
        if request.path().matches('/').count() == 1 {
            return Response::new(308).header("location", format!("./{name}/"));
        }
        Response::new(404).text("there is no such file\n")
    }

    fn told(&self) -> Told<'_> {
        let config = &self.config;
        Told {
            api: &config.api,
            login: &config.login,
            access_points: &config.access_points,
            access_hosts: &config.access_hosts,
            hint: &config.hint,
            title: &config.title,
            heartbeat: config.heartbeat,
            poll_wait: config.poll_wait,
            upgrade_after: config.upgrade_after,
        }
    }
}

/// Whether a text is a host as the page's policy takes it, with a port or without.
fn is_host(text: &str) -> bool {
    let host = text.strip_prefix("*.").unwrap_or(text);
    let (name, port) = host.split_once(':').unwrap_or((host, "443"));
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    is_name && text.len() <= 253 && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A file, or the word that the browser's copy is the same.
fn file(asset: &Asset, known: &str) -> Response {
    let tag = format!("\"{:016x}\"", asset.tag);
    // Asked each time: all files of a page are then of one version.
    let answer = |status| Response::new(status).header("etag", &tag).header("cache-control", "no-cache");
    let is_known = known.split(',').any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    });
    match is_known {
        true => answer(304),
        false => answer(200).header("content-type", asset.content_type).body(asset.bytes),
    }
}

sluice_sdk::export!(WebIm: Function);

#[cfg(test)]
mod tests;
