use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use tokio::net::UdpSocket;

use super::*;

/// A name server that knows one name.
#[derive(Clone, Default)]
struct NameServer {
    addresses: Rc<RefCell<Vec<Ipv4Addr>>>,
    queries: Rc<Cell<u32>>,
    fails: Rc<Cell<bool>>,
}

impl NameServer {
    async fn start(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let own = self.clone();
        tokio::task::spawn_local(async move {
            let mut query = [0; 512];
            while let Ok((bytes, from)) = socket.recv_from(&mut query).await {
                let _ = socket.send_to(&own.answer(&query[..bytes]), from).await;
            }
        });
        address
    }

    /// Answers A with the addresses, living one second, and the rest with nothing.
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let question_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_a = query[question_end - 3] == 1;
        let addresses = if is_a { self.addresses.borrow().clone() } else { Vec::new() };
        if is_a {
            self.queries.set(self.queries.get() + 1);
        }
        let code = if self.fails.get() { 0x82 } else { 0x80 };
        let count = if self.fails.get() { 0 } else { addresses.len() as u8 };
        let mut answer = query[..2].to_vec();
        answer.extend_from_slice(&[0x81, code, 0, 1, 0, count, 0, 0, 0, 0]);
        answer.extend_from_slice(&query[12..question_end]);
        for address in addresses.iter().take(usize::from(count)) {
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        answer
    }
}

fn asking(server: SocketAddr) -> Arc<Environment> {
    let dns =
        DnsOptions { servers: vec![server], retry_min: Duration::from_millis(50), ..DnsOptions::default() };
    Environment::new(Options { dns, way_key: None })
}

fn addresses(upstream: &Upstream) -> Vec<IpAddr> {
    status(upstream).lines[0].nodes[0].addresses.clone()
}

#[test]
fn a_name_is_resolved_in_the_background_and_again_when_its_time_is_over() {
    on_worker(async {
        let server = NameServer::default();
        *server.addresses.borrow_mut() = vec![Ipv4Addr::LOCALHOST];
        let environment = asking(server.start().await);
        let port = serve(echo).await.port();
        let name = format!("service.example:{port}");
        let upstream = upstream_in(&environment, json!({"scheme": "tcp", "nodes": {name: 1}}), None);
        let _runner = Runner::start(&environment);
        // The very first connection may come before the first answer.
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        assert!(connect(&target, &ConnectRequest::default()).await.is_ok());
        assert_eq!(addresses(&upstream), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        let queries = server.queries.get();
        *server.addresses.borrow_mut() = vec![Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
        until("the new addresses are known", || addresses(&upstream).len() == 2).await;
        assert!(server.queries.get() > queries);
    });
}

#[test]
fn the_last_good_addresses_stay_in_use_and_status_says_so() {
    on_worker(async {
        let server = NameServer::default();
        *server.addresses.borrow_mut() = vec![Ipv4Addr::LOCALHOST];
        let environment = asking(server.start().await);
        let name = format!("service.example:{}", serve(echo).await.port());
        let upstream = upstream_in(&environment, json!({"scheme": "tcp", "nodes": {name: 1}}), None);
        let _runner = Runner::start(&environment);
        until("the name is resolved", || !addresses(&upstream).is_empty()).await;
        server.fails.set(true);
        until("it is stale", || status(&upstream).lines[0].nodes[0].stale.is_some()).await;
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        assert!(connect(&target, &ConnectRequest::default()).await.is_ok());
        server.fails.set(false);
        until("it is fresh again", || status(&upstream).lines[0].nodes[0].stale.is_none()).await;
    });
}

#[test]
fn a_name_that_does_not_exist_fails_at_once_with_its_reason() {
    on_worker(async {
        let server = NameServer::default();
        let environment = asking(server.start().await);
        let upstream =
            upstream_in(&environment, json!({"scheme": "tcp", "nodes": {"no.example:1": 1}}), None);
        let _runner = Runner::start(&environment);
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        let error = connect(&target, &ConnectRequest::default()).await.unwrap_err();
        assert_eq!(error.failure, Failure::Unresolved);
        assert!(error.to_string().contains("no.example"), "{error}");
    });
}

#[test]
fn an_address_that_failed_is_tried_last() {
    let host = environment().hosts.get("a.example");
    host.set(["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap()).to_vec());
    let bad: IpAddr = "10.0.0.2".parse().unwrap();
    host.mark(bad, false);
    assert!((0..9).all(|_| host.in_order()[2] == bad));
    host.mark(bad, true);
    assert!((0..9).any(|_| host.in_order()[0] == bad));
    let generation = host.generation();
    host.set(vec![bad]);
    assert_ne!(host.generation(), generation);
    assert!(!host.contains("10.0.0.1".parse().unwrap()));
}
