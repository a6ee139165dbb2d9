//! Header fields as spans of one buffer.
//!
//! A head is one run of bytes and a table of spans into it. Parsing copies
//! nothing, an edit appends to the buffer and repoints a span, and the whole
//! can be handed to a Wasm filter in one piece.

/// A piece of a head's text: offset and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    /// The span of `start..end`.
    #[must_use]
    pub fn of(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Self { start: start as u32, len: (end - start) as u32 }
    }

    /// The bytes of `text` this span covers.
    #[must_use]
    pub fn get(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.start as usize + self.len as usize]
    }
}

/// Where a name is looked for first, by its length and its outer letters; none
/// for an empty one.
const fn place_of(name: &[u8]) -> Option<usize> {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return None };
    let (first, last) = ((*first | 0x20) as usize, (*last | 0x20) as usize);
    Some((name.len() + first * 5 + last * 6) % PLACES_COUNT)
}

/// Whether a name is `known` but for its case, eight bytes at a time. `known` is
/// of lower-case letters and dashes, for which setting one bit is lower case;
/// the only other byte that becomes one of them, CR as a dash, is in no name.
fn is_same_name(name: &[u8], known: &[u8]) -> bool {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    if name.len() != known.len() {
        return false;
    }
    let word = |bytes: &[u8], at: usize| {
        let eight: [u8; 8] = bytes[at..at + 8].try_into().unwrap_or_default();
        u64::from_le_bytes(eight)
    };
    if let Some(last) = name.len().checked_sub(8) {
        let mut at = 0;
        while at < last {
            if word(name, at) | LOWER != word(known, at) {
                return false;
            }
            at += 8;
        }
        return word(name, last) | LOWER == word(known, last);
    }
    name.iter().zip(known).all(|(own, known)| own | 0x20 == *known)
}

/// Many more than there are names, so that few meet.
const PLACES_COUNT: usize = 256;

/// The recognised names at their places; one whose place is taken has the next.
const PLACES: [Option<Name>; PLACES_COUNT] = {
    let mut places = [None; PLACES_COUNT];
    let mut at = 0;
    while at < Name::ALL.len() {
        let name = Name::ALL[at];
        let Some(mut place) = place_of(name.as_str().as_bytes()) else { panic!("a name is not empty") };
        while places[place].is_some() {
            place = (place + 1) % PLACES_COUNT;
        }
        places[place] = Some(name);
        at += 1;
    }
    places
};

macro_rules! names {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// A field name the gateway itself looks for, recognised once when the
        /// head is parsed; every other name is [`Name::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Name { $($variant,)* Other }

        impl Name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Recognises a field name, ignoring case.
            #[inline]
            #[must_use]
            pub fn of(name: &[u8]) -> Self {
                let Some(mut place) = place_of(name) else { return Self::Other };
                while let Some(known) = PLACES[place] {
                    if is_same_name(name, known.as_str().as_bytes()) {
                        return known;
                    }
                    place = (place + 1) % PLACES.len();
                }
                Self::Other
            }

            /// The lower-case spelling; empty for [`Name::Other`].
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Other => "" }
            }
        }
    };
}

names! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method",
    Authorization = "authorization",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Expect = "expect",
    Forwarded = "forwarded",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    KeepAlive = "keep-alive",
    Location = "location",
    Origin = "origin",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
    Referer = "referer",
    Server = "server",
    SluicePath = "x-sluice-path",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Via = "via",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
}

/// One field of a head: its recognised name and its two spans.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The recognised name.
    pub known: Name,
    /// The name as it was received or set.
    pub name: Span,
    /// The value without surrounding white space.
    pub value: Span,
}

/// Room for the fields of most heads, edits included.
const FIELDS_USUAL: usize = 24;

/// The place of a field in its [`Fields`].
pub type FieldIndex = usize;

/// A list of fields in order, over one buffer of text.
///
/// Names keep the spelling they came with; every comparison ignores case.
/// Removing and setting leave dead bytes in the buffer until it is dropped:
/// heads are short-lived and bounded, so that costs nothing that matters.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub(super) text: Vec<u8>,
    /// On the heap: heads are moved by value, and a table inline would be too.
    list: Vec<Field>,
    /// A field was set whose text would break its line on the wire.
    breaks_lines: bool,
}

impl Fields {
    /// Fields over `text`, which already holds the bytes later spans name.
    #[must_use]
    pub fn over(text: Vec<u8>) -> Self {
        Self { text, list: Vec::with_capacity(FIELDS_USUAL), breaks_lines: false }
    }

    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The whole buffer, live and dead bytes alike.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The table of spans.
    #[must_use]
    pub fn table(&self) -> &[Field] {
        &self.list
    }

    /// The bytes of a span of this buffer.
    #[must_use]
    pub fn get(&self, span: Span) -> &[u8] {
        span.get(&self.text)
    }

    /// All fields in order, as name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list.iter().map(|field| (field.name.get(&self.text), field.value.get(&self.text)))
    }

    /// The first value of a recognised name.
    #[must_use]
    pub fn value(&self, name: Name) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// Every value of a recognised name, in order.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        debug_assert!(name != Name::Other);
        self.list.iter().filter(move |field| field.known == name).map(|field| field.value.get(&self.text))
    }

    /// The first value of any name.
    #[must_use]
    pub fn value_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.list.iter().find(|field| self.is_named(field, name)).map(|field| self.get(field.value))
    }

    /// Every value of any name, in order.
    pub fn values_of<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.list.iter().filter(move |field| self.is_named(field, name)).map(|field| self.get(field.value))
    }

    /// Whether a field holds a line end or NUL, or has no name, so that the head
    /// must not be written. Looked at when a field is set: what was parsed has
    /// been looked at by its parser.
    #[must_use]
    pub fn breaks_lines(&self) -> bool {
        self.breaks_lines
    }

    fn look_at(&mut self, name: Span, value: Span) {
        let breaks = |text: &[u8]| memchr::memchr3(b'\r', b'\n', 0, text).is_some();
        let (name, value) = (name.get(&self.text), value.get(&self.text));
        self.breaks_lines |= name.is_empty() || breaks(name) || breaks(value);
    }

    /// Adds a field whose text is already in the buffer.
    pub fn push_spans(&mut self, name: Span, value: Span) {
        self.look_at(name, value);
        let known = Name::of(name.get(&self.text));
        self.list.push(Field { known, name, value });
    }

    /// Adds a field whose text is in the buffer, was parsed, and whose name was
    /// recognised, so that neither need be looked at again.
    pub fn push(&mut self, field: Field) {
        debug_assert_eq!(field.known, Name::of(field.name.get(&self.text)));
        self.list.push(field);
    }

    /// Adds fields whose spans are into `text`, which is copied behind the rest
    /// in one piece. Their text is the caller's own and breaks no line.
    pub fn append_block(&mut self, text: &[u8], table: &[Field]) {
        let base = u32::try_from(self.text.len()).unwrap_or(u32::MAX);
        self.text.extend_from_slice(text);
        let moved = |span: Span| Span { start: span.start + base, len: span.len };
        self.list.extend(table.iter().map(|field| Field {
            known: field.known,
            name: moved(field.name),
            value: moved(field.value),
        }));
    }

    /// Adds a field that came from a parser, which lets nothing pass that would
    /// break its line.
    pub fn append_parsed(&mut self, name: &[u8], value: &[u8]) {
        let known = Name::of(name);
        let (name, value) = (self.store(name), self.store(value));
        self.list.push(Field { known, name, value });
    }

    /// Adds a field at the end, keeping others of its name.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let value = self.store(value);
        self.push_spans(name, value);
    }

    /// Makes `value` the only field of this name, in the place of the first.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let Some(first) = self.position_of(name) else { return self.append(name, value) };
        let span = self.store(value);
        self.look_at(self.list[first].name, span);
        self.list[first].value = span;
        let text = &self.text;
        let mut index = 0;
        self.list.retain(|field| {
            index += 1;
            index <= first + 1 || !field.name.get(text).eq_ignore_ascii_case(name)
        });
    }

    /// Removes every field of this name; says whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.list.len();
        let text = &self.text;
        self.list.retain(|field| !field.name.get(text).eq_ignore_ascii_case(name));
        before != self.list.len()
    }

    /// Removes every field of a recognised name.
    pub fn remove_known(&mut self, name: Name) {
        self.list.retain(|field| field.known != name);
    }

    /// Keeps only the fields `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(Name, &[u8], &[u8]) -> bool) {
        let text = &self.text;
        self.list.retain(|field| keep(field.known, field.name.get(text), field.value.get(text)));
    }

    /// Appends bytes to the buffer and returns their span.
    pub fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        Span::of(start, self.text.len())
    }

    fn position_of(&self, name: &[u8]) -> Option<FieldIndex> {
        self.list.iter().position(|field| self.is_named(field, name))
    }

    fn is_named(&self, field: &Field, name: &[u8]) -> bool {
        field.name.len as usize == name.len() && self.get(field.name).eq_ignore_ascii_case(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn shown(fields: &Fields) -> Vec<(String, String)> {
        fields
            .iter()
            .map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), String::from_utf8_lossy(v).into_owned()))
            .collect()
    }

    #[test]
    fn setting_a_field_replaces_all_of_its_name_in_the_place_of_the_first() {
        let mut fields = fields(&[("A", "1"), ("X", "old"), ("B", "2"), ("x", "older")]);
        fields.set(b"X", b"new");
        let expected = [("A", "1"), ("X", "new"), ("B", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(shown(&fields), expected);
    }

    #[test]
    fn every_name_is_recognised_and_its_like_is_not() {
        for name in Name::ALL {
            let text = name.as_str();
            assert_eq!(Name::of(text.as_bytes()), *name);
            assert_eq!(Name::of(text.to_ascii_uppercase().as_bytes()), *name);
            for at in 0..text.len() {
                let mut other = text.as_bytes().to_vec();
                for byte in (0..=255).filter(|byte: &u8| !byte.eq_ignore_ascii_case(&text.as_bytes()[at])) {
                    other[at] = byte;
                    assert!(byte == b'\r' || Name::of(&other) != *name, "{other:?}");
                }
            }
            assert_eq!(Name::of(&text.as_bytes()[1..]), Name::Other, "{text}");
        }
        assert_eq!(Name::of(b""), Name::Other);
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        let fields = fields(&[("HoSt", "a"), ("x-own", "b")]);
        assert_eq!(fields.value(Name::Host), Some(&b"a"[..]));
        assert_eq!(fields.value_of(b"X-Own"), Some(&b"b"[..]));
    }

    #[test]
    fn removing_says_whether_there_was_one() {
        let mut fields = fields(&[("A", "1")]);
        assert!(fields.remove(b"a"));
        assert!(!fields.remove(b"a"));
        assert!(fields.is_empty());
    }
}
