//! `wasi:http/incoming-handler` over [`Function`].

use std::marker::PhantomData;

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

use super::Component;
use crate::{Field, Function, Request, Response};

/// The most bytes one write may have, by the interface.
const WRITE_MAX: usize = 4096;

/// The handler of a component. A type of its own, since the trait is another
/// crate's.
pub struct Handler<C>(PhantomData<C>);

impl<C: Component<Plugin: Function>> wasip2::exports::http::incoming_handler::Guest for Handler<C> {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let response = match configured::<C>() {
            Ok(()) => answer::<C>(request),
            Err(error) => {
                crate::error!("no configuration was given, and an empty one is refused: {error}");
                Response::new(500)
            }
        };
        send(response, out);
    }
}

/// Hosts that know nothing of `lifecycle` never configure: an empty configuration
/// then holds.
fn configured<C: Component>() -> Result<(), crate::ConfigError> {
    if C::slot().with_borrow(Option::is_some) {
        return Ok(());
    }
    let (plugin, _) = crate::plugin::configure::<C::Plugin>("{}")?;
    C::slot().set(Some(plugin));
    Ok(())
}

fn answer<C: Component<Plugin: Function>>(incoming: IncomingRequest) -> Response {
    let limit = super::with::<C, _>(|plugin| plugin.body_max());
    let fields = incoming.headers().entries();
    let mut request = Request {
        method: method_name(incoming.method()),
        target: incoming.path_with_query().unwrap_or_else(|| "/".to_owned()),
        authority: incoming.authority().unwrap_or_default(),
        headers: fields
            .into_iter()
            .map(|(name, value)| Field { name: name.to_ascii_lowercase(), value })
            .collect(),
        body: Vec::new(),
    };
    match incoming.consume().map_err(|()| Unread::Broken).and_then(|body| read(&body, limit)) {
        Ok(body) => request.body = body,
        Err(Unread::TooLong) => {
            return Response::new(413).text(format!("the body is longer than {limit} bytes\n"));
        }
        Err(Unread::Broken) => return Response::new(400).text("the body broke off\n"),
    }
    super::with::<C, _>(|plugin| plugin.handle(request))
}

enum Unread {
    TooLong,
    Broken,
}

fn read(body: &IncomingBody, limit: usize) -> Result<Vec<u8>, Unread> {
    let stream = body.stream().map_err(|()| Unread::Broken)?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(_)) => return Err(Unread::Broken),
        }
        if bytes.len() > limit {
            return Err(Unread::TooLong);
        }
    }
}

fn send(response: Response, out: ResponseOutparam) {
    let headers = Fields::new();
    for field in &response.headers {
        if let Err(error) = headers.append(&field.name, &field.value) {
            crate::error!("the field {:?} of the answer is left out: {error}", field.name);
        }
    }
    let outgoing = OutgoingResponse::new(headers);
    if outgoing.set_status_code(response.status).is_err() {
        crate::error!("the answer's status {} is none", response.status);
        let _ = outgoing.set_status_code(500);
    }
    let body = outgoing.body().expect("the body is asked for once");
    ResponseOutparam::set(out, Ok(outgoing));
    {
        let stream = body.write().expect("the stream is asked for once");
        // A client that is gone ends the answer; there is nobody to tell.
        for piece in response.body.chunks(WRITE_MAX) {
            if stream.blocking_write_and_flush(piece).is_err() {
                return;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

fn method_name(method: Method) -> String {
    match method {
        Method::Get => "GET".to_owned(),
        Method::Head => "HEAD".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Connect => "CONNECT".to_owned(),
        Method::Options => "OPTIONS".to_owned(),
        Method::Trace => "TRACE".to_owned(),
        Method::Patch => "PATCH".to_owned(),
        Method::Other(name) => name,
    }
}
