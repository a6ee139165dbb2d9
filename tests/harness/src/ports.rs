//! Port numbers that nobody else gets while they are held.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range that the kernel takes numbers for outgoing connections
/// from: a number of these is only ever taken on purpose.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A free port of the loopback address. A lock on a file keeps it from every
/// other test process until it is dropped, so it can be given to a program that
/// binds it later, and bound again after that program was killed.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes a port that is free on every address.
    pub fn free() -> Port {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join("sluice-test-ports");
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written to");
        // Processes begin at different numbers, so that they seldom meet.
        let start = std::process::id().wrapping_mul(7919);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = (FIRST + start.wrapping_add(step) % COUNT) as u16;
            let file = File::create(folder.join(number.to_string())).expect("the lock file can be made");
            if file.try_lock().is_ok() && TcpListener::bind(("0.0.0.0", number)).is_ok() {
                return Port { number, _lock: file };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    pub fn loopback(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn held_ports_differ() {
        let held: Vec<Port> = (0..100).map(|_| Port::free()).collect();
        let numbers: HashSet<u16> = held.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), held.len());
    }
}
