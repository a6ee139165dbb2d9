//! HTTP/1.x by hand: what is written is exactly what was planned.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use super::plan::{Fault, Plan, filler};
use super::{BODY_SHOWN_MAX, Connection, Seen};

const HEAD_MAX: usize = 8 * 1024 * 1024;

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
}

struct Request {
    seen: Seen,
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
}

struct Io<S> {
    stream: S,
    buffer: BytesMut,
}

pub(super) async fn serve<S>(connection: Connection, stream: S, buffer: BytesMut) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = Io { stream, buffer };
    let mut number = 0;
    loop {
        let Some(mut request) = io.read_head(&connection).await? else { return Ok(()) };
        number += 1;
        request.seen.request = number;
        connection.shared.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let plan = match Plan::parse(&request.seen.target) {
            Ok(plan) => plan,
            Err(reason) => return io.refuse(&connection, &reason).await,
        };
        if !io.answer(&connection, request, plan).await? {
            io.stream.shutdown().await?;
            return Ok(());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    async fn fill(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// None: the client closed between requests.
    async fn read_head(&mut self, connection: &Connection) -> io::Result<Option<Request>> {
        loop {
            match parse_head(&self.buffer, connection) {
                Ok(Some((request, length))) => {
                    self.buffer.advance(length);
                    return Ok(Some(request));
                }
                Ok(None) if self.buffer.len() < HEAD_MAX => {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Ok(None);
                    }
                }
                Ok(None) => return self.refuse(connection, "head too long").await.map(|()| None),
                Err(reason) => return self.refuse(connection, &reason).await.map(|()| None),
            }
        }
    }

    async fn refuse(&mut self, connection: &Connection, reason: &str) -> io::Result<()> {
        connection.shared.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let length = reason.len();
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{reason}"
        );
        self.stream.write_all(answer.as_bytes()).await?;
        self.stream.shutdown().await
    }

    /// Whether another request may follow.
    async fn answer(
        &mut self,
        connection: &Connection,
        mut request: Request,
        plan: Plan,
    ) -> io::Result<bool> {
        if plan.upgrade && request.seen.header("upgrade").is_some() {
            connection.shared.remember(&request.seen);
            return self.upgrade(&request).await;
        }
        for code in &plan.interim {
            let interim = format!("HTTP/1.1 {code} Interim\r\nlink: </style.css>; rel=preload\r\n\r\n");
            self.stream.write_all(interim.as_bytes()).await?;
        }
        if plan.echo {
            return self.echo(connection, request, &plan).await;
        }
        if !plan.early {
            self.read_body(&mut request).await?;
            connection.shared.remember(&request.seen);
        }
        sleep(plan.delay).await;
        let body = match plan.size {
            Some(size) => filler(size),
            None => serde_json::to_vec(&request.seen)?,
        };
        match plan.fault {
            Some(fault) => self.misbehave(fault, &plan, &body).await?,
            None => self.write_answer(&request, &plan, &body).await?,
        }
        if plan.early {
            self.read_body(&mut request).await?;
            connection.shared.remember(&request.seen);
        }
        Ok(request.keep_alive && !plan.close && !matches!(plan.fault, Some(fault) if fault != Fault::Surplus))
    }

    async fn upgrade(&mut self, request: &Request) -> io::Result<bool> {
        let protocol = request.seen.header("upgrade").unwrap_or_default();
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        loop {
            if !self.buffer.is_empty() {
                self.stream.write_all(&self.buffer).await?;
                self.buffer.clear();
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
    }

    async fn go_on(&mut self, request: &mut Request) -> io::Result<()> {
        if std::mem::take(&mut request.expects_continue) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        Ok(())
    }

    async fn read_body(&mut self, request: &mut Request) -> io::Result<()> {
        self.go_on(request).await?;
        let mut reader = BodyReader::new(request.framing);
        while let Some(piece) = reader.next(self).await? {
            note(&mut request.seen, &piece);
        }
        request.seen.trailers = reader.trailers;
        Ok(())
    }

    /// Sends the request's body back in chunks while it arrives.
    async fn echo(&mut self, connection: &Connection, mut request: Request, plan: &Plan) -> io::Result<bool> {
        self.go_on(&mut request).await?;
        let mut head = head(plan.status.unwrap_or(200), plan, request.keep_alive && !plan.close);
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let mut reader = BodyReader::new(request.framing);
        while let Some(piece) = reader.next(self).await? {
            note(&mut request.seen, &piece);
            self.write_chunk(&piece).await?;
        }
        request.seen.trailers = reader.trailers;
        connection.shared.remember(&request.seen);
        self.finish_chunks(plan).await?;
        Ok(request.keep_alive && !plan.close)
    }

    async fn write_answer(&mut self, request: &Request, plan: &Plan, body: &[u8]) -> io::Result<()> {
        let status = plan.status.unwrap_or(200);
        let mut head = head(status, plan, request.keep_alive && !plan.close);
        let bodiless = request.seen.method == "HEAD" || matches!(status, 204 | 304);
        let chunked = plan.chunked.is_some() || !plan.trailers.is_empty();
        if chunked {
            head.push_str("transfer-encoding: chunked\r\n\r\n");
        } else if status == 204 {
            head.push_str("\r\n");
        } else {
            let _ = write!(head, "content-length: {}\r\n\r\n", body.len());
        }
        let together = plan.body_delay.is_zero() && !chunked && !bodiless;
        if together {
            let mut whole = head.into_bytes();
            whole.extend_from_slice(body);
            return self.stream.write_all(&whole).await;
        }
        self.stream.write_all(head.as_bytes()).await?;
        if bodiless {
            return Ok(());
        }
        if !chunked {
            sleep(plan.body_delay).await;
            return self.stream.write_all(body).await;
        }
        for chunk in body.chunks(plan.chunked.unwrap_or(body.len().max(1))) {
            sleep(plan.body_delay).await;
            self.write_chunk(chunk).await?;
        }
        self.finish_chunks(plan).await
    }

    async fn write_chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        self.stream.write_all(&chunk).await
    }

    async fn finish_chunks(&mut self, plan: &Plan) -> io::Result<()> {
        let mut end = String::from("0\r\n");
        for (name, value) in &plan.trailers {
            let _ = write!(end, "{name}: {value}\r\n");
        }
        end.push_str("\r\n");
        self.stream.write_all(end.as_bytes()).await
    }

    async fn misbehave(&mut self, fault: Fault, plan: &Plan, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let half = &body[..length / 2];
        let start = head(plan.status.unwrap_or(200), plan, true);
        let with_length = format!("{start}content-length: {length}\r\n\r\n");
        let with_chunks = format!("{start}transfer-encoding: chunked\r\n\r\n");
        let text = |head: String, body: &[u8]| [head.as_bytes(), body].concat();
        let bytes = match fault {
            Fault::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            Fault::Close => Vec::new(),
            Fault::HalfHead => start.as_bytes()[..start.len() / 2].to_vec(),
            Fault::ResetBody | Fault::ShortBody | Fault::StallBody => text(with_length, half),
            Fault::BadChunk => text(with_chunks, b"5\r\nhello\r\nzz\r\nworld\r\n0\r\n\r\n"),
            Fault::UnfinishedChunks => text(with_chunks, b"5\r\nhello\r\n"),
            Fault::Garbage => b"\x16\x03\x01 this is no http\n\n".to_vec(),
            Fault::TwoLengths => text(
                format!("{start}content-length: {length}\r\ncontent-length: {}\r\n\r\n", length + 1),
                body,
            ),
            Fault::LengthAndChunks => text(
                format!("{start}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n"),
                b"5\r\nhello\r\n0\r\n\r\n",
            ),
            Fault::Nul => text(format!("{start}x-bad: a\0b\r\ncontent-length: {length}\r\n\r\n"), body),
            Fault::BigHead => {
                let field = format!("x-filler: {}\r\n", "f".repeat(4000));
                text(format!("{start}{}content-length: {length}\r\n\r\n", field.repeat(1000)), body)
            }
            Fault::Surplus => {
                text(with_length, &[body, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray"].concat())
            }
            Fault::Silence => Vec::new(),
        };
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        match fault {
            Fault::Silence | Fault::StallBody => self.until_closed().await,
            Fault::ResetBody => {
                // The half has to leave before the reset overtakes it.
                sleep(Duration::from_millis(50)).await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            _ => Ok(()),
        }
    }

    async fn until_closed(&mut self) -> io::Result<()> {
        while self.stream.read_buf(&mut self.buffer).await? > 0 {
            self.buffer.clear();
        }
        Ok(())
    }
}

fn note(seen: &mut Seen, piece: &[u8]) {
    let room = BODY_SHOWN_MAX.saturating_sub(seen.body_bytes as usize);
    seen.body.push_str(&String::from_utf8_lossy(&piece[..piece.len().min(room)]));
    seen.body_bytes += piece.len() as u64;
}

fn head(status: u16, plan: &Plan, keep_alive: bool) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    if plan.size.is_none() && !plan.echo {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in &plan.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !keep_alive {
        head.push_str("connection: close\r\n");
    }
    head
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("Status")
}

fn parse_head(bytes: &[u8], connection: &Connection) -> Result<Option<(Request, usize)>, String> {
    let mut fields = vec![httparse::EMPTY_HEADER; 1024];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let mut seen = connection.template.clone();
    seen.method = parsed.method.unwrap_or_default().to_owned();
    seen.target = parsed.path.unwrap_or_default().to_owned();
    seen.version = format!("HTTP/1.{}", parsed.version.unwrap_or(1));
    seen.headers = parsed
        .headers
        .iter()
        .map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()))
        .collect();
    let framing = framing(&seen)?;
    let connection_says = |word: &str| {
        seen.all("connection").join(",").to_ascii_lowercase().split(',').any(|one| one.trim() == word)
    };
    let keep_alive =
        if seen.version == "HTTP/1.0" { connection_says("keep-alive") } else { !connection_says("close") };
    let expects_continue =
        seen.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    Ok(Some((Request { seen, framing, keep_alive, expects_continue }, length)))
}

fn framing(seen: &Seen) -> Result<Framing, String> {
    let (codings, lengths) = (seen.all("transfer-encoding"), seen.all("content-length"));
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| format!("bad length {length}"))
        }
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        _ => Err(format!("ambiguous length: {codings:?} {lengths:?}")),
    }
}

/// Takes a body off the wire piece by piece.
struct BodyReader {
    framing: Framing,
    /// Bytes left of the body or of the current chunk.
    left: u64,
    done: bool,
    first_chunk: bool,
    trailers: Vec<(String, String)>,
}

impl BodyReader {
    fn new(framing: Framing) -> Self {
        let left = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
        };
        let done = matches!(framing, Framing::Length(0));
        BodyReader { framing, left, done, first_chunk: true, trailers: Vec::new() }
    }

    async fn next<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut Io<S>,
    ) -> io::Result<Option<BytesMut>> {
        if self.done {
            return Ok(None);
        }
        if self.left == 0 && matches!(self.framing, Framing::Chunked) {
            self.next_chunk(io).await?;
            if self.done {
                return Ok(None);
            }
        }
        if io.buffer.is_empty() {
            io.fill().await?;
        }
        let count = io.buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= count as u64;
        self.done = self.left == 0 && matches!(self.framing, Framing::Length(_));
        Ok(Some(io.buffer.split_to(count)))
    }

    async fn next_chunk<S: AsyncRead + AsyncWrite + Unpin>(&mut self, io: &mut Io<S>) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if !std::mem::take(&mut self.first_chunk) && !line(io).await?.is_empty() {
            return Err(invalid("chunk does not end where it should"));
        }
        let size = line(io).await?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(digits, 16).map_err(|_| invalid("bad chunk size"))?;
        if self.left > 0 {
            return Ok(());
        }
        self.done = true;
        loop {
            let field = line(io).await?;
            if field.is_empty() {
                return Ok(());
            }
            let (name, value) = field.split_once(':').ok_or_else(|| invalid("bad trailer"))?;
            self.trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}

async fn line<S: AsyncRead + AsyncWrite + Unpin>(io: &mut Io<S>) -> io::Result<String> {
    loop {
        if let Some(end) = io.buffer.windows(2).position(|pair| pair == b"\r\n") {
            let line = io.buffer.split_to(end);
            io.buffer.advance(2);
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if io.buffer.len() > 64 * 1024 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        io.fill().await?;
    }
}
