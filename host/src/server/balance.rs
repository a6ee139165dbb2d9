//! Long connections, spread evenly over the workers.
//!
//! The kernel gives a connection to a worker by a hash of its addresses: with
//! few or long connections that is uneven. A worker that has over a quarter
//! and over 16 connections more than the one with the fewest hands a new
//! connection to that one, through a bounded channel. Nothing is measured and
//! no connection moves later.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::Raw;
use crate::net::Listener;

/// Connections that wait for a worker to take them.
const INBOX_MAX: usize = 256;
/// A worker keeps a connection unless it has more than this many more than another.
const SLACK: usize = 16;

#[derive(Debug)]
struct Balance {
    loads: Vec<Load>,
    inboxes: Vec<mpsc::Sender<Handed>>,
}

/// A worker's open connections, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load(AtomicUsize);

/// A connection on its way to another worker.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) tcp: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) listener: Arc<Listener>,
}

/// A worker's part in the balance, made on the main thread and moved to the worker.
#[derive(Debug)]
pub struct Seat {
    place: Place,
    inbox: mpsc::Receiver<Handed>,
}

/// The seats of all workers, in order.
#[must_use]
pub fn seats(workers: usize) -> Vec<Seat> {
    let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(INBOX_MAX)).unzip();
    let loads = (0..workers).map(|_| Load::default()).collect();
    let balance = Arc::new(Balance { loads, inboxes });
    let seat = |(index, inbox)| Seat { place: Place { balance: Arc::clone(&balance), index }, inbox };
    receivers.into_iter().enumerate().map(seat).collect()
}

impl Seat {
    pub(super) fn take(self) -> (Place, mpsc::Receiver<Handed>) {
        (self.place, self.inbox)
    }
}

/// A worker's view of the balance.
#[derive(Debug, Clone)]
pub(super) struct Place {
    balance: Arc<Balance>,
    index: usize,
}

impl Place {
    fn at(&self, index: usize) -> &AtomicUsize {
        &self.balance.loads[index].0
    }

    pub(super) fn load(&self) -> usize {
        self.at(self.index).load(Ordering::Relaxed)
    }

    pub(super) fn join(&self) {
        self.at(self.index).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.at(self.index).fetch_sub(1, Ordering::Relaxed);
    }

    /// The worker that should have the next connection instead of this one.
    fn better(&self) -> Option<usize> {
        let own = self.load();
        if own <= SLACK {
            return None;
        }
        let others = (0..self.balance.loads.len()).filter(|index| *index != self.index);
        let (least, load) = others
            .map(|index| (index, self.at(index).load(Ordering::Relaxed)))
            .min_by_key(|(_, load)| *load)?;
        (own > load + SLACK && own > load + load / 4).then_some(least)
    }

    /// Hands a connection over, or gives it back when it should stay.
    pub(super) fn hand_over(&self, raw: Raw) -> Option<Raw> {
        let Some(target) = self.better() else { return Some(raw) };
        let Ok(permit) = self.balance.inboxes[target].try_reserve() else { return Some(raw) };
        let Raw { tcp, peer, local, listener, .. } = raw;
        // It counts there from now on, so that a burst does not all go there.
        self.at(target).fetch_add(1, Ordering::Relaxed);
        match tcp.into_std() {
            Ok(tcp) => permit.send(Handed { tcp, peer, local, listener }),
            Err(error) => {
                // The socket is gone with the attempt.
                tracing::warn!(%error, "cannot hand a connection over");
                self.at(target).fetch_sub(1, Ordering::Relaxed);
                listener.leave();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(loads: &[usize]) -> Vec<Place> {
        let places: Vec<Place> = seats(loads.len()).into_iter().map(|seat| seat.take().0).collect();
        for (place, load) in places.iter().zip(loads) {
            place.at(place.index).store(*load, Ordering::Relaxed);
        }
        places
    }

    #[test]
    fn only_a_clear_difference_moves_a_connection() {
        let table: [(&[usize], Option<usize>); 7] = [
            (&[16, 0], None),
            (&[17, 0], Some(1)),
            (&[100, 90], None),
            (&[100, 83], None),
            (&[105, 80, 84], Some(1)),
            (&[1000, 900], None),
            (&[1000], None),
        ];
        for (loads, wanted) in table {
            assert_eq!(places(loads)[0].better(), wanted, "{loads:?}");
        }
    }
}
