//! Sessions between scripted peers, over loopback.

mod faults;
mod moves;
mod orders;
mod rig;

use rig::{Rig, frame, run};

use super::*;
use crate::config::objects::{HeartbeatMode, TlvConf};

#[test]
fn frames_pass_both_ways_as_they_are_and_an_idle_session_holds_no_buffer() {
    run(async {
        let rig = Rig::new(TlvConf::default()).await;
        let (mut client, mut node) = rig.joined().await;
        let bodies = [&b"hello"[..], b"", b"\x0A\x09\x0A", &[7; 1000]];
        let stream: Vec<u8> =
            bodies.iter().enumerate().flat_map(|(n, body)| frame(0x0301, n as u64, body)).collect();
        client.write(&stream).await;
        assert_eq!(node.read_exactly(stream.len()).await, stream);
        node.write(&stream).await;
        assert_eq!(client.read_exactly(stream.len()).await, stream);
        rig.until(|| rig.host.buffers.lent() == 0).await;
        drop(client);
        assert_eq!(node.read_to_end().await, b"");
        drop(node);
        let line = rig.line().await;
        assert_eq!((line.reason, line.frames_in, line.frames_out), ("client_closed", 4, 4));
        assert_eq!((line.bytes_in, line.bytes_out), (stream.len() as u64, stream.len() as u64));
    });
}

#[test]
fn a_frame_arrives_whole_whatever_the_split() {
    run(async {
        let rig = Rig::new(TlvConf::default()).await;
        let (mut client, mut node) = rig.joined().await;
        let bytes = frame(0x0301, 1, b"some body");
        for cut in 1..bytes.len() {
            client.write(&bytes[..cut]).await;
            // Nothing of a frame goes on before all of it is there.
            tokio::task::yield_now().await;
            node.expect_silence();
            client.write(&bytes[cut..]).await;
            assert_eq!(node.read_exactly(bytes.len()).await, bytes, "cut at {cut}");
        }
    });
}

#[test]
fn frames_larger_than_a_buffer_pass_in_pieces_or_whole() {
    run(async {
        for replay in [vec![], vec![0x0101]] {
            let rig = Rig::new(TlvConf { replay, ..TlvConf::default() }).await;
            let mut client = rig.connect().await;
            let large = [frame(0x0301, 1, &vec![0x0A; 65_536]), frame(0x0301, 2, b"small")].concat();
            client.write(&large).await;
            let mut node = rig.accept().await;
            assert_eq!(node.read_exactly(large.len()).await, large);
            node.write(&large).await;
            assert_eq!(client.read_exactly(large.len()).await, large);
            drop((client, node));
            assert_eq!(rig.line().await.frames_in, 2);
        }
    });
}

#[test]
fn the_users_login_comes_first_where_the_route_says_so() {
    run(async {
        let conf = TlvConf { login: vec![0x0101], heartbeat: Some(1), ..TlvConf::default() };
        let rig = Rig::new(conf).await;
        let mut client = rig.connect().await;
        client.write(&frame(0x0301, 9, b"not a login")).await;
        let (command, sequence, body) = client.read_frame().await;
        assert_eq!((command, sequence), (0x00FF, 0));
        assert!(body.windows(14).any(|part| part == b"login_required"));
        client.expect_end().await;
        assert_eq!(rig.line().await.reason, "login_required");

        let mut client = rig.connect().await;
        let hello = [frame(0x0001, 1, b""), frame(0x0101, 2, b"me"), frame(0x0301, 3, b"x")].concat();
        client.write(&hello).await;
        assert_eq!(rig.accept().await.read_exactly(hello.len()).await, hello);
    });
}

#[test]
fn heartbeats_are_answered_here_where_the_route_says_so() {
    run(async {
        let conf =
            TlvConf { heartbeat: Some(1), heartbeat_mode: HeartbeatMode::Answer, ..TlvConf::default() };
        let rig = Rig::new(conf).await;
        let (mut client, mut node) = rig.joined().await;
        client.write(&[frame(1, 5, b""), frame(0x0301, 6, b"x"), frame(1, 7, b"")].concat()).await;
        assert_eq!(node.read_frame().await, (0x0301, 6, b"x".to_vec()));
        assert_eq!(client.read_frame().await, (2, 5, vec![]));
        assert_eq!(client.read_frame().await, (2, 7, vec![]));
        node.expect_silence();
    });
}

#[test]
fn a_client_that_has_sent_all_still_gets_its_answers() {
    run(async {
        let rig = Rig::new(TlvConf::default()).await;
        let (mut client, mut node) = rig.joined().await;
        client.write(&frame(0x0301, 1, b"last")).await;
        client.shutdown().await;
        assert_eq!(node.read_to_end().await, frame(0x0301, 1, b"last"));
        node.write(&frame(0x0302, 1, b"answer")).await;
        drop(node);
        assert_eq!(client.read_to_end().await, frame(0x0302, 1, b"answer"));
        assert_eq!(rig.line().await.reason, "client_closed");
    });
}

#[test]
fn limits_act_on_frames_by_their_fields() {
    run(async {
        let plugins = serde_json::json!({
            "limit-req": {"rate": 1, "burst": 0, "key": "frame_from", "rejected": "error_frame"}
        });
        let rig = Rig::with_plugins(TlvConf::default(), plugins).await;
        let (mut client, mut node) = rig.joined().await;
        let burst: Vec<u8> = (0..5).flat_map(|n| frame(0x0301, n, b"x")).collect();
        client.write(&burst).await;
        assert_eq!(node.read_frame().await, (0x0301, 0, b"x".to_vec()));
        for sequence in 1..5 {
            let (command, found, _) = client.read_frame().await;
            assert_eq!((command, found), (0x00FF, sequence));
        }
        node.expect_silence();
        assert_eq!(rig.host.blocked.get(), 4);
    });
}

#[test]
fn an_idle_session_is_small() {
    let session = size_of::<Session<rig::TestHost>>();
    assert!(session <= 680, "a session's state is {session} bytes");
    let bytes = size_of_output(&serve::<rig::TestHost>);
    assert!(bytes <= session + 64, "a session's future is {bytes} bytes");
}

fn size_of_output<A, B, C, D, F>(_: &impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}
