//! A client of the IM server, or of the gateway in front of it.
//!
//! Requests are matched to replies by sequence number, so many may be under way
//! at once; pushes are read with [`ImClient::push`]. Start at
//! [`ImClient::connect`].

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::frame::{Frame, command, decode};
use crate::im::token;
use crate::im_v1::{
    AckReply, AckRequest, ConfirmLoginReply, ConfirmLoginRequest, ContentType, Error, Heartbeat,
    HeartbeatReply, HistoryReply, HistoryRequest, LoginReply, LoginRequest, Message, SendReply, SendRequest,
};

/// How long a request waits for its reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum ImError {
    /// The connection ended.
    #[error("the connection is closed: {0}")]
    Closed(String),
    /// An error frame came back.
    #[error("refused with {:?}: {}", .0.code(), .0.text)]
    Refused(Error),
    /// Nothing came back.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// A reply of another kind, or one that cannot be read, came back.
    #[error("unexpected reply: {0}")]
    Unexpected(String),
    /// The connection could not be made.
    #[error(transparent)]
    Io(#[from] io::Error),
}

type Waiting = Arc<Mutex<HashMap<u16, oneshot::Sender<Frame>>>>;

/// One connection of one user. Closes when dropped.
pub struct ImClient {
    user: u32,
    sequence: AtomicU16,
    client_message_id: AtomicU64,
    outgoing: mpsc::Sender<Bytes>,
    waiting: Waiting,
    pushes: AsyncMutex<mpsc::Receiver<Message>>,
    closed: watch::Receiver<Option<String>>,
    tasks: [JoinHandle<()>; 2],
}

impl ImClient {
    /// Connects `user` over plain TCP; does not log in.
    pub async fn connect(address: SocketAddr, user: u32) -> Result<ImClient, ImError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(ImClient::over(stream, user))
    }

    /// Connects over TLS, verifying the server's name.
    pub async fn connect_tls(
        address: SocketAddr,
        user: u32,
        config: Arc<rustls::ClientConfig>,
        server_name: &str,
    ) -> Result<ImClient, ImError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = rustls::pki_types::ServerName::try_from(server_name.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        Ok(ImClient::over(stream, user))
    }

    /// Connects and logs in.
    pub async fn login_at(
        address: SocketAddr,
        user: u32,
        device: &str,
    ) -> Result<(ImClient, LoginReply), ImError> {
        let client = ImClient::connect(address, user).await?;
        let reply = client.login(device).await?;
        Ok((client, reply))
    }

    /// Speaks over a stream that is connected already.
    pub fn over<S>(stream: S, user: u32) -> ImClient
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, mut write) = tokio::io::split(stream);
        let (outgoing, mut to_write) = mpsc::channel::<Bytes>(1024);
        let (push_sender, pushes) = mpsc::channel(16 * 1024);
        let (closing, closed) = watch::channel(None);
        let waiting = Waiting::default();
        let reader = tokio::spawn({
            let waiting = waiting.clone();
            async move {
                let reason = match read_frames(read, &waiting, &push_sender).await {
                    Ok(()) => "the server closed it".to_owned(),
                    Err(error) => error.to_string(),
                };
                closing.send_replace(Some(reason));
                lock(&waiting).clear();
            }
        });
        let writer = tokio::spawn(async move {
            while let Some(bytes) = to_write.recv().await {
                if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                    return;
                }
            }
            let _ = write.shutdown().await;
        });
        ImClient {
            user,
            sequence: AtomicU16::new(0),
            client_message_id: AtomicU64::new(1),
            outgoing,
            waiting,
            pushes: AsyncMutex::new(pushes),
            closed,
            tasks: [reader, writer],
        }
    }

    /// The user this connection speaks for.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// Why the connection ended; none while it is open.
    pub fn closed(&self) -> Option<String> {
        self.closed.borrow().clone()
    }

    /// Waits until the connection ends; returns the reason.
    pub async fn until_closed(&self) -> String {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the reader stopped".to_owned(),
        }
    }

    /// Logs in with the demo's token.
    pub async fn login(&self, device: &str) -> Result<LoginReply, ImError> {
        let request = LoginRequest {
            user_id: self.user,
            token: token(self.user),
            device: device.to_owned(),
            ..LoginRequest::default()
        };
        self.call(command::LOGIN, command::LOGIN_REPLY, 0, &request).await
    }

    /// Lets a browser in that shows this code, as this client's user.
    pub async fn confirm_login(&self, token: &str) -> Result<(), ImError> {
        let request = ConfirmLoginRequest { token: token.to_owned() };
        let confirmed = self.call(command::CONFIRM_LOGIN, command::CONFIRM_LOGIN_REPLY, 0, &request);
        confirmed.await.map(|ConfirmLoginReply {}| ())
    }

    /// Sends a text under a client message id of its own.
    pub async fn send(&self, to: u32, text: &str) -> Result<SendReply, ImError> {
        let request = SendRequest {
            to,
            client_message_id: self.client_message_id.fetch_add(1, Ordering::Relaxed),
            r#type: ContentType::Text.into(),
            text: text.to_owned(),
            data: Vec::new(),
        };
        self.send_request(&request).await
    }

    /// Sends a message as given.
    pub async fn send_request(&self, request: &SendRequest) -> Result<SendReply, ImError> {
        self.call(command::SEND, command::SEND_REPLY, request.to, request).await
    }

    /// Acknowledges the message and all pushed before it.
    pub async fn acknowledge(&self, message_id: u64) -> Result<AckReply, ImError> {
        self.call(command::ACK, command::ACK_REPLY, 0, &AckRequest { message_id }).await
    }

    /// The newest messages of a conversation, oldest first.
    pub async fn history(&self, conversation_id: u64, limit: u32) -> Result<HistoryReply, ImError> {
        let request = HistoryRequest { conversation_id, before_message_id: 0, limit };
        self.call(command::HISTORY, command::HISTORY_REPLY, 0, &request).await
    }

    /// A heartbeat and its reply.
    pub async fn heartbeat(&self) -> Result<HeartbeatReply, ImError> {
        self.call(command::HEARTBEAT, command::HEARTBEAT_REPLY, 0, &Heartbeat::default()).await
    }

    /// The next push; none when the connection has ended and all are read.
    pub async fn push(&self) -> Option<Message> {
        self.pushes.lock().await.recv().await
    }

    /// Sends one request and waits for the reply of the given kind.
    pub async fn call<R: prost::Message + Default>(
        &self,
        request: u16,
        reply: u16,
        to: u32,
        message: &impl prost::Message,
    ) -> Result<R, ImError> {
        let frame = self.exchange(Frame::new(request, 0, message).between(self.user, to)).await?;
        let read = |error: prost::DecodeError| ImError::Unexpected(error.to_string());
        if frame.command == command::ERROR {
            return Err(ImError::Refused(frame.message().map_err(read)?));
        }
        if frame.command != reply {
            return Err(ImError::Unexpected(format!("command {:#06x}", frame.command)));
        }
        frame.message().map_err(read)
    }

    /// Sends a frame under the next sequence number and waits for the one that
    /// answers it.
    pub async fn exchange(&self, frame: Frame) -> Result<Frame, ImError> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(sequence, answer);
        let outcome = async {
            self.send_bytes(Frame { sequence, ..frame }.to_bytes()).await?;
            // The reader may have ended before this request was entered.
            if let Some(reason) = self.closed() {
                return Err(ImError::Closed(reason));
            }
            match tokio::time::timeout(REPLY_TIMEOUT, answered).await {
                Ok(Ok(frame)) => Ok(frame),
                Ok(Err(_)) => Err(ImError::Closed(self.closed().unwrap_or_default())),
                Err(_) => Err(ImError::Timeout(REPLY_TIMEOUT)),
            }
        }
        .await;
        lock(&self.waiting).remove(&sequence);
        outcome
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&self, bytes: Bytes) -> Result<(), ImError> {
        self.outgoing
            .send(bytes)
            .await
            .map_err(|_| ImError::Closed(self.closed().unwrap_or_else(|| "writing failed".to_owned())))
    }
}

impl Drop for ImClient {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u16, oneshot::Sender<Frame>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_frames<S: AsyncRead>(
    mut read: ReadHalf<S>,
    waiting: &Waiting,
    pushes: &mpsc::Sender<Message>,
) -> io::Result<()> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = decode(&mut buffer).map_err(|error| invalid(error.to_string()))? {
            if frame.command == command::PUSH {
                let message = frame.message().map_err(|error| invalid(error.to_string()))?;
                if pushes.try_send(message).is_err() {
                    return Err(invalid("16384 pushes wait unread".to_owned()));
                }
            } else if let Some(answer) = lock(waiting).remove(&frame.sequence) {
                // Whoever asked may have given up waiting.
                let _ = answer.send(frame);
            }
        }
        if read.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::im::{ImOptions, ImServer, conversation_id};
    use crate::im_v1::ErrorCode;

    async fn server() -> ImServer {
        let any = "127.0.0.1:0".parse().unwrap();
        let lines = vec![("leased".to_owned(), any), ("public".to_owned(), any)];
        ImServer::start(ImOptions { lines, proxy_protocol: true, ..ImOptions::default() }).await.unwrap()
    }

    fn address(server: &ImServer, line: &str) -> SocketAddr {
        server.line(line).unwrap().address()
    }

    #[tokio::test]
    async fn a_message_reaches_the_other_user_by_another_line() {
        let server = server().await;
        let (alice, login) = ImClient::login_at(address(&server, "leased"), 1, "a").await.unwrap();
        assert_eq!((login.line.as_str(), login.client_ip.as_str()), ("leased", "127.0.0.1"));
        let (bob, _) = ImClient::login_at(address(&server, "public"), 2, "b").await.unwrap();
        let sent = alice.send(2, "hello").await.unwrap();
        assert_eq!(sent.pushed, 1);
        let message = bob.push().await.unwrap();
        assert_eq!((message.message_id, message.text.as_str()), (sent.message_id, "hello"));
        assert_eq!(bob.acknowledge(message.message_id).await.unwrap().pending, 0);
        let history = bob.history(conversation_id(1, 2), 0).await.unwrap();
        assert_eq!(history.messages, [message]);
        assert_eq!(server.stats().users[&2].acknowledged, 1);
    }

    #[tokio::test]
    async fn a_proxy_header_names_the_client() {
        let server = server().await;
        let mut stream = TcpStream::connect(address(&server, "leased")).await.unwrap();
        stream.write_all(b"PROXY TCP4 192.0.2.9 10.0.0.1 4711 80\r\n").await.unwrap();
        let login = ImClient::over(stream, 1).login("a").await.unwrap();
        assert_eq!((login.client_ip.as_str(), login.client_port), ("192.0.2.9", 4711));
    }

    #[tokio::test]
    async fn requests_that_may_not_be_are_refused() {
        let server = server().await;
        let client = ImClient::connect(address(&server, "leased"), 1).await.unwrap();
        client.heartbeat().await.unwrap();
        let code = |error: ImError| match error {
            ImError::Refused(error) => error.code(),
            other => panic!("{other}"),
        };
        assert_eq!(code(client.send(2, "early").await.unwrap_err()), ErrorCode::NotLoggedIn);
        client.login("a").await.unwrap();
        let foreign = Frame::new(command::SEND, 0, &SendRequest::default()).between(9, 2);
        let answer: Error = client.exchange(foreign).await.unwrap().message().unwrap();
        assert_eq!(answer.code(), ErrorCode::Forbidden);
        let unknown = client.call::<SendReply>(0x7777, 0, 0, &Heartbeat::default()).await.unwrap_err();
        assert_eq!(code(unknown), ErrorCode::UnknownCommand);
        client.send_bytes(Bytes::from_static(b"junk")).await.unwrap();
        client.until_closed().await;
        assert_eq!(server.stats().protocol_errors, 1);
    }
}
