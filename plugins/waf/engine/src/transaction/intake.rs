//! Takes apart requests and responses.

use super::{Item, RequestHead, ResponseHead, Transaction};
use crate::body::urlencoded::{self, Plus};
use crate::body::{json, multipart, xml};
use crate::program::Kind;
use crate::text::table::TextId;

/// The most bytes that names and values of arguments may take together. JSON
/// repeats long names with every value, so a small body can come to much.
const ARGUMENTS_BYTES_MAX: usize = 8 << 20;

/// Where arguments come from.
#[derive(Clone, Copy)]
enum Origin {
    Query,
    Body,
}

impl Transaction {
    fn put(&mut self, kind: Kind, name: &[u8], text: &[u8]) {
        let item = Item { name: self.texts.intern(name), text: self.texts.intern(text) };
        self.values[kind as usize].push(item);
    }

    fn put_one(&mut self, kind: Kind, text: &[u8]) {
        self.put(kind, b"", text);
    }

    /// Adds an argument; says whether there is room for more.
    fn argument(&mut self, origin: Origin, name: &[u8], value: &[u8]) -> bool {
        self.head.arguments += 1;
        self.head.arguments_bytes += name.len() + value.len();
        if self.head.arguments > self.options.arguments_max || self.head.arguments_bytes > ARGUMENTS_BYTES_MAX
        {
            self.head.too_many_arguments = true;
            return false;
        }
        let (values, names) = match origin {
            Origin::Query => (Kind::ArgsGet, Kind::ArgsGetNames),
            Origin::Body => (Kind::ArgsPost, Kind::ArgsPostNames),
        };
        let name = self.texts.intern(name);
        let text = self.texts.intern(value);
        self.values[values as usize].push(Item { name, text });
        self.values[names as usize].push(Item { name, text: name });
        true
    }

    pub(super) fn take_request_head(&mut self, head: &RequestHead<'_>) {
        self.head.client.push_str(head.client);
        self.head.unique_id.push_str(head.unique_id);
        self.put_one(Kind::RequestMethod, head.method);
        self.put_one(Kind::RequestProtocol, head.protocol);
        self.put_one(Kind::RequestLine, &[head.method, b" ", head.uri, b" ", head.protocol].concat());
        self.head.length = head.method.len() + head.uri.len() + head.protocol.len() + 4;
        self.take_uri(head.uri);
        for (name, value) in head.headers {
            self.head.length += name.len() + value.len() + 4;
            let name_text = self.texts.intern(name);
            let text = self.texts.intern(value);
            self.values[Kind::RequestHeaders as usize].push(Item { name: name_text, text });
            self.values[Kind::RequestHeadersNames as usize].push(Item { name: name_text, text: name_text });
            if name.eq_ignore_ascii_case(b"cookie") {
                self.take_cookies(value);
            } else if name.eq_ignore_ascii_case(b"content-type") && self.body.content_type.is_empty() {
                self.body.content_type.extend_from_slice(value);
                self.body.processor.push_str(processor(value));
            } else if name.eq_ignore_ascii_case(b"host") && self.head.server_name.is_empty() {
                let host = String::from_utf8_lossy(value);
                let name = host.rsplit_once(':').map_or(&*host, |(name, port)| {
                    if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { &*host }
                });
                self.head.server_name.push_str(name);
            }
        }
    }

    fn take_uri(&mut self, uri: &[u8]) {
        self.put_one(Kind::RequestUriRaw, uri);
        let local = without_origin(uri);
        let (path, query) = match local.iter().position(|&byte| byte == b'?') {
            Some(at) => (&local[..at], &local[at + 1..]),
            None => (local, &b""[..]),
        };
        let path = &path[..path.iter().position(|&byte| byte == b'#').unwrap_or(path.len())];
        let mut decoded = Vec::with_capacity(local.len());
        urlencoded::decode(local, &mut decoded, Plus::Plus);
        self.put_one(Kind::RequestUri, &decoded);
        decoded.clear();
        urlencoded::decode(path, &mut decoded, Plus::Plus);
        self.put_one(Kind::RequestFilename, &decoded);
        let basename = decoded.iter().rposition(|byte| matches!(byte, b'/' | b'\\')).map_or(0, |at| at + 1);
        self.put_one(Kind::RequestBasename, &decoded[basename..]);
        self.put_one(Kind::QueryString, query);
        if !query.is_empty() {
            let separator = self.program.separator;
            let well_formed = urlencoded::read(query, separator, &mut |name, value| {
                self.argument(Origin::Query, name, value)
            });
            self.head.query_malformed = !well_formed;
        }
    }

    fn take_cookies(&mut self, header: &[u8]) {
        for pair in
            header.split(|&byte| byte == b';').map(<[u8]>::trim_ascii_start).filter(|pair| !pair.is_empty())
        {
            let (name, value) = match pair.iter().position(|&byte| byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            self.put(Kind::Cookies, name, value);
            self.put(Kind::CookiesNames, name, name);
        }
    }

    pub(super) fn take_request_body(&mut self, body: &[u8]) {
        if body.is_empty() || !self.wants_request_body() {
            return;
        }
        self.body.length = body.len();
        let processor = std::mem::take(&mut self.body.processor);
        // Where a body is not what it claims to be, rules see it as it is.
        let readable = match processor.as_str() {
            "URLENCODED" => {
                let separator = self.program.separator;
                let well_formed = urlencoded::read(body, separator, &mut |name, value| {
                    self.argument(Origin::Body, name, value)
                });
                self.body.malformed = !well_formed;
                false
            }
            "JSON" => {
                let result = json::read(body, &mut |name, value| self.argument(Origin::Body, name, value));
                // A body that was cut cannot end well.
                self.body.error =
                    result.err().filter(|_| !self.body.truncated).map(|error| format!("JSON: {error}"));
                false
            }
            "XML" => self.take_xml(body),
            "MULTIPART" => self.take_multipart(body),
            _ => false,
        };
        self.body.processor = processor;
        if !readable || self.body.forced {
            self.put_one(Kind::RequestBody, body);
        }
    }

    fn take_xml(&mut self, body: &[u8]) -> bool {
        let document = xml::read(body);
        self.put_one(Kind::XmlText, &document.text);
        for value in &document.attributes {
            self.head.arguments_bytes += value.len();
            if self.head.arguments_bytes > ARGUMENTS_BYTES_MAX {
                break;
            }
            self.put_one(Kind::XmlAttributes, value);
        }
        let error = document.error.filter(|_| !self.body.truncated);
        self.body.error = error.map(|error| format!("XML: {error}"));
        error.is_none()
    }

    fn take_multipart(&mut self, body: &[u8]) -> bool {
        let form = multipart::read(&self.body.content_type, body);
        self.body.flags = Some(form.flags);
        for part in &form.parts {
            for header in &part.headers {
                self.put(Kind::MultipartPartHeaders, &part.name, header);
            }
            match &part.filename {
                Some(filename) => {
                    self.put(Kind::Files, &part.name, filename);
                    self.put(Kind::FilesNames, &part.name, &part.name);
                    if self.program.phases[1].kinds[Kind::FilesContent as usize].used {
                        self.put(Kind::FilesContent, &part.name, &part.content);
                    }
                    let name = self.texts.intern(&part.name);
                    self.body.file_sizes.push((name, part.content.len()));
                }
                None => {
                    if !self.argument(Origin::Body, &part.name, &part.content) {
                        break;
                    }
                }
            }
        }
        let error = form.error.filter(|_| !self.body.truncated);
        self.body.error = error.map(|error| format!("multipart: {error}"));
        error.is_none()
    }

    pub(super) fn take_response_head(&mut self, head: &ResponseHead<'_>) {
        self.response.status = Some(head.status);
        self.response.protocol.extend_from_slice(head.protocol);
        for (name, value) in head.headers {
            self.put(Kind::ResponseHeaders, name, value);
            self.put(Kind::ResponseHeadersNames, name, name);
        }
    }

    pub(super) fn take_response_body(&mut self, body: &[u8]) {
        self.response.length = Some(body.len());
        if self.program.response_body {
            self.put_one(Kind::ResponseBody, body);
        }
    }

    /// The first header of the request, or of the response, with this name.
    pub(super) fn header(&self, kind: Kind, name: &[u8]) -> Option<TextId> {
        let items = &self.values[kind as usize];
        items.iter().find(|item| self.texts.get(item.name).eq_ignore_ascii_case(name)).map(|item| item.text)
    }
}

/// The body's reader, by the type it came with.
fn processor(content_type: &[u8]) -> &'static str {
    let end =
        content_type.iter().position(|byte| matches!(byte, b';' | b',' | b' ')).unwrap_or(content_type.len());
    let kind = content_type[..end].trim_ascii().to_ascii_lowercase();
    match kind.as_slice() {
        b"application/x-www-form-urlencoded" => "URLENCODED",
        b"multipart/form-data" => "MULTIPART",
        b"text/json" => "JSON",
        b"text/xml" => "XML",
        kind if kind.ends_with(b"/json") || kind.ends_with(b"+json") => "JSON",
        kind if kind.ends_with(b"/xml") || kind.ends_with(b"+xml") => "XML",
        _ => "",
    }
}

/// A URI's path and query.
fn without_origin(uri: &[u8]) -> &[u8] {
    if uri.first() == Some(&b'/') {
        return uri;
    }
    let Some(scheme) = uri.windows(3).position(|window| window == b"://") else { return uri };
    if !uri[..scheme].iter().all(u8::is_ascii_alphanumeric) {
        return uri;
    }
    let rest = &uri[scheme + 3..];
    rest.iter().position(|byte| matches!(byte, b'/' | b'?')).map_or(b"/", |at| &rest[at..])
}
