//! The service behind every proxy: answers from memory over HTTP/1.1 and echoes
//! frames. It reads and writes once a request, into one buffer for all
//! connections, on the thread of the load: that thread never sleeps under load,
//! so that no proxy pays for waking it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::ready;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

/// Where the origin listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// HTTP/1.1: `/small` is answered with 128 bytes, `/large` with 64 KiB.
    pub(crate) http: SocketAddr,
    /// Echoes what it is sent.
    pub(crate) tlv: SocketAddr,
}

/// The path and the size of the small answer.
pub(crate) const SMALL: (&str, usize) = ("/api/v1/orders/small", 128);
/// The path and the size of the large answer.
pub(crate) const LARGE: (&str, usize) = ("/api/v1/orders/large", 64 * 1024);

const BUFFER: usize = 64 * 1024;

type Shared = Rc<RefCell<Vec<u8>>>;

impl Origin {
    /// Starts it on the local tasks of the caller; it runs when they do.
    pub(crate) async fn start() -> Result<Self> {
        let http = listen()?;
        let tlv = listen()?;
        let origin = Self { http: http.local_addr()?, tlv: tlv.local_addr()? };
        let buffer: Shared = Rc::new(RefCell::new(vec![0; BUFFER]));
        let echo_buffer = buffer.clone();
        spawn_local(async move {
            while let Ok((stream, _)) = tlv.accept().await {
                let buffer = echo_buffer.clone();
                spawn_local(async move { echo(stream, buffer).await.ok() });
            }
        });
        spawn_local(async move {
            let answers = Rc::new([answer(SMALL.1), answer(LARGE.1)]);
            while let Ok((stream, _)) = http.accept().await {
                let (buffer, answers) = (buffer.clone(), answers.clone());
                spawn_local(async move { respond(stream, buffer, &answers).await.ok() });
            }
        });
        Ok(origin)
    }
}

fn listen() -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok(socket.listen(4096)?)
}

fn answer(body: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

/// Reads what there is into the buffer of all. It is not held over a wait:
/// whoever awaits this must copy or answer before the next await.
async fn read(stream: &mut TcpStream, shared: &Shared) -> io::Result<usize> {
    poll_fn(|context| {
        let mut memory = shared.borrow_mut();
        let mut buffer = ReadBuf::new(&mut memory);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        Ok(buffer.filled().len()).into()
    })
    .await
}

async fn echo(mut stream: TcpStream, shared: Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let filled = read(&mut stream, &shared).await?;
        if filled == 0 {
            return Ok(());
        }
        let sent = stream.try_write(&shared.borrow()[..filled]).or_else(nothing_yet)?;
        if sent < filled {
            let rest = shared.borrow()[sent..filled].to_vec();
            stream.write_all(&rest).await?;
        }
    }
}

/// Answers every request when it is whole.
async fn respond(mut stream: TcpStream, shared: Shared, answers: &[Vec<u8>; 2]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut partial: Vec<u8> = Vec::new();
    loop {
        let filled = read(&mut stream, &shared).await?;
        if filled == 0 {
            return Ok(());
        }
        let mut wanted = Vec::new();
        {
            let memory = shared.borrow();
            let fresh = &memory[..filled];
            if partial.is_empty() && whole(fresh) == Some(filled) {
                wanted.push(which(fresh));
            } else {
                partial.extend_from_slice(fresh);
                let mut start = 0;
                while let Some(length) = whole(&partial[start..]) {
                    wanted.push(which(&partial[start..]));
                    start += length;
                }
                partial.drain(..start);
            }
        }
        for index in wanted {
            stream.write_all(&answers[index]).await?;
        }
    }
}

/// Bytes of the first request, when it is there with its body.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let length = head + content_length(&bytes[..head]);
    (bytes.len() >= length).then_some(length)
}

fn content_length(head: &[u8]) -> usize {
    // The proxies write it in capitals of their own; the rest is enough to know it.
    let Some(at) = memchr::memmem::find(head, b"ontent-").and_then(|first| {
        memchr::memmem::find_iter(&head[first..], b"ength: ").next().map(|next| first + next + 7)
    }) else {
        return 0;
    };
    let digits = head[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}

fn which(head: &[u8]) -> usize {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    usize::from(memchr::memmem::find(line, LARGE.0.as_bytes()).is_some())
}

fn nothing_yet(error: io::Error) -> io::Result<usize> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body() {
        let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(whole(plain), Some(plain.len()));
        assert_eq!(whole(&plain[..plain.len() - 1]), None);
        for name in ["Content-Length", "content-length"] {
            let posted = format!("POST / HTTP/1.1\r\ncontent-type: text/plain\r\n{name}: 3\r\n\r\nabcGET");
            assert_eq!(whole(posted.as_bytes()), Some(posted.len() - 3));
            assert_eq!(whole(&posted.as_bytes()[..posted.len() - 4]), None);
        }
    }
}
