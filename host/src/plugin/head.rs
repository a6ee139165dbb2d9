//! Heads in one piece: a buffer of text and a table of spans.

use std::cell::RefCell;
use std::net::IpAddr;

use super::Head;
use crate::message::{AddressText, Fields, RequestHead, ResponseHead};

/// A head being packed; kept by its thread for the next one.
#[derive(Debug, Default)]
pub struct HeadBuffer {
    bytes: Vec<u8>,
    spans: Vec<u32>,
}

/// A buffer that grew beyond this is not kept.
const KEPT_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SPARE: RefCell<HeadBuffer> = RefCell::default();
}

impl HeadBuffer {
    /// This thread's buffer, or a new one while that is in use.
    #[must_use]
    pub fn take() -> Self {
        SPARE.with_borrow_mut(std::mem::take)
    }

    /// Keeps it for the next head.
    pub fn give_back(self) {
        if self.bytes.capacity() <= KEPT_BYTES_MAX {
            SPARE.with_borrow_mut(|spare| *spare = self);
        }
    }

    /// What is in it.
    #[must_use]
    pub fn head(&self) -> Head<'_> {
        Head { bytes: &self.bytes, spans: &self.spans }
    }

    /// Packs a request, with the fields that are wanted; none named means all.
    pub fn request(&mut self, request: &RequestHead, client: IpAddr, wanted: &[String]) {
        self.clear();
        self.text(request.method.as_str().as_bytes());
        self.text(request.scheme.as_str().as_bytes());
        self.text(request.authority().as_bytes());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(request.path().as_bytes());
        if let Some(query) = request.query() {
            self.bytes.push(b'?');
            self.bytes.extend_from_slice(query.as_bytes());
        }
        self.span(start);
        self.text(&AddressText::of(client)[..]);
        self.fields(&request.fields, wanted);
    }

    /// Packs a response.
    pub fn response(&mut self, head: &ResponseHead, wanted: &[String]) {
        self.clear();
        self.text(itoa::Buffer::new().format(head.status).as_bytes());
        self.fields(&head.fields, wanted);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    fn fields(&mut self, fields: &Fields, wanted: &[String]) {
        for (name, value) in fields.iter() {
            if !wanted.is_empty() && !wanted.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes())) {
                continue;
            }
            let start = self.bytes.len();
            self.bytes.extend(name.iter().map(u8::to_ascii_lowercase));
            self.span(start);
            self.text(value);
        }
    }

    fn text(&mut self, text: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        self.span(start);
    }

    fn span(&mut self, start: usize) {
        // Heads are bounded far below 4 GiB.
        self.spans.push(start as u32);
        self.spans.push((self.bytes.len() - start) as u32);
    }
}
