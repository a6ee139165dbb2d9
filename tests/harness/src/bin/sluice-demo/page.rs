//! The commands to try, what each shows, and the check that it does.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::parts::Place;

/// How long a command may take to show what it promises. It is repeated until
/// then: some of what the page shows follows a change a moment later.
const DEADLINE: Duration = Duration::from_secs(20);

struct Step {
    title: &'static str,
    command: &'static str,
    /// What stands in the command's output.
    shows: &'static str,
}

const fn step(title: &'static str, command: &'static str, shows: &'static str) -> Step {
    Step { title, command, shows }
}

/// Commands run in the demo's folder, with the programs on the path. A step may
/// be run several times.
const STEPS: &[Step] = &[
    step(
        "The page of the chat",
        "curl --cacert ca.pem https://localhost:8443/chat/",
        "Log in with your phone",
    ),
    step(
        "A browser's login: it asks for a code, the terminal client confirms it as the phone of user 7, \
         and the browser has its session",
        "curl -s --cacert ca.pem -c cookies -X POST https://localhost:8443/chat/login/start | \
         grep -o '\"token\":\"[^\"]*' | cut -d'\"' -f4 > code; \
         echo \"/confirm $(cat code)\" | chat --connect 127.0.0.1:9443 --ca ca.pem --user 7; \
         curl --cacert ca.pem -b cookies \"https://localhost:8443/chat/login/poll?token=$(cat code)\"",
        "\"state\":\"confirmed\"",
    ),
    step(
        "What a browser does where WebSocket is blocked: a session that is polled",
        "curl --cacert ca.pem -d '{\"cmd\": 257, \"body\": {\"userId\": 7, \"token\": \"demo-7\"}}' \
         'https://localhost:8443/im?session=new&user=7' > session; field() { grep -o \"\\\"$1\\\":\\\"[^\\\"]*\" session | \
         cut -d'\"' -f4; }; curl --cacert ca.pem -H \"X-Session-Token: $(field token)\" \
         \"https://localhost:8443/im?session=$(field session)&cursor=0&wait=5s\"",
        "\"line\":\"leased\"",
    ),
    step(
        "Where clients connect, the best first",
        "curl --cacert ca.pem https://localhost:8443/chat/access-points",
        "\"region\":\"here\"",
    ),
    step("The PHP site over HTTP/2", "curl --cacert ca.pem -i https://localhost:8443/status", "HTTP/2 200"),
    step(
        "What an upstream receives",
        "curl --cacert ca.pem https://localhost:8443/echo/hello?name=you",
        "X-Real-IP",
    ),
    step("Lines and nodes (with --watch it stays live)", "sluice status --addr 127.0.0.1:9090", "leased"),
    step(
        "Chat: a line is sent, the reply says where you came in. \
         Without the echo it is a chat; open a second one as user 2",
        "echo hello | chat --connect 127.0.0.1:9443 --ca ca.pem --user 1 --to 2",
        "by line leased",
    ),
    step(
        "Cut the IM server's leased line: its connections are reset",
        "curl -X POST http://127.0.0.1:9009/lines/leased/cut",
        "Cut",
    ),
    step(
        "The next login comes by the other line; a chat that is open goes on",
        "echo hello again | chat --connect 127.0.0.1:9443 --ca ca.pem --user 1 --to 2",
        "by line public",
    ),
    step("The status says why", "sluice status --addr 127.0.0.1:9090 --json", "refused"),
    step(
        "Restore it: after three good probes and the hold-down it is taken back",
        "curl -X POST http://127.0.0.1:9009/lines/leased/restore",
        "Serving",
    ),
    step(
        "Logins come by the leased line again",
        "echo back | chat --connect 127.0.0.1:9443 --ca ca.pem --user 1 --to 2",
        "by line leased",
    ),
    step(
        "Kill the site's leased PHP server: no request fails",
        "kill $(cat site-leased.pid) 2>/dev/null; curl --cacert ca.pem https://localhost:8443/status",
        "\"site\":\"php\"",
    ),
    step(
        "Add a route: it is live when the file has its name",
        "printf 'uri: /hello\\nplugins: {mocking: {response_example: new route}}\\n' > conf/routes/.new && \
         mv conf/routes/.new conf/routes/hello.yaml; sleep 0.2; \
         curl --cacert ca.pem https://localhost:8443/hello",
        "new route",
    ),
    step(
        "A bad object is refused by itself, the rest goes on",
        "printf 'uri: /x\\nupstream_id: nobody\\n' > conf/routes/bad.yaml; sleep 0.3; \
         sluice status --addr 127.0.0.1:9090; rm conf/routes/bad.yaml",
        "nobody",
    ),
    step(
        "Swap the certificate: connections that are open keep the old one",
        "cp second-certificate.json conf/ssls/.new && mv conf/ssls/.new conf/ssls/localhost.json; sleep 0.2; \
         openssl s_client -connect localhost:8443 -servername localhost </dev/null 2>/dev/null | \
         openssl x509 -noout -ext subjectAltName",
        "second.demo",
    ),
    step(
        "Over the limit of the echo route",
        "curl --cacert ca.pem -s -o /dev/null -w '%{http_code}\\n' --parallel --parallel-immediate \
         --parallel-max 60 'https://localhost:8443/echo/[1-60]' | sort | uniq -c",
        "429",
    ),
    step(
        "Metrics",
        "curl http://127.0.0.1:9091/metrics | grep -E '^(apisix_http_status|sluice_line_up)'",
        "apisix_http_status",
    ),
    step("The access log", "tail -n 3 access.log", "\"kind\":\"request\""),
];

/// The page for one place.
pub(crate) struct Page {
    folder: String,
    programs: String,
    steps: Vec<(&'static Step, String)>,
    chat: String,
}

impl Page {
    pub(crate) fn new(place: &Place) -> Page {
        let own = std::env::current_exe().expect("a running program has a path");
        let programs = own.parent().unwrap_or(Path::new(".")).display().to_string();
        let steps = STEPS.iter().map(|step| (step, place.with_ports(step.command))).collect();
        let chat = place.with_ports("https://localhost:8443/chat/");
        Page { chat, folder: place.folder().display().to_string(), programs, steps }
    }

    /// Prints it for a person.
    pub(crate) fn print(&self) {
        println!("\nSluice is running. The chat in a browser, which warns of the demo's own certificate:\n");
        println!("  {}", self.chat);
        println!("\nIn another terminal:\n");
        println!("  cd {}", self.folder);
        println!("  export PATH={}:$PATH", self.programs);
        for (at, (step, command)) in self.steps.iter().enumerate() {
            println!("\n{:2}. {}\n  {command}", at + 1, step.title);
        }
        println!("\nLogs and configuration are in that folder. Ctrl-C stops everything.");
    }

    /// Runs every command until it shows what it should.
    pub(crate) fn check(&self, place: &Place) -> ExitCode {
        let mut failed = 0;
        for (step, command) in &self.steps {
            let start = Instant::now();
            let verdict = loop {
                let output = self.run(command);
                if output.contains(step.shows) {
                    break Ok(());
                }
                if start.elapsed() > DEADLINE {
                    break Err(output);
                }
                std::thread::sleep(Duration::from_millis(100));
            };
            match verdict {
                Ok(()) => println!("ok      {}", step.title),
                Err(output) => {
                    failed += 1;
                    println!(
                        "FAILED  {}\n  {command}\n  expected {:?} in:\n{output}",
                        step.title, step.shows
                    );
                }
            }
        }
        if failed == 0 {
            return ExitCode::SUCCESS;
        }
        let log = std::fs::read_to_string(place.file("sluice.log")).unwrap_or_default();
        println!("{failed} commands did not show what the page says. The gateway's log:\n{log}");
        ExitCode::FAILURE
    }

    fn run(&self, command: &str) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("timeout");
        shell.args(["15", "sh", "-c", &format!("{{ {command}; }} 2>&1")]);
        shell.current_dir(&self.folder).env("PATH", format!("{}:{path}", self.programs)).env("NO_PROXY", "*");
        shell.env("no_proxy", "*").stdin(std::process::Stdio::null());
        let output = shell.output().expect("a shell runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
