//! `sluice status`: asks a gateway how it is and shows the answer.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use super::status::Status;
use super::table::{self, Paint};

/// How often `--watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The longest one question may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What `sluice status` was asked to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The gateway's status address.
    pub address: SocketAddr,
    /// Whether to go on asking.
    pub mode: Mode,
    /// How to show it.
    pub form: Form,
}

/// Once or again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Ask once.
    Once,
    /// Ask every second until interrupted.
    Watch,
}

/// How the answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people: a table of 80 columns.
    Table,
    /// For programs: the gateway's answer, one line of JSON.
    Json,
}

/// Exit code: the gateway is ready.
pub const EXIT_READY: u8 = 0;
/// Exit code: it could not be asked.
pub const EXIT_UNREACHABLE: u8 = 1;
/// Exit code: it answered that it is not ready.
pub const EXIT_NOT_READY: u8 = 2;

/// How asking fails.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("no answer from {address}: {source} (is `sluice run` up, and is admin.status this address?)")]
    Unreachable {
        /// Whom we asked.
        address: SocketAddr,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// What answers is no status of a gateway.
    #[error("{address} gives no status of a gateway: {source}")]
    NotAStatus {
        /// Whom we asked.
        address: SocketAddr,
        /// What went wrong.
        source: serde_json::Error,
    },
}

/// Runs the command, writing to stdout and stderr; returns the exit code.
#[must_use]
pub fn run(options: &Options) -> u8 {
    let paint = match io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
    {
        true => Paint::Colour,
        false => Paint::Plain,
    };
    match options.mode {
        Mode::Once => once(options, paint),
        Mode::Watch => watch(options, paint),
    }
}

fn once(options: &Options, paint: Paint) -> u8 {
    match fetch(options.address) {
        Ok((status, text)) => {
            let shown = match options.form {
                Form::Table => table::render(&status, paint),
                Form::Json => text + "\n",
            };
            // A closed pipe (`| head`) is no failure of the gateway.
            let _ = io::stdout().write_all(shown.as_bytes());
            if status.state == "ready" { EXIT_READY } else { EXIT_NOT_READY }
        }
        Err(error) => {
            eprintln!("sluice status: {error}");
            EXIT_UNREACHABLE
        }
    }
}

/// Ends when stdout is closed; an interrupt ends the process.
fn watch(options: &Options, paint: Paint) -> u8 {
    let mut last = String::new();
    let on_screen = options.form == Form::Table && io::stdout().is_terminal();
    let mut begin = if on_screen { "\x1b[2J" } else { "" };
    loop {
        let (text, code) = match fetch(options.address) {
            Ok((status, text)) => {
                last = if options.form == Form::Table { table::render(&status, paint) } else { text + "\n" };
                (last.clone(), EXIT_READY)
            }
            // The last table stays in sight below the error.
            Err(error) if on_screen => (format!("{error}\n\n{last}"), EXIT_UNREACHABLE),
            Err(error) => {
                eprintln!("sluice status: {error}");
                (String::new(), EXIT_UNREACHABLE)
            }
        };
        let shown = if on_screen { frame(begin, &text, rows()) } else { text };
        begin = "";
        let mut out = io::stdout().lock();
        if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
            return code;
        }
        drop(out);
        thread::sleep(WATCH_INTERVAL);
    }
}

/// One picture, drawn over the one before without erasing it first, so that
/// nothing flickers; in one write.
fn frame(begin: &str, text: &str, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let mut frame = format!("{begin}\x1b[H");
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        frame.push_str(line);
        frame.push_str("\x1b[K\r\n");
    }
    if shown < lines.len() {
        frame.push_str(&format!("… {} more lines; sluice status shows all\x1b[K\r\n", lines.len() - shown));
    }
    frame.push_str("\x1b[J");
    frame
}

fn rows() -> usize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_row > 0 => size.ws_row.into(),
        _ => 24,
    }
}

/// Asks once: the status, and the text it was read from.
///
/// # Errors
/// When nobody answers in time, or something else than a gateway.
pub fn fetch(address: SocketAddr) -> Result<(Status, String), ClientError> {
    let unreachable = |source| ClientError::Unreachable { address, source: Box::new(source) };
    let agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).proxy(None).build().new_agent();
    let mut response = agent.get(format!("http://{address}/v1/status")).call().map_err(unreachable)?;
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    let text = body.read_to_string().map_err(unreachable)?;
    match serde_json::from_str(&text) {
        Ok(status) => Ok((status, text)),
        Err(source) => Err(ClientError::NotAStatus { address, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Gateway, NodeInfo, Readiness, ServerLimits, StatusSite, bind, serve};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    struct Fake;

    impl Gateway for Fake {
        fn readiness(&self) -> Readiness {
            Readiness::Ready
        }

        fn status(&self) -> Status {
            let node = NodeInfo { id: "edge-1".into(), ..NodeInfo::default() };
            Status { node, state: "ready".into(), ..Status::default() }
        }
    }

    #[test]
    fn a_gateway_is_asked_over_its_own_server() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        let server = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let site = Arc::new(StatusSite::new(Arc::new(Fake)));
            let serving = serve(listener, site, ServerLimits::default(), until);
            tokio::task::LocalSet::new().block_on(&runtime, serving).unwrap();
        });
        let (status, text) = fetch(address).unwrap();
        assert_eq!((status.node.id.as_str(), status.state.as_str()), ("edge-1", "ready"));
        assert!(!text.contains('\n'));
        stop.cancel();
        server.join().unwrap();
        // Nobody listens there any more.
        let error = fetch(address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no answer from {address}: ")), "{error}");
    }

    #[test]
    fn a_picture_is_drawn_over_the_last_and_fits_the_screen() {
        assert_eq!(frame("", "a\nb\n", 24), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
        let tall = frame("", &"x\n".repeat(100), 10);
        assert_eq!(tall.matches("\r\n").count(), 9);
        assert!(tall.contains("… 92 more lines"), "{tall}");
        assert_eq!(frame("", "a\nb\nc", 1).matches("\r\n").count(), 1);
    }
}
