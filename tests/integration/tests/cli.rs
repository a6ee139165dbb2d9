//! `sluice get|apply|delete|diff|history|rollback|completion`.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use sluice_harness::Sluice;
use sluice_tests::admin::{ADMIN_KEY, on_both_stores, with_keys};

fn run_as(gateway: &Sluice, key: &str, arguments: &[&str]) -> Output {
    let server = format!("http://{}", gateway.admin_address());
    Sluice::command(arguments)
        .env("SLUICE_ADMIN", server)
        .env("SLUICE_ADMIN_KEY", key)
        .env_remove("SLUICE_CLIENT")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn run(gateway: &Sluice, arguments: &[&str]) -> Output {
    run_as(gateway, ADMIN_KEY, arguments)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn expect(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output), error(&output));
    text(&output)
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn files_are_applied_after_their_differences_were_shown() {
    on_both_stores(|gateway, _| {
        let run = |arguments: &[&str]| run(gateway, arguments);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "upstreams/u.yaml", "nodes: {\"127.0.0.1:9\": 1}\n");
        write(folder.path(), "routes/r.yaml", "uri: /one\nupstream_id: u\n");
        let path = folder.path().to_str().unwrap();
        let shown = expect(run(&["apply", "-f", path, "--dry-run"]), 2);
        assert!(shown.contains("routes/r created"), "{shown}");
        let unasked = run(&["apply", "-f", path]);
        assert!(error(&unasked).contains("say --yes"), "{}", error(&unasked));
        expect(unasked, 1);
        expect(run(&["get", "routes", "r"]), 1);
        let applied = run(&["apply", "-f", path, "--yes"]);
        assert!(error(&applied).contains("applied as change"), "{}", error(&applied));
        expect(applied, 0);
        assert_eq!(expect(run(&["diff", "-f", path]), 0), "nothing is different\n");
        assert_eq!(expect(run(&["apply", "-f", path]), 0), "nothing is different\n");
        write(folder.path(), "routes/r.yaml", "uri: /two\nupstream_id: u\n");
        let shown = expect(run(&["diff", "-f", path]), 2);
        assert!(shown.contains("  - uri: /one\n  + uri: /two\n"), "{shown}");
        expect(run(&["apply", "-f", path, "-y"]), 0);

        assert!(expect(run(&["get", "routes"]), 0).contains("uri /two"));
        let yaml = expect(run(&["get", "routes", "r", "-o", "yaml"]), 0);
        assert!(yaml.contains("uri: /two"), "{yaml}");
        let list: Value = serde_json::from_str(&expect(run(&["get", "routes", "-o", "json"]), 0)).unwrap();
        assert_eq!(list["routes"][0]["uri"], "/two");

        write(folder.path(), "routes/r.yaml", "uri: two\n");
        let bad = run(&["apply", "-f", path, "--yes"]);
        let told = error(&bad);
        assert!(told.contains("routes/r") && told.contains("must begin with '/'"), "{told}");
        expect(bad, 1);
    });
}

#[test]
fn objects_go_back_and_go() {
    on_both_stores(|gateway, _| {
        let run = |arguments: &[&str]| run(gateway, arguments);
        let apply = |uri: &str| {
            let folder = tempfile::tempdir().unwrap();
            let all = format!(
                "upstreams: [{{id: u, nodes: {{\"127.0.0.1:9\": 1}}}}]\nroutes: [{{id: r, uri: {uri}, upstream_id: u}}]\n"
            );
            write(folder.path(), "all.yaml", &all);
            let file = folder.path().join("all.yaml");
            expect(run(&["apply", "-y", "-f", file.to_str().unwrap()]), 0);
        };
        apply("/one");
        apply("/two");
        let history = expect(run(&["history", "routes", "r"]), 0);
        assert!(history.contains("updated routes/r") && history.contains("ops"), "{history}");
        let shown = expect(run(&["diff", "routes", "r"]), 2);
        assert!(shown.contains("  - uri: /one\n  + uri: /two\n"), "{shown}");
        let list: Value = serde_json::from_str(&expect(run(&["history", "-o", "json"]), 0)).unwrap();
        let last = list["list"][0]["id"].to_string();
        let change = expect(run(&["history", "--change", &last]), 0);
        assert!(change.contains("/one") && change.contains("/two"), "{change}");
        expect(run(&["rollback", "routes", "r", "--dry-run"]), 2);
        expect(run(&["rollback", "routes", "r"]), 1);
        expect(run(&["rollback", "routes", "r", "--yes"]), 0);
        assert!(expect(run(&["get", "routes", "r", "-o", "yaml"]), 0).contains("uri: /one"));
        expect(run(&["rollback", "routes", "r", "--to", &last, "--yes"]), 0);
        assert!(expect(run(&["get", "routes", "r", "-o", "yaml"]), 0).contains("uri: /two"));

        let refused = run(&["delete", "upstreams", "u", "--yes"]);
        assert!(error(&refused).contains("route [r] is still using it now"), "{}", error(&refused));
        expect(refused, 1);
        assert!(expect(run(&["delete", "routes", "r", "--dry-run"]), 2).contains("routes/r deleted"));
        expect(run(&["delete", "routes", "r"]), 1);
        expect(run(&["delete", "routes", "r", "--yes"]), 0);
        let missing = run(&["get", "routes", "r"]);
        assert_eq!(error(&missing).trim(), "sluice: there is no routes/r");
        expect(missing, 1);
    });
}

#[test]
fn what_get_prints_is_what_apply_reads() {
    on_both_stores(|gateway, _| {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            "all.yaml",
            "consumers: [{username: jack}]\ncredentials:\n  - {id: jack.one, plugins: {key-auth: {key: k-one}}}\n",
        );
        let file = folder.path().join("all.yaml");
        expect(run(gateway, &["apply", "-y", "-f", file.to_str().unwrap()]), 0);
        let printed = expect(run(gateway, &["get", "credentials", "-o", "yaml"]), 0);
        assert!(printed.contains("jack.one"), "{printed}");
        let server = format!("http://{}", gateway.admin_address());
        let mut child = Sluice::command(&["diff", "-f", "-", "--server", &server])
            .env("SLUICE_ADMIN_KEY", ADMIN_KEY)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
        assert_eq!(expect(child.wait_with_output().unwrap(), 0), "nothing is different\n");
    });
}

#[test]
fn more_than_one_change_takes_is_applied_in_parts() {
    let gateway = with_keys(Sluice::builder()).start();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "upstreams/u.yaml", "nodes: {\"127.0.0.1:9\": 1}\n");
    for number in 0..150 {
        let text = format!("uri: /{number}\nupstream_id: u\n");
        write(folder.path(), &format!("routes/{number}.yaml"), &text);
    }
    let path = folder.path().to_str().unwrap();
    let applied = run(&gateway, &["apply", "-y", "-f", path]);
    assert!(error(&applied).contains("applied as 2, one after the other"), "{}", error(&applied));
    expect(applied, 0);
    expect(run(&gateway, &["diff", "-f", path]), 0);
    let history: Value = serde_json::from_str(&expect(run(&gateway, &["history", "-o", "json"]), 0)).unwrap();
    assert_eq!(history["total"], 2);
}

#[test]
fn the_command_line_says_what_is_in_its_way() {
    let gateway = with_keys(Sluice::builder()).start();
    let told = |output: Output| {
        let told = error(&output);
        expect(output, 1);
        told
    };
    let wrong = told(run_as(&gateway, "wrong", &["get", "routes"]));
    assert!(wrong.contains("wrong apikey") && wrong.contains("SLUICE_ADMIN_KEY"), "{wrong}");
    let nobody = told(run(&gateway, &["get", "routes", "--server", "http://127.0.0.1:1"]));
    assert!(nobody.contains("no answer from http://127.0.0.1:1"), "{nobody}");
    let tls = told(run(&gateway, &["get", "routes", "--server", "https://127.0.0.1:1"]));
    assert!(tls.contains("http:// only"), "{tls}");
    let none = told(run(&gateway, &["get", "nosuch"]));
    assert!(none.contains("nosuch") && none.contains("stream_routes"), "{none}");
    let climbing = told(run(&gateway, &["get", "routes", ".."]));
    assert!(climbing.contains("wrong route id"), "{climbing}");
    let nothing = told(run(&gateway, &["diff"]));
    assert!(nothing.contains("KIND"), "{nothing}");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "routes/r.yaml", "uri: [\n");
    let path = folder.path().to_str().unwrap();
    let broken = told(run(&gateway, &["apply", "-y", "-f", path]));
    assert!(broken.contains("routes/r.yaml"), "{broken}");
    assert!(run(&gateway, &["--help"]).status.success());
}

#[test]
fn address_and_key_come_from_a_file_as_well() {
    let gateway = with_keys(Sluice::builder()).start();
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("sluice");
    write(&home, "key", &format!("{ADMIN_KEY}\n"));
    write(&home, "client.yaml", &format!("server: {}\nkey_file: key\n", gateway.admin_address()));
    let plain = |arguments: &[&str]| {
        let mut command = Sluice::command(arguments);
        for name in ["SLUICE_ADMIN", "SLUICE_ADMIN_KEY", "SLUICE_CLIENT", "XDG_CONFIG_HOME", "HOME"] {
            command.env_remove(name);
        }
        command
    };
    let output = plain(&["get", "routes"]).env("XDG_CONFIG_HOME", folder.path()).output().unwrap();
    expect(output, 0);
    let file = home.join("client.yaml");
    expect(plain(&["get", "routes", "--client", file.to_str().unwrap()]).output().unwrap(), 0);
    let server = gateway.admin_address().to_string();
    let key = home.join("key");
    let flags = ["get", "routes", "--server", &server, "--key-file", key.to_str().unwrap()];
    expect(plain(&flags).output().unwrap(), 0);
}

#[test]
fn shells_complete_commands_kinds_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = expect(Sluice::command(&["completion", shell]).output().unwrap(), 0);
        for word in ["rollback", "dry-run"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
        // What is made for fish has no arguments, only commands and flags.
        assert!(shell == "fish" || script.contains("stream_routes"), "{shell} does not complete kinds");
    }
    let script = expect(Sluice::command(&["completion", "bash"]).output().unwrap(), 0);
    let mut bash = std::process::Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
}
