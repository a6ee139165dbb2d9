//! `openssl s_client` as a TLS client.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;

use crate::process::tool;

/// What s_client printed.
#[derive(Debug, Clone)]
pub struct OpensslReply {
    /// Whether the handshake succeeded and the connection ended in order.
    pub success: bool,
    /// Both outputs: certificates, protocol, what the server sent.
    pub text: String,
}

impl OpensslReply {
    /// The text behind `label` on its line, for example `Protocol`.
    pub fn field(&self, label: &str) -> Option<&str> {
        let line = self.text.lines().map(str::trim_start).find(|line| line.starts_with(label))?;
        Some(line[label.len()..].trim_start_matches([' ', ':', '=', ',']).trim())
    }
}

/// Connects with `openssl s_client` and further `arguments`, sends `input` and
/// reads until the server closes, or until the handshake if `input` is empty.
pub fn openssl_client(address: SocketAddr, arguments: &[&str], input: &[u8]) -> OpensslReply {
    let mut command = tool("timeout");
    command.args(["20", "openssl", "s_client", "-connect", &address.to_string()]).args(arguments);
    if !input.is_empty() {
        // Stays after the end of the input, and takes no letter as an order.
        command.args(["-ign_eof", "-nocommands"]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut stdin = child.stdin.take().expect("the input is a pipe");
    // The server may have closed already; what it sent is the answer then.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("openssl ends");
    let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    OpensslReply { success: output.status.success(), text }
}
