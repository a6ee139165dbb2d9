//! Clients and nodes that do not behave.

use std::time::Duration;

use super::rig::{Rig, frame, run};
use crate::config::objects::TlvConf;

#[test]
fn junk_ends_the_session_with_its_reason_and_the_good_frame_is_delivered_once() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut frame = frame(0x0301, 2, b"body");
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let table: Vec<(Vec<u8>, &str)> = vec![
        (changed(0, &[0x08]), "frame_bad_begin"),
        (changed(25, &[0x0B]), "frame_bad_end"),
        (b"\x16\x03\x01\x02\x00\x01".to_vec(), "frame_bad_begin"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "frame_bad_begin"),
        (changed(17, &[0, 0, 0, 0]), "frame_bad_end"),
        (changed(17, &[0, 0, 0, 3]), "frame_bad_end"),
        (changed(17, &[0, 1, 0, 1]), "frame_body_too_large"),
        (changed(17, &[0x80, 0, 0, 0]), "frame_body_too_large"),
        (changed(17, &[0xFF; 4]), "frame_body_too_large"),
        (changed(17, &[4, 0, 0, 0]), "frame_body_too_large"),
    ];
    run(async {
        for replay in [vec![], vec![0x0101]] {
            let rig = Rig::new(TlvConf { replay, ..TlvConf::default() }).await;
            for (junk, reason) in &table {
                let mut client = rig.connect().await;
                let good = frame(0x0301, 1, b"good");
                client.write(&[&good, &junk[..], &good].concat()).await;
                let mut node = rig.accept().await;
                assert_eq!(node.read_to_end().await, good, "{reason}");
                assert_eq!(client.read_frame().await.0, 0x00FF);
                client.expect_end().await;
                assert_eq!(rig.line().await.reason, *reason);
            }
        }
    });
}

#[test]
fn another_protocol_on_the_port_never_reaches_a_node() {
    run(async {
        let rig = Rig::new(TlvConf { replay: vec![0x0101], ..TlvConf::default() }).await;
        let mut client = rig.connect().await;
        client.write(b"\x16\x03\x01\x02\x00\x01\x00\x01").await;
        assert_eq!(client.read_frame().await.0, 0x00FF);
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "frame_bad_begin");
        assert!(!rig.is_dialled().await);
    });
}

#[test]
fn a_frame_that_does_not_end_in_time_ends_the_session() {
    run(async {
        let bytes = frame(0x0301, 1, &[7; 100]);
        for begun in [1, 10, 21, 60] {
            let mut rig = Rig::new(TlvConf::default()).await;
            rig.limits.frame_timeout = Duration::from_millis(80);
            let (mut client, mut node) = rig.joined().await;
            client.write(&[&frame(1, 1, b""), &bytes[..begun]].concat()).await;
            // Dripping on does not help: the time counts from the first byte.
            for byte in &bytes[begun..begun + 30] {
                tokio::time::sleep(Duration::from_millis(4)).await;
                if tokio::io::AsyncWriteExt::write_all(&mut client.tcp, &[*byte]).await.is_err() {
                    break;
                }
            }
            assert_eq!(rig.line().await.reason, "frame_timeout");
            assert_eq!(node.read_to_end().await, frame(1, 1, b""));
        }
    });
}

#[test]
fn silent_clients_are_ended_at_the_stated_limits() {
    run(async {
        let short = Duration::from_millis(60);
        let first = TlvConf { first_frame_timeout: short, ..TlvConf::default() };
        let idle = TlvConf { idle_timeout: Some(short), ..TlvConf::default() };
        let heartbeat = TlvConf { heartbeat: Some(1), ..idle.clone() };
        for (conf, speaks, reason) in [
            (first, false, "first_frame_timeout"),
            (idle, true, "idle_timeout"),
            (heartbeat, true, "heartbeat_missed"),
        ] {
            let rig = Rig::new(conf).await;
            let (mut client, _node) = rig.joined().await;
            if speaks {
                client.write(&frame(1, 1, b"")).await;
            }
            assert_eq!(client.read_frame().await.0, 0x00FF);
            client.expect_end().await;
            assert_eq!(rig.line().await.reason, reason);
        }
    });
}

#[test]
fn a_client_that_leaves_inside_a_frame_leaves_nothing_of_it_behind() {
    run(async {
        let rig = Rig::new(TlvConf::default()).await;
        let (mut client, mut node) = rig.joined().await;
        let good = frame(0x0301, 1, b"good");
        client.write(&[&good[..], &good[..15]].concat()).await;
        client.shutdown().await;
        assert_eq!(node.read_to_end().await, good);
        assert_eq!(rig.line().await.reason, "frame_truncated");
    });
}

#[test]
fn a_side_that_never_reads_stops_the_other_and_is_ended() {
    run(async {
        for client_floods in [true, false] {
            let mut rig = Rig::new(TlvConf::default()).await;
            rig.limits.send_timeout = Duration::from_millis(200);
            let (mut client, mut node) = rig.joined().await;
            client.write(&frame(1, 1, b"")).await;
            node.read_frame().await;
            let flood = frame(0x0301, 1, &[7; 1000]);
            let (flooder, reason) =
                if client_floods { (&mut client, "upstream_stalled") } else { (&mut node, "client_stalled") };
            let mut taken = 0_usize;
            let writing = async {
                loop {
                    match tokio::io::AsyncWriteExt::write(&mut flooder.tcp, &flood[taken % flood.len()..])
                        .await
                    {
                        Ok(count) => taken += count,
                        Err(_) => return,
                    }
                }
            };
            tokio::select! {
                () = writing => {}
                line = rig.line() => assert_eq!(line.reason, reason),
            }
            // The kernel's buffers of four socket ends, and one of ours.
            assert!(taken < 16 << 20, "{taken} bytes were taken");
            assert!(rig.host.buffers.kept() <= 3);
        }
    });
}

#[test]
fn a_node_that_sends_junk_ends_the_session_with_a_reason_of_its_own() {
    run(async {
        let rig = Rig::new(TlvConf::default()).await;
        let (mut client, mut node) = rig.joined().await;
        client.write(&frame(1, 1, b"")).await;
        node.read_frame().await;
        node.write(&[&frame(2, 1, b"fine")[..], b"HTTP/1.1 400 Bad Request\r\n"].concat()).await;
        assert_eq!(client.read_frame().await, (2, 1, b"fine".to_vec()));
        assert_eq!(client.read_frame().await.0, 0x00FF);
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "upstream_frame_bad_begin");
    });
}

#[test]
fn a_node_that_cannot_be_reached_is_told() {
    run(async {
        let rig = Rig::new(TlvConf::default()).await;
        rig.host.nodes.borrow_mut().clear();
        let mut client = rig.connect().await;
        assert_eq!(client.read_frame().await.0, 0x00FF);
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "no_upstream");
    });
}

#[test]
fn a_node_that_leaves_takes_the_session_along_where_nothing_is_replayed() {
    run(async {
        for reset in [false, true] {
            let rig = Rig::new(TlvConf::default()).await;
            let (mut client, mut node) = rig.joined().await;
            client.write(&frame(1, 1, b"")).await;
            node.read_frame().await;
            node.write(&frame(2, 1, b"")).await;
            assert_eq!(client.read_frame().await.0, 2);
            if reset {
                node.reset();
                assert_eq!(client.read_frame().await.0, 0x00FF);
            } else {
                drop(node);
            }
            client.expect_end().await;
            assert_eq!(rig.line().await.reason, if reset { "upstream_reset" } else { "upstream_closed" });
        }
    });
}
