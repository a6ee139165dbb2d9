//! Debian's etcd, one member or three, on loopback.

use std::process::Command;

use etcd_client::{
    Client, CompactionOptions, ConnectOptions, DeleteOptions, GetOptions, TlsOptions, Txn, TxnOp,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::certificates::{Authority, Identity};
use crate::ports::Port;
use crate::process::{Process, Signal, tool};
use crate::wait::eventually;

/// A cluster that ends with its test.
pub struct Etcd {
    folder: TempDir,
    members: Vec<Member>,
    tls: Option<Tls>,
    runtime: Runtime,
    token: String,
}

struct Tls {
    authority: Authority,
    server: Identity,
    client: Identity,
}

struct Member {
    client: Port,
    peer: Port,
    process: Option<Process>,
}

impl Etcd {
    /// One member.
    pub fn start() -> Etcd {
        Self::with(1, None)
    }

    /// Three members.
    pub fn cluster() -> Etcd {
        Self::with(3, None)
    }

    /// One member that speaks TLS and asks for client certificates of `authority`.
    pub fn tls(authority: Authority) -> Etcd {
        let server = authority.leaf(&["127.0.0.1", "localhost"]);
        let client = authority.client("test");
        Self::with(1, Some(Tls { authority, server, client }))
    }

    fn with(count: usize, tls: Option<Tls>) -> Etcd {
        let member = |_| Member { client: Port::free(), peer: Port::free(), process: None };
        let mut etcd = Etcd {
            folder: tempfile::tempdir().expect("a folder can be made"),
            members: (0..count).map(member).collect(),
            tls,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made"),
            token: format!("test-{}", Port::free().number()),
        };
        (0..count).for_each(|member| etcd.launch(member));
        etcd.until_serving();
        etcd
    }

    /// The boot file's `tls` for this cluster.
    pub fn tls_settings(&self) -> Value {
        let tls = self.tls.as_ref().expect("the cluster speaks TLS");
        json!({"ca": tls.authority.path(), "cert": tls.client.cert_path(), "key": tls.client.key_path()})
    }

    /// The client URLs, as `sluice run --etcd` takes them.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.members.iter().map(|member| format!("{scheme}://{}", member.client.loopback())).collect()
    }

    fn launch(&mut self, number: usize) {
        let urls = self.urls();
        let peer_url = |member: &Member| format!("http://{}", member.peer.loopback());
        let cluster: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(number, member)| format!("m{number}={}", peer_url(member)))
            .collect();
        let member = &self.members[number];
        let mut command = tool("etcd");
        command
            .args(["--name", &format!("m{number}"), "--data-dir"])
            .arg(self.folder.path().join(format!("m{number}")))
            .args(["--listen-client-urls", &urls[number], "--advertise-client-urls", &urls[number]])
            .args(["--listen-peer-urls", &peer_url(member), "--initial-advertise-peer-urls"])
            .arg(peer_url(member))
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-token", &self.token, "--heartbeat-interval", "100"])
            .args(["--election-timeout", "1000", "--logger", "zap"]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(tls.server.cert_path());
            command.arg("--key-file").arg(tls.server.key_path());
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(tls.authority.path());
        }
        let log = self.folder.path().join(format!("m{number}.log"));
        let process = Process::spawn(&format!("etcd m{number}"), command, &log).stop_with(Signal::KILL);
        self.members[number].process = Some(process);
    }

    /// Waits until a write is possible.
    pub fn until_serving(&self) {
        eventually("etcd serves", || {
            let mut ctl = self.ctl();
            let output = ctl.args(["endpoint", "health"]).output().ok()?;
            output.status.success().then_some(())
        });
    }

    /// A member's process.
    pub fn member(&mut self, number: usize) -> &mut Process {
        self.members[number].process.as_mut().expect("the member was started")
    }

    /// Which member leads.
    pub fn leader(&self) -> usize {
        eventually("a leader is known", || {
            let output = self.ctl().args(["endpoint", "status", "-w", "json"]).output().ok()?;
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let urls = self.urls();
            status.as_array()?.iter().find_map(|one| {
                let (member, leader) = (&one["Status"]["header"]["member_id"], &one["Status"]["leader"]);
                if member != leader {
                    return None;
                }
                urls.iter().position(|url| one["Endpoint"] == url.as_str())
            })
        })
    }

    /// Kills a member.
    pub fn kill(&mut self, number: usize) {
        self.member(number).kill();
    }

    /// Starts a member again on its data.
    pub fn restart(&mut self, number: usize) {
        self.launch(number);
    }

    /// Kills a lone member and starts it with nothing: another cluster on the same address.
    pub fn replace_by_empty(&mut self) {
        self.kill(0);
        std::fs::remove_dir_all(self.folder.path().join("m0")).expect("the data can be removed");
        self.token.push('x');
        self.launch(0);
        self.until_serving();
    }

    /// `etcdctl` for this cluster.
    pub fn ctl(&self) -> Command {
        let mut command = tool("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.urls().join(","));
        command.args(["--dial-timeout", "2s", "--command-timeout", "5s"]);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(tls.authority.path());
            command.arg("--cert").arg(tls.client.cert_path()).arg("--key").arg(tls.client.key_path());
        }
        command
    }

    /// Runs `etcdctl` and panics with what it says when it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.ctl().args(arguments).output().expect("etcdctl can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Waits for an answer of a client of its own. A client that met a member
    /// which is gone, or a cluster between two leaders, asks again.
    pub fn with_client<T>(&self, action: impl AsyncFn(&mut Client) -> Result<T, etcd_client::Error>) -> T {
        eventually("an answer of etcd", || match self.try_with_client(&action) {
            Ok(answer) => Some(answer),
            Err(error) if is_unavailable(&error) => None,
            Err(error) => panic!("etcd: {error}"),
        })
    }

    /// As [`Etcd::with_client`], where a failure is expected.
    pub fn try_with_client<T>(
        &self,
        action: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>,
    ) -> Result<T, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_timeout(std::time::Duration::from_secs(4));
        if let Some(tls) = &self.tls {
            let read = |path| std::fs::read(path).expect("the file is there");
            let ca = etcd_client::Certificate::from_pem(read(tls.authority.path()));
            let (cert, key) = (read(tls.client.cert_path()), read(tls.client.key_path()));
            let own = etcd_client::Identity::from_pem(cert, key);
            options = options.with_tls(TlsOptions::new().ca_certificate(ca).identity(own));
        }
        self.runtime.block_on(async {
            let mut client = Client::connect(self.urls(), Some(options)).await?;
            action(&mut client).await
        })
    }

    /// Writes a key, whatever its value; gives the revision.
    pub fn put_raw(&self, key: &str, value: impl Into<Vec<u8>>) -> u64 {
        let value = value.into();
        self.with_client(async |client| {
            let answer = client.put(key, value.clone(), None).await?;
            Ok(answer.header().map_or(0, |header| header.revision() as u64))
        })
    }

    /// Writes an object below `/sluice`.
    pub fn put(&self, kind: &str, id: &str, object: &Value) -> u64 {
        self.put_raw(&format!("/sluice/{kind}/{id}"), object.to_string())
    }

    /// Deletes an object below `/sluice`.
    pub fn delete(&self, kind: &str, id: &str) {
        self.with_client(async |client| client.delete(format!("/sluice/{kind}/{id}"), None).await);
    }

    /// Deletes everything below a prefix at once.
    pub fn delete_prefix(&self, prefix: &str) {
        self.with_client(async |client| {
            client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await
        });
    }

    /// Writes many keys, many at a time.
    pub fn put_all(&self, pairs: Vec<(String, String)>) {
        self.with_client(async |client| {
            let mut tasks = tokio::task::JoinSet::new();
            for (key, value) in pairs.clone() {
                let mut kv = client.kv_client();
                while tasks.len() >= 64 {
                    tasks.join_next().await.expect("one runs").expect("it does not panic")?;
                }
                tasks.spawn(async move { kv.put(key, value, None).await });
            }
            while let Some(done) = tasks.join_next().await {
                done.expect("it does not panic")?;
            }
            Ok(())
        });
    }

    /// Writes several keys in one transaction.
    pub fn put_together(&self, pairs: &[(&str, String)]) {
        let puts: Vec<TxnOp> =
            pairs.iter().map(|(key, value)| TxnOp::put(*key, value.clone(), None)).collect();
        self.with_client(async |client| client.txn(Txn::new().and_then(puts.clone())).await);
    }

    /// Keys below a prefix, with their values and revisions.
    pub fn keys(&self, prefix: &str) -> Vec<(String, String, u64)> {
        self.with_client(async |client| {
            let answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
            Ok(answer
                .kvs()
                .iter()
                .map(|pair| {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    (text(pair.key()), text(pair.value()), pair.mod_revision() as u64)
                })
                .collect())
        })
    }

    /// Forgets what came before now.
    pub fn compact(&self) {
        let revision = self.put_raw("/elsewhere", "x");
        let options = CompactionOptions::new().with_physical();
        self.with_client(async |client| client.compact(revision as i64, Some(options.clone())).await);
    }
}

/// gRPC's status code `UNAVAILABLE`.
const UNAVAILABLE: i32 = 14;

/// Whether no member answered, so that another try may find one.
fn is_unavailable(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() as i32 == UNAVAILABLE)
}
