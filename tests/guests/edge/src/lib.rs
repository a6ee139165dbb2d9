//! An edge function that does what it is asked to, good or bad: the last segment
//! of the path says.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use wasip2::cli::environment::get_environment;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::filesystem::preopens::get_directories;
use wasip2::http::outgoing_handler;
use wasip2::io::streams::StreamError;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};

wasip2::http::proxy::export!(Edge);

struct Edge;

static REQUESTS: AtomicU32 = AtomicU32::new(0);

impl wasip2::exports::http::incoming_handler::Guest for Edge {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match &path[path.rfind('/').unwrap_or(0)..] {
            "/hello" => respond(out, 200, b"hello"),
            "/count" => respond(out, 200, number.to_string().as_bytes()),
            "/echo" => echo(&request, out),
            "/loop" => loop {
                std::hint::black_box(number);
            },
            "/trap" => std::process::abort(),
            "/allocate" => {
                let mut all: Vec<Vec<u8>> = Vec::new();
                loop {
                    all.push(vec![1; 1 << 20]);
                }
            }
            "/recurse" => {
                let depth = recurse(number);
                respond(out, 200, depth.to_string().as_bytes());
            }
            "/silent" => {}
            "/wait" => {
                subscribe_duration(3_600_000_000_000).block();
                respond(out, 200, b"waited");
            }
            "/half" => half(out),
            "/print" => {
                for _ in 0..10_000 {
                    let _ = wasip2::cli::stdout::get_stdout().blocking_write_and_flush(b"line\nwith\r\nbreaks\n");
                }
                respond(out, 200, b"printed");
            }
            "/reach" => {
                let said = match fetch(query) {
                    Ok(status) => format!("status {status}"),
                    Err(error) => error,
                };
                respond(out, 200, said.as_bytes());
            }
            "/see" => {
                let said = format!("{} {}", get_environment().len(), get_directories().len());
                respond(out, 200, said.as_bytes());
            }
            _ => respond(out, 404, b"no such path"),
        }
    }
}

fn respond(out: ResponseOutparam, status: u16, text: &[u8]) {
    let length = text.len().to_string().into_bytes();
    let fields = [("x-edge".to_owned(), b"yes".to_vec()), ("content-length".to_owned(), length)];
    let response = OutgoingResponse::new(Fields::from_list(&fields).unwrap());
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().unwrap();
    stream.write_all(text).unwrap();
    drop(stream);
    OutgoingBody::finish(body, None).unwrap();
}

fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().unwrap();
    let input = incoming.stream().unwrap();
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut output = body.write().unwrap();
    loop {
        match input.blocking_read(16 * 1024) {
            Ok(piece) => output.write_all(&piece).unwrap(),
            Err(StreamError::Closed) => break,
            // The client broke off: so does the answer.
            Err(StreamError::LastOperationFailed(_)) => std::process::abort(),
        }
    }
    drop(output);
    OutgoingBody::finish(body, None).unwrap();
}

/// Begins an answer and traps in the middle of it.
fn half(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().unwrap();
    stream.write_all(&[b'x'; 1000]).unwrap();
    stream.flush().unwrap();
    std::process::abort();
}

#[allow(unconditional_recursion)]
fn recurse(depth: u32) -> u32 {
    let kept = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + kept[(depth % 64) as usize]
}

fn fetch(authority: &str) -> Result<u16, String> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).unwrap();
    request.set_authority(Some(authority)).map_err(|()| "bad authority".to_owned())?;
    request.set_path_with_query(Some("/status")).unwrap();
    let pending = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    pending.subscribe().block();
    let answer = pending.get().ok_or("no answer")?.map_err(|()| "taken".to_owned())?;
    answer.map(|response| response.status()).map_err(|error| format!("{error:?}"))
}
