//! Heads and fields between our form and that of the `http` crate, which HTTP/2
//! and the handlers of edge functions speak.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::message::{Fields, Name, RequestHead, Scheme};

/// Bytes of a field.
pub(crate) fn field_bytes((name, value): (&HeaderName, &HeaderValue)) -> usize {
    name.as_str().len() + value.len()
}

/// Fields of a received map, in its order.
pub(crate) fn fields_of(map: &HeaderMap) -> Fields {
    let mut fields = Fields::over(Vec::with_capacity(map.iter().map(field_bytes).sum::<usize>() + 128));
    for (name, value) in map {
        fields.append_parsed(name.as_str().as_bytes(), value.as_bytes());
    }
    fields
}

/// Our fields as a map to send, but for those that `is_left_out`: names in lower
/// case, values sharing one buffer.
pub(crate) fn map_of(fields: &Fields, is_left_out: fn(Name) -> bool) -> HeaderMap {
    let text = Bytes::copy_from_slice(fields.text());
    let mut map = HeaderMap::with_capacity(fields.len() + 2);
    for field in fields.table() {
        if is_left_out(field.known) {
            continue;
        }
        let span = field.value.start as usize..(field.value.start + field.value.len) as usize;
        let name = match usual_name(field.known) {
            Some(name) => Ok(name),
            None => HeaderName::from_bytes(field.name.get(fields.text())),
        };
        // A field that such a map cannot carry was refused when it was parsed or
        // set; leaving it out keeps a slip from ending the exchange.
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(text.slice(span))) {
            map.append(name, value);
        }
    }
    map
}

/// The name of a field that most responses have, without parsing it again.
fn usual_name(name: Name) -> Option<HeaderName> {
    use http::header;
    Some(match name {
        Name::ContentLength => header::CONTENT_LENGTH,
        Name::ContentType => header::CONTENT_TYPE,
        Name::ContentEncoding => header::CONTENT_ENCODING,
        Name::Date => header::DATE,
        Name::Server => header::SERVER,
        Name::Location => header::LOCATION,
        _ => return None,
    })
}

/// A request with the method and target of a head and no fields.
///
/// # Errors
/// When the pieces are no URI, which a filter's edit can bring about.
pub(crate) fn request_of<B>(
    head: &RequestHead,
    scheme: Scheme,
    authority: &str,
    body: B,
) -> Result<http::Request<B>, http::Error> {
    let mut target =
        String::with_capacity(head.path().len() + head.query().map_or(0, |query| query.len() + 1));
    target.push_str(head.path());
    if let Some(query) = head.query() {
        target.push('?');
        target.push_str(query);
    }
    let uri =
        http::Uri::builder().scheme(scheme.as_str()).authority(authority).path_and_query(target).build()?;
    let mut request = http::Request::new(body);
    *request.method_mut() = http::Method::from_bytes(head.method.as_str().as_bytes())?;
    *request.uri_mut() = uri;
    Ok(request)
}
