use std::cell::Cell;
use std::rc::Rc;

use super::*;

fn is_up(upstream: &Upstream, line: usize) -> bool {
    upstream.lines[line].is_up()
}

#[test]
fn a_node_without_checks_comes_back_by_connects_in_the_background() {
    on_worker(async {
        let address = closed_port().await;
        let environment = environment();
        let upstream =
            upstream_in(&environment, json!({"scheme": "tcp", "nodes": {address.to_string(): 1}}), None);
        let mut runner = Runner::start(&environment);
        runner.change([&upstream], []);
        fail(&upstream, 0, 0, Failure::Refused);
        assert!(!is_up(&upstream, 0));
        tokio::task::spawn_local(serve_on(TcpListener::bind(address).await.unwrap(), echo));
        until("the node is back", || is_up(&upstream, 0)).await;
        // No request had to find out.
        assert_eq!(status(&upstream).lines[0].counts.requests, 0);
    });
}

#[test]
fn a_line_is_left_by_the_first_bad_probe_and_taken_back_after_its_hold_down() {
    on_worker(async {
        let alive = Rc::new(Cell::new(true));
        let seen = Rc::clone(&alive);
        let leased = serve(move |mut stream| {
            let seen = Rc::clone(&seen);
            async move {
                let mut bytes = [0; 1024];
                if seen.get() && stream.read(&mut bytes).await.is_ok() {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
            }
        })
        .await;
        let environment = environment();
        let mut value = two_lines(leased, serve(echo).await);
        value["lines"][1]["checks"] =
            json!({"active": {"type": "http", "interval": "20ms", "http_path": "/up"}});
        let upstream = upstream_in(&environment, value, None);
        let mut runner = Runner::start(&environment);
        runner.change([&upstream], []);
        assert_eq!(runner.checks(), 1);
        until("a probe is measured", || status(&upstream).lines[0].rtt.rtt_ms.is_some()).await;
        assert!(is_up(&upstream, 0));
        alive.set(false);
        until("the line is down", || !is_up(&upstream, 0)).await;
        let down = Instant::now();
        assert_eq!(status(&upstream).line_in_use.as_deref(), Some("public"));
        assert_eq!(status(&upstream).lines[0].why, Some("broken"));
        alive.set(true);
        until("the line waits for its hold-down", || status(&upstream).lines[0].state != "down").await;
        until("the line is back", || is_up(&upstream, 0)).await;
        assert!(down.elapsed() >= Duration::from_millis(250));
        assert_eq!(status(&upstream).line_in_use.as_deref(), Some("leased"));
    });
}

#[test]
fn a_heartbeat_that_is_answered_keeps_a_line_and_one_that_is_not_loses_it() {
    on_worker(async {
        let answers = serve(echo).await;
        let silent = serve(|stream| async move {
            let _held = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let garbage = serve(|mut stream| async move {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9\r\n").await;
            std::future::pending::<()>().await;
        })
        .await;
        let environment = environment();
        let check = json!({"active": {"type": "tlv", "interval": "20ms", "timeout": "200ms"}});
        let line = |name: &str, address: SocketAddr| json!({"name": name, "nodes": {address.to_string(): 1}});
        let upstream = upstream_in(
            &environment,
            json!({"scheme": "tlv", "checks": check, "lines": [
                line("answers", answers), line("silent", silent), line("garbage", garbage),
            ]}),
            None,
        );
        let mut runner = Runner::start(&environment);
        runner.change([&upstream], []);
        until("both bad lines are down", || !is_up(&upstream, 1) && !is_up(&upstream, 2)).await;
        assert!(is_up(&upstream, 0));
        let why: Vec<_> = status(&upstream).lines.iter().map(|line| line.why).collect();
        assert_eq!(why, [None, Some("timeout"), Some("malformed")]);
    });
}

#[test]
fn passive_checks_alone_bring_a_node_back_on_trial() {
    on_worker(async {
        let environment = environment();
        let upstream = upstream_in(
            &environment,
            json!({
                "nodes": {"127.0.0.1:1": 1},
                "checks": {"passive": {"unhealthy": {"http_failures": 2}}},
                "failover": {"hold_down": "1s"},
            }),
            None,
        );
        let mut runner = Runner::start(&environment);
        runner.change([&upstream], []);
        let answer = |status: u16| {
            upstream
                .select(0, &mut Tried::default())
                .unwrap()
                .report(Outcome::Status(status), Duration::ZERO);
        };
        answer(500);
        answer(500);
        assert!(!is_up(&upstream, 0));
        until("the node is tried again", || is_up(&upstream, 0)).await;
        answer(500);
        assert!(!is_up(&upstream, 0));
        until("the node is tried again", || is_up(&upstream, 0)).await;
        answer(200);
        answer(500);
        assert!(is_up(&upstream, 0));
    });
}

#[test]
fn only_the_checks_of_what_changed_begin_anew() {
    on_worker(async {
        let environment = environment();
        let build = |port: u16, weight: u32, previous: Option<&Upstream>| {
            let value = json!({
                "nodes": {format!("127.0.0.1:{port}"): weight}, "checks": {"active": {"type": "tcp"}},
            });
            upstream_in(&environment, value, previous)
        };
        let (first, second) = (build(1, 1, None), build(2, 1, None));
        let mut runner = Runner::start(&environment);
        runner.change([&first, &second], []);
        let before = runner.task_ids();
        let changed = build(2, 9, Some(&second));
        runner.change([&changed], [&second]);
        assert_eq!(runner.task_ids(), before);
        let third = build(3, 1, Some(&changed));
        runner.change([&third], [&changed]);
        assert_eq!(runner.checks(), 2);
        assert_eq!(before.intersection(&runner.task_ids()).count(), 1);
        runner.change([], [&first, &third]);
        assert_eq!(runner.checks(), 0);
    });
}

#[test]
fn those_who_wait_on_a_line_are_told_when_it_is_lost() {
    on_worker(async {
        let upstream = upstream(two_lines("10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()));
        let target = upstream.select(0, &mut Tried::default()).unwrap();
        let waiting = tokio::task::spawn_local(async move { target.lost().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        fail(&upstream, 0, 0, Failure::ConnectTimeout);
        tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    });
}
