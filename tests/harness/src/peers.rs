//! Debian's nginx, haproxy and PHP, with a configuration of the test's.
//!
//! In every configuration `{{port}}`, `{{port2}}`, … `{{port5}}` become free
//! ports and `{{dir}}` a folder that goes with the process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ports::Port;
use crate::process::{Process, tool};
use crate::raw::Raw;

const PORTS: usize = 5;

/// A folder and ports that a configuration refers to.
struct Place {
    folder: TempDir,
    ports: Vec<Port>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Place { folder, ports: (0..PORTS).map(|_| Port::free()).collect() }
    }

    fn fill_in(&self, text: &str) -> String {
        let mut text = text.replace("{{dir}}", &self.folder.path().to_string_lossy());
        for (at, port) in self.ports.iter().enumerate() {
            let name = if at == 0 { "{{port}}".to_owned() } else { format!("{{{{port{}}}}}", at + 1) };
            text = text.replace(&name, &port.number().to_string());
        }
        text
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, self.fill_in(text)).expect("a configuration can be written");
        path
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("output.log")
    }

    fn address(&self, number: usize) -> SocketAddr {
        assert!((1..=PORTS).contains(&number), "ports are numbered from 1 to {PORTS}");
        self.ports[number - 1].loopback()
    }
}

/// Waits until the first port of a place is accepted on.
fn until_listening(process: &mut Process, address: SocketAddr) {
    process.until(&format!("{address} is listened on"), || Raw::try_connect(address).ok().map(drop));
}

/// An nginx of one process.
pub struct Nginx {
    process: Process,
    place: Place,
}

impl Nginx {
    /// With `http` as the inside of its http block, for example
    /// `server { listen 127.0.0.1:{{port}}; … }`. Ready when the first port
    /// listens.
    pub fn http(http: &str) -> Nginx {
        Nginx::start(&format!(
            "http {{\n access_log off;\n client_body_temp_path {{{{dir}}}}/body;\n proxy_temp_path {{{{dir}}}}/proxy;\n \
             fastcgi_temp_path {{{{dir}}}}/fastcgi;\n uwsgi_temp_path {{{{dir}}}}/uwsgi;\n \
             scgi_temp_path {{{{dir}}}}/scgi;\n {http}\n}}\n"
        ))
    }

    /// With `stream` as the inside of its stream block.
    pub fn stream(stream: &str) -> Nginx {
        Nginx::start(&format!("stream {{\n {stream}\n}}\n"))
    }

    /// With `blocks` behind the main settings.
    pub fn start(blocks: &str) -> Nginx {
        let place = Place::new();
        let stream = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        let module = if blocks.contains("stream {") {
            assert!(stream.exists(), "nginx has no stream module: run `cargo xtask setup`");
            format!("load_module {};\n", stream.display())
        } else {
            String::new()
        };
        let main = format!(
            "{module}daemon off;\nmaster_process off;\npid {{{{dir}}}}/nginx.pid;\nerror_log stderr info;\n\
             events {{ worker_connections 4096; }}\n{blocks}"
        );
        let file = place.write("nginx.conf", &main);
        let mut command = tool("nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(place.folder.path()).arg("-c").arg(file);
        let mut process = Process::spawn("nginx", command, &place.log());
        until_listening(&mut process, place.address(1));
        Nginx { process, place }
    }

    /// The address of `{{port}}`.
    pub fn address(&self) -> SocketAddr {
        self.place.address(1)
    }

    /// The address of `{{portN}}`.
    pub fn port(&self, number: usize) -> SocketAddr {
        self.place.address(number)
    }

    /// The address of `{{port}}` as a key of `nodes`.
    pub fn node(&self) -> String {
        self.address().to_string()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// An haproxy of one process.
pub struct Haproxy {
    process: Process,
    place: Place,
}

impl Haproxy {
    /// With `sections` behind a global section and defaults with time-outs of
    /// 30 seconds. Ready when `{{port}}` listens.
    pub fn start(sections: &str) -> Haproxy {
        let place = Place::new();
        let main = format!(
            "global\n log stderr format raw local0 info\n maxconn 4096\ndefaults\n timeout connect 5s\n \
             timeout client 30s\n timeout server 30s\n log global\n{sections}\n"
        );
        let file = place.write("haproxy.cfg", &main);
        let mut command = tool("haproxy");
        command.arg("-db").arg("-f").arg(file);
        let mut process = Process::spawn("haproxy", command, &place.log());
        until_listening(&mut process, place.address(1));
        Haproxy { process, place }
    }

    /// One that accepts TCP and connects to `target` with a PROXY header of
    /// version 1 or 2.
    pub fn proxy_protocol(target: SocketAddr, version: u8) -> Haproxy {
        let send = if version == 1 { "send-proxy" } else { "send-proxy-v2" };
        Haproxy::start(&format!(
            "listen front\n mode tcp\n bind 127.0.0.1:{{{{port}}}}\n server sluice {target} {send}\n"
        ))
    }

    /// The address of `{{port}}`.
    pub fn address(&self) -> SocketAddr {
        self.place.address(1)
    }

    /// The address of `{{portN}}`.
    pub fn port(&self, number: usize) -> SocketAddr {
        self.place.address(number)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A PHP site on php-cli's own server.
pub struct Php {
    process: Process,
    place: Place,
}

impl Php {
    /// The site in `tests/services/php-site`.
    pub fn start() -> Php {
        Php::site(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/php-site"))
    }

    /// A site whose `index.php` answers everything that is not a file.
    pub fn site(folder: &Path) -> Php {
        let place = Place::new();
        let mut command = tool("php");
        command
            .arg("-S")
            .arg(place.address(1).to_string())
            .arg("-t")
            .arg(folder)
            .arg(folder.join("index.php"));
        // One process: workers of its own would outlive it, and one at a time
        // is what the site's pages need.
        let mut process = Process::spawn("php", command, &place.log());
        until_listening(&mut process, place.address(1));
        Php { process, place }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.place.address(1)
    }

    /// The address as a key of `nodes`.
    pub fn node(&self) -> String {
        self.address().to_string()
    }

    /// How many times a hole of the site was reached, by its own log.
    pub fn holes_reached(&self) -> usize {
        self.process.log().lines().filter(|line| line.contains("] HOLE REACHED: ")).count()
    }

    /// Requests that have reached the site, by its own log.
    pub fn requests(&self) -> usize {
        self.process.log().lines().filter(|line| line.contains("] REQUEST: ")).count()
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curl::Curl;
    use crate::services::HttpEcho;

    #[test]
    fn nginx_and_haproxy_serve_what_they_are_given() {
        let nginx = Nginx::http("server { listen 127.0.0.1:{{port}}; location / { return 200 hello; } }");
        let reply = Curl::get(format!("http://{}/", nginx.address())).run();
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));

        let origin = HttpEcho::start("origin");
        let section = format!(
            "listen front\n mode http\n bind 127.0.0.1:{{{{port}}}}\n server one {}\n",
            origin.address()
        );
        let haproxy = Haproxy::start(&section);
        let reply = Curl::get(format!("http://{}/through", haproxy.address())).run();
        assert_eq!(reply.seen().target, "/through");
    }

    #[test]
    fn the_php_site_answers_and_marks_its_holes() {
        let php = Php::start();
        let home = Curl::get(format!("http://{}/", php.address())).run();
        assert_eq!(home.status, 200);
        let hole = Curl::get(format!("http://{}/?page=calc&code=phpinfo();", php.address())).run();
        assert!(hole.text().contains("HOLE REACHED: eval"), "{}", hole.text());
    }
}
