//! A chat client for the terminal, line by line, so that a script can drive it.
//!
//! A line is sent to the current peer. Lines with a slash are orders; `/help`
//! lists them. When the connection is lost it is made again, and what was
//! missed is shown.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use sluice_services::im::conversation_id;
use sluice_services::im_client::{ImClient, ImError};
use sluice_services::im_v1::Message;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

/// Chats with another user through the gateway or with the IM server itself.
#[derive(Parser)]
struct Arguments {
    /// The gateway's address.
    #[arg(long, default_value = "127.0.0.1:9443")]
    connect: SocketAddr,
    /// The user to log in.
    #[arg(long)]
    user: u32,
    /// The user that lines are sent to.
    #[arg(long)]
    to: Option<u32>,
    /// The device's name; messages it has not seen are shown after the login.
    #[arg(long, default_value = "terminal")]
    device: String,
    /// Speak TLS and trust the authorities in this file (PEM).
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The name expected in the server's certificate.
    #[arg(long, default_value = "localhost")]
    server_name: String,
}

const HELP: &str = "/to USER      send to USER from now on
/confirm CODE let a browser in that shows this code or the link of its picture
/history [N]  the last N messages with the peer (20)
/ping         a heartbeat
/help         this list
/quit         leave";

struct Chat {
    arguments: Arguments,
    tls: Option<Arc<rustls::ClientConfig>>,
    to: Option<u32>,
    last_seen: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let tls = arguments.ca.as_deref().map(sluice_services::tls::client).transpose()?;
    let to = arguments.to;
    let mut chat = Chat { arguments, tls, to, last_seen: 0 };
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut client = chat.log_in().await?;
    loop {
        match chat.talk(&client, &mut input).await? {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(reason) => println!("* connection lost: {reason}"),
        }
        client = chat.come_back().await?;
    }
}

impl Chat {
    async fn log_in(&self) -> Result<ImClient, ImError> {
        let Arguments { connect, user, .. } = self.arguments;
        let client = match &self.tls {
            None => ImClient::connect(connect, user).await?,
            Some(tls) => {
                ImClient::connect_tls(connect, user, tls.clone(), &self.arguments.server_name).await?
            }
        };
        let login = client.login(&self.arguments.device).await?;
        println!("* logged in as {user} from {} by line {}", login.client_ip, login.line);
        Ok(client)
    }

    /// Tries for a minute, with growing pauses.
    async fn come_back(&self) -> Result<ImClient, ImError> {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.log_in().await {
                Ok(client) => return Ok(client),
                Err(error) if pause > Duration::from_secs(30) => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
    }

    /// Break: the user has left. Continue: the connection is lost.
    async fn talk(
        &mut self,
        client: &ImClient,
        input: &mut Lines<BufReader<Stdin>>,
    ) -> Result<ControlFlow<(), String>, ImError> {
        let mut heartbeat = tokio::time::interval(Duration::from_secs(30));
        loop {
            let outcome = tokio::select! {
                pushed = client.push() => match pushed {
                    Some(message) => self.show(client, &message).await,
                    None => return Ok(ControlFlow::Continue(client.until_closed().await)),
                },
                line = input.next_line() => match line? {
                    Some(line) if line.trim() == "/quit" => return Ok(ControlFlow::Break(())),
                    Some(line) => self.obey(client, line.trim()).await,
                    None => return Ok(ControlFlow::Break(())),
                },
                _ = heartbeat.tick() => client.heartbeat().await.map(|_| ()),
            };
            match outcome {
                Ok(()) => {}
                Err(ImError::Refused(error)) => println!("! {:?}: {}", error.code(), error.text),
                Err(error) if client.closed().is_some() => {
                    return Ok(ControlFlow::Continue(error.to_string()));
                }
                Err(error) => println!("! {error}"),
            }
        }
    }

    async fn show(&mut self, client: &ImClient, message: &Message) -> Result<(), ImError> {
        // What was not acknowledged is pushed again after a login.
        if message.message_id > self.last_seen {
            self.last_seen = message.message_id;
            println!("{}> {}", message.from, message.text);
        }
        client.acknowledge(message.message_id).await.map(|_| ())
    }

    async fn obey(&mut self, client: &ImClient, line: &str) -> Result<(), ImError> {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (None, _) => {}
            (Some("/help"), _) => println!("{HELP}"),
            (Some("/ping"), _) => {
                client.heartbeat().await?;
                println!("* pong");
            }
            (Some("/to"), Some(user)) => match user.parse() {
                Ok(user) => {
                    self.to = Some(user);
                    println!("* to {user}");
                }
                Err(_) => println!("! {user} is no user id"),
            },
            (Some("/confirm"), Some(code)) => {
                // The picture has the code behind the last '#'.
                let token = code.rsplit('#').next().unwrap_or(code);
                client.confirm_login(token).await?;
                println!("* confirmed: the browser is logged in as user {}", client.user());
            }
            (Some("/confirm"), None) => println!("! /confirm CODE"),
            (Some("/history"), count) => self.history(client, count).await?,
            (Some(order), _) if order.starts_with('/') => println!("! unknown order, /help lists them"),
            _ => match self.to {
                None => println!("! nobody to send to: /to USER"),
                Some(to) => {
                    let sent = client.send(to, line).await?;
                    println!("* sent {} to {} devices", sent.message_id, sent.pushed);
                }
            },
        }
        Ok(())
    }

    async fn history(&self, client: &ImClient, count: Option<&str>) -> Result<(), ImError> {
        let Some(to) = self.to else {
            println!("! no peer yet: /to USER");
            return Ok(());
        };
        let limit = count.and_then(|count| count.parse().ok()).unwrap_or(20);
        let history = client.history(conversation_id(client.user(), to), limit).await?;
        for message in history.messages {
            println!("{}> {}", message.from, message.text);
        }
        println!("* end of history");
        Ok(())
    }
}
