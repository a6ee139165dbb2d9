//! A reader of HTTP/1.1 requests that takes the grammar of RFC 9112 and nothing
//! else. It shares no code with the gateway: where both agree, a request ends
//! where the standard says.

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target.
    pub target: String,
    /// Fields in order, as they came.
    pub fields: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// The values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match self.all(name).as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// The request at the beginning of `bytes` and how long it is; none while it is
/// not whole.
///
/// # Errors
/// What the grammar does not allow.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((start, mut at)) = line(bytes, 0)? else { return Ok(None) };
    let mut words = start.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(b"HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(format!("bad request line {:?}", text(start)));
    };
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(format!("bad request line {:?}", text(start)));
    }
    let Some((fields, after)) = fields(bytes, at)? else { return Ok(None) };
    at = after;
    let mut request = Request {
        method: text(method),
        target: text(target),
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
    };
    if request.all("host").len() != 1 {
        return Err(format!("{} Host fields", request.all("host").len()));
    }
    match (request.all("content-length").as_slice(), request.all("transfer-encoding").as_slice()) {
        ([], []) => {}
        ([length], []) => {
            let length = number(length, 10).ok_or_else(|| format!("bad length {length:?}"))?;
            let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
            request.body = body.to_vec();
            at += length;
        }
        ([], ["chunked"]) => match chunked(bytes, at)? {
            None => return Ok(None),
            Some((body, trailers, end)) => {
                request.body = body;
                request.trailers = trailers;
                at = end;
            }
        },
        (lengths, codings) => return Err(format!("lengths {lengths:?} and codings {codings:?}")),
    }
    Ok(Some((request, at)))
}

type Fields = Vec<(String, String)>;

fn chunked(bytes: &[u8], mut at: usize) -> Result<Option<(Vec<u8>, Fields, usize)>, String> {
    let mut body = Vec::new();
    loop {
        let Some((size, after)) = line(bytes, at)? else { return Ok(None) };
        let count = number(&text(size), 16).ok_or_else(|| format!("bad chunk size {:?}", text(size)))?;
        at = after;
        if count == 0 {
            return Ok(fields(bytes, at)?.map(|(trailers, end)| (body, trailers, end)));
        }
        let Some(data) = bytes.get(at..at + count + 2) else { return Ok(None) };
        let Some(data) = data.strip_suffix(b"\r\n") else { return Err("chunk without its line end".into()) };
        body.extend_from_slice(data);
        at += count + 2;
    }
}

fn fields(bytes: &[u8], mut at: usize) -> Result<Option<(Fields, usize)>, String> {
    let mut fields = Vec::new();
    loop {
        let Some((field, after)) = line(bytes, at)? else { return Ok(None) };
        at = after;
        if field.is_empty() {
            return Ok(Some((fields, at)));
        }
        let colon = field.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        let is_sound = value.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
        if !is_token(name) || !is_sound {
            return Err(format!("bad field {:?}", text(field)));
        }
        fields.push((text(name), text(value).trim_matches([' ', '\t']).to_owned()));
    }
}

/// The line at `at` without its CR LF, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, String> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    match rest[..end].strip_suffix(b"\r") {
        Some(line) if !line.contains(&b'\r') => Ok(Some((line, at + end + 1))),
        _ => Err(format!("bad line end in {:?}", text(&rest[..=end]))),
    }
}

fn number(digits: &str, radix: u32) -> Option<usize> {
    let is_sound = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    // Larger than any test sends.
    is_sound.then(|| usize::from_str_radix(digits, radix).ok()).flatten().filter(|value| *value < 1 << 30)
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_standard_allows_is_read_and_nothing_else() {
        let whole = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\nGET";
        let (read, end) = request(whole).unwrap().unwrap();
        assert_eq!((read.body.as_slice(), end), (&b"abc"[..], whole.len() - 3));
        assert_eq!(read.trailers, [("T".to_owned(), "1".to_owned())]);
        assert_eq!(request(&whole[..end - 1]).unwrap(), None);
        let bad: [&[u8]; 9] = [
            b"GET  / HTTP/1.1\r\n",
            b"GET / HTTP/1.0\r\n",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n1",
            b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1",
            b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\n folded: 1\r\n\r\n",
        ];
        for bytes in bad {
            assert!(request(bytes).is_err(), "{}", text(bytes));
        }
    }
}
