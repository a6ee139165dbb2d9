//! Network namespaces joined by veth pairs: links that can be cut, made lossy
//! or slow without touching anything else on the machine.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{io_ok, tool};

/// A network namespace; clones share it, the last one deletes it. Needs root
/// (or a user namespace in which one is root).
#[derive(Debug, Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // One that is gone already needs no deleting.
        let _ = tool("ip").args(["netns", "delete", &self.name]).status();
    }
}

impl Namespace {
    /// A namespace with a loopback device and nothing else.
    pub fn new() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Namespace { inner: Arc::new(Inner { name }) };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Runs `action` on a thread inside the namespace. Sockets made there stay
    /// there, whoever uses them later.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                action()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace, for the rest of its life.
    pub fn enter(&self) {
        let file = io_ok("open a namespace", File::open(format!("/run/netns/{}", self.name())));
        let moved = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
        io_ok("enter a network namespace (root is needed)", moved.map_err(Into::into));
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", self.name()]).arg(tool(program).get_program());
        command
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", self.name()], arguments].concat());
    }

    fn iptables(&self, arguments: &[&str]) {
        let mut command = self.command("iptables");
        command.args(["-w"]).args(arguments);
        must_succeed(command);
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}

fn ip(arguments: &[&str]) {
    let mut command = tool("ip");
    command.args(arguments);
    must_succeed(command);
}

fn must_succeed(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} fails (network namespaces need root): {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

/// Two namespaces joined by links: the gateway and its clients live on the near
/// side, services on the far one, and every link is a line that can be broken by
/// itself.
#[derive(Debug)]
pub struct Network {
    near: Namespace,
    far: Namespace,
}

impl Network {
    /// A network with that many links. Addresses are the same in every network:
    /// nothing leaves it.
    pub fn new(links: u8) -> Network {
        let network = Network { near: Namespace::new(), far: Namespace::new() };
        for link in 0..links {
            let device = device(link);
            let (near, far) = (network.near.name(), network.far.name());
            ip(&[
                "link", "add", &device, "netns", near, "type", "veth", "peer", "name", &device, "netns", far,
            ]);
            for (side, address) in [(&network.near, near_address(link)), (&network.far, far_address(link))] {
                side.ip(&["address", "add", &format!("{address}/24"), "dev", &device]);
                side.ip(&["link", "set", &device, "up"]);
            }
        }
        network
    }

    /// Where the gateway and the clients are.
    pub fn near(&self) -> &Namespace {
        &self.near
    }

    /// Where the services are.
    pub fn far(&self) -> &Namespace {
        &self.far
    }

    /// The far address of a link, from 0: what a line's node is.
    pub fn address(&self, link: u8) -> IpAddr {
        far_address(link).into()
    }

    /// The near address of a link.
    pub fn near_address(&self, link: u8) -> IpAddr {
        near_address(link).into()
    }

    /// Drops every packet in both directions, silently: a black hole.
    pub fn black_hole(&self, link: u8) {
        self.far.iptables(&["-I", "INPUT", "-i", &device(link), "-j", "DROP"]);
        self.mute(link);
    }

    /// Drops packets from the far side only: it hears, and is not heard.
    pub fn mute(&self, link: u8) {
        self.far.iptables(&["-I", "OUTPUT", "-o", &device(link), "-j", "DROP"]);
    }

    /// Drops that share of the packets in both directions.
    pub fn lose(&self, link: u8, percent: u8) {
        let probability = format!("{:.2}", f64::from(percent) / 100.0);
        for (chain, flag) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            let random = ["-m", "statistic", "--mode", "random", "--probability", &probability, "-j", "DROP"];
            self.far.iptables(&[&["-I", chain, flag, &device(link)][..], &random].concat());
        }
    }

    /// Limits the link to that many kilobits a second in each direction.
    pub fn slow(&self, link: u8, kilobits: u32) {
        for side in [&self.near, &self.far] {
            let mut command = side.command("tc");
            command.args(["qdisc", "replace", "dev", &device(link), "root", "tbf"]);
            command.args(["rate", &format!("{kilobits}kbit"), "burst", "32kb", "latency", "400ms"]);
            must_succeed(command);
        }
    }

    /// Takes the link down, as a pulled cable does.
    pub fn unplug(&self, link: u8) {
        self.far.ip(&["link", "set", &device(link), "down"]);
    }

    /// Undoes everything done to any link.
    pub fn heal(&self) {
        self.far.iptables(&["-F"]);
        let links = (0..=u8::MAX).take_while(|link| self.has(*link));
        for link in links {
            self.far.ip(&["link", "set", &device(link), "up"]);
            for side in [&self.near, &self.far] {
                // There is nothing to delete where nothing was slowed.
                let _ = side.command("tc").args(["qdisc", "delete", "dev", &device(link), "root"]).output();
            }
        }
    }

    fn has(&self, link: u8) -> bool {
        let mut command = tool("ip");
        command.args(["-n", self.far.name(), "link", "show", "dev", &device(link)]);
        command.output().is_ok_and(|output| output.status.success())
    }
}

fn device(link: u8) -> String {
    format!("link{link}")
}

fn near_address(link: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, link, 1)
}

fn far_address(link: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, link, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::HttpEcho;
    use std::net::TcpStream;
    use std::time::Duration;

    #[test]
    fn a_black_hole_swallows_one_link_and_heals() {
        let network = Network::new(2);
        let [one, two] =
            [0, 1].map(|link| HttpEcho::builder("far").within(network.far(), network.address(link)).start());
        let connect = |origin: &HttpEcho, wait: u64| {
            let address = origin.address();
            network.near().run(move || TcpStream::connect_timeout(&address, Duration::from_millis(wait)))
        };
        connect(&one, 5000).unwrap();
        network.black_hole(0);
        assert_eq!(connect(&one, 200).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        connect(&two, 5000).unwrap();
        network.heal();
        connect(&one, 5000).unwrap();
    }
}
