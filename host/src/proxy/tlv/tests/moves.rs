//! Sessions that outlive their node.

use std::time::Duration;

use super::rig::{Peer, Rig, frame, run};
use crate::config::objects::{StreamErrors, TlvConf};

fn conf() -> TlvConf {
    TlvConf { replay: vec![0x0101], safe: vec![0x0320], farewell: vec![0x0901], ..TlvConf::default() }
}

/// A session whose login has been answered.
async fn logged_in(rig: &Rig) -> (Peer, Peer) {
    let mut client = rig.connect().await;
    client.write(&frame(0x0101, 1, b"login")).await;
    let mut node = rig.accept().await;
    assert_eq!(node.read_frame().await, (0x0101, 1, b"login".to_vec()));
    node.write(&frame(0x0102, 1, b"welcome")).await;
    assert_eq!(client.read_frame().await, (0x0102, 1, b"welcome".to_vec()));
    (client, node)
}

/// Plays the node that takes a session over: the login again, its answer.
async fn take_over(rig: &Rig) -> Peer {
    let mut node = rig.accept().await;
    assert_eq!(node.read_frame().await, (0x0101, 1, b"login".to_vec()));
    node.write(&frame(0x0102, 1, b"welcome again")).await;
    node
}

#[test]
fn a_session_goes_on_over_another_node_however_the_first_one_goes() {
    run(async {
        for reset in [true, false] {
            let rig = Rig::new(conf()).await;
            let (mut client, node) = logged_in(&rig).await;
            if reset {
                node.reset()
            } else {
                drop(node)
            }
            let mut node = take_over(&rig).await;
            client.write(&frame(0x0301, 2, b"on we go")).await;
            assert_eq!(node.read_frame().await, (0x0301, 2, b"on we go".to_vec()));
            node.write(&frame(0x0302, 2, b"done")).await;
            // The second answer to the login never shows.
            assert_eq!(client.read_frame().await, (0x0302, 2, b"done".to_vec()));
        }
    });
}

#[test]
fn what_was_under_way_is_sent_again_or_told_and_never_doubled() {
    run(async {
        let rig = Rig::new(conf()).await;
        let (mut client, mut node) = logged_in(&rig).await;
        client
            .write(
                &[frame(0x0301, 2, b"send"), frame(0x0320, 3, b"history"), frame(0x0301, 4, b"x")].concat(),
            )
            .await;
        for _ in 0..3 {
            node.read_frame().await;
        }
        // One answered, one push, and half a frame that must not get through.
        let half = &frame(0x0302, 2, b"half an answer")[..20];
        node.write(&[&frame(0x0302, 4, b"done")[..], &frame(0x0310, 1, b"push"), half].concat()).await;
        assert_eq!(client.read_frame().await, (0x0302, 4, b"done".to_vec()));
        assert_eq!(client.read_frame().await, (0x0310, 1, b"push".to_vec()));
        node.reset();
        let mut node = take_over(&rig).await;
        assert_eq!(node.read_frame().await, (0x0320, 3, b"history".to_vec()));
        let (command, sequence, body) = client.read_frame().await;
        assert_eq!((command, sequence), (0x00FF, 2));
        assert!(body.windows(12).any(|part| part == b"request_lost"));
        node.write(&frame(0x0321, 3, b"answer")).await;
        assert_eq!(client.read_frame().await, (0x0321, 3, b"answer".to_vec()));
        node.expect_silence();
        client.expect_silence();
    });
}

#[test]
fn a_frame_that_left_in_part_is_sent_whole_to_the_next_node() {
    run(async {
        let rig = Rig::new(conf()).await;
        let (mut client, node) = logged_in(&rig).await;
        // More than the node's socket takes: the last frames are written in part or not at all.
        let bodies: Vec<Vec<u8>> =
            (0..400_u64).map(|n| frame(0x0320, 100 + n, &vec![n as u8; 60_000])).collect();
        let feeder = async {
            for bytes in &bodies {
                client.write(bytes).await;
            }
        };
        let script = async {
            // Nothing is read here, so that the session's writes get stuck.
            tokio::time::sleep(Duration::from_millis(300)).await;
            node.reset();
            let mut node = take_over(&rig).await;
            let mut last = None;
            loop {
                let (command, sequence, body) = node.read_frame().await;
                assert_eq!((command, body.len()), (0x0320, 60_000));
                assert_eq!(body[0], (sequence - 100) as u8);
                // No frame is doubled: the sequence only rises.
                assert!(last.is_none_or(|last| sequence > last), "{sequence} after {last:?}");
                last = Some(sequence);
                if sequence == 499 {
                    return;
                }
            }
        };
        tokio::join!(feeder, script);
    });
}

#[test]
fn a_login_the_client_still_waits_for_is_answered_by_the_next_node() {
    run(async {
        let rig = Rig::new(conf()).await;
        let mut client = rig.connect().await;
        client.write(&frame(0x0101, 1, b"login")).await;
        let mut node = rig.accept().await;
        node.read_frame().await;
        node.reset();
        let mut node = take_over(&rig).await;
        assert_eq!(client.read_frame().await, (0x0102, 1, b"welcome again".to_vec()));
        client.write(&frame(0x0301, 2, b"x")).await;
        assert_eq!(node.read_frame().await.1, 2);
    });
}

#[test]
fn pushes_before_the_replayed_answer_reach_the_client() {
    run(async {
        let rig = Rig::new(conf()).await;
        let (mut client, node) = logged_in(&rig).await;
        node.reset();
        let mut node = rig.accept().await;
        node.read_frame().await;
        node.write(&[frame(0x0310, 1, b"early"), frame(0x0102, 1, b"w"), frame(0x0310, 2, b"late")].concat())
            .await;
        assert_eq!(client.read_frame().await, (0x0310, 1, b"early".to_vec()));
        assert_eq!(client.read_frame().await, (0x0310, 2, b"late".to_vec()));
    });
}

#[test]
fn a_node_that_refuses_or_leaves_the_login_unanswered_is_passed_over() {
    run(async {
        let rig = Rig::new(TlvConf { replay_timeout: Duration::from_millis(100), ..conf() }).await;
        let (mut client, node) = logged_in(&rig).await;
        node.reset();
        let mut refusing = rig.accept().await;
        refusing.read_frame().await;
        refusing.write(&frame(0x00FF, 1, b"no")).await;
        let mut silent = rig.accept().await;
        silent.read_frame().await;
        let mut node = take_over(&rig).await;
        client.write(&frame(0x0301, 2, b"x")).await;
        assert_eq!(node.read_frame().await, (0x0301, 2, b"x".to_vec()));
    });
}

#[test]
fn a_farewell_and_a_way_without_nodes_end_the_session() {
    run(async {
        let rig = Rig::new(TlvConf { move_timeout: Duration::from_millis(300), ..conf() }).await;
        let (mut client, mut node) = logged_in(&rig).await;
        node.write(&frame(0x0901, 0, b"another device logged in")).await;
        drop(node);
        assert_eq!(client.read_frame().await.0, 0x0901);
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "upstream_closed");

        let (mut client, node) = logged_in(&rig).await;
        rig.host.nodes.borrow_mut().clear();
        node.reset();
        let (command, _, body) = client.read_frame().await;
        assert_eq!(command, 0x00FF);
        assert!(body.windows(11).any(|part| part == b"move_failed"));
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "move_failed");
        assert!(rig.host.dials.get() > 3, "all nodes are tried again and again");
    });
}

#[test]
fn a_lost_request_closes_where_faults_are_told_by_closing() {
    run(async {
        let rig = Rig::new(TlvConf { errors: StreamErrors::Close, ..conf() }).await;
        let (mut client, mut node) = logged_in(&rig).await;
        client.write(&frame(0x0301, 2, b"send")).await;
        node.read_frame().await;
        node.reset();
        let _node = take_over(&rig).await;
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "request_lost");
    });
}

#[test]
fn a_hundred_moves_keep_one_client() {
    run(async {
        let rig = Rig::new(conf()).await;
        let (mut client, mut node) = logged_in(&rig).await;
        for sequence in 10..110_u64 {
            client.write(&frame(0x0320, sequence, b"again")).await;
            assert_eq!(node.read_frame().await.1, sequence);
            node.reset();
            node = take_over(&rig).await;
            assert_eq!(node.read_frame().await, (0x0320, sequence, b"again".to_vec()));
            node.write(&frame(0x0321, sequence, b"")).await;
            assert_eq!(client.read_frame().await, (0x0321, sequence, vec![]));
        }
        rig.until(|| rig.host.buffers.lent() == 0).await;
    });
}
