//! Requests and clients for unit tests.

use std::net::SocketAddr;

use crate::message::{Client, Fields, Method, RequestHead, Scheme, Version};

/// A client at `address`.
pub(crate) fn client(address: &str) -> Client {
    let address: SocketAddr = address.parse().unwrap();
    Client { peer: address, address, local: "198.51.100.1:8443".parse().unwrap(), tls: None, path: None }
}

/// A request in the making.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: Method,
    scheme: Scheme,
    host: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn get(target: &str) -> Self {
        Self {
            method: Method::Get,
            scheme: Scheme::Http,
            host: "shop.example".to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = Method::of(method);
        self
    }

    pub(crate) fn https(mut self) -> Self {
        self.scheme = Scheme::Https;
        self
    }

    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = host.to_owned();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn head(&self) -> RequestHead {
        let mut fields = Fields::default();
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let authority = fields.store(self.host.as_bytes());
        let path = fields.store(path.as_bytes());
        let query = query.map(|query| {
            fields.store(b"?");
            fields.store(query.as_bytes())
        });
        for (name, value) in &self.headers {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        RequestHead::new(self.method.clone(), Version::Http11, self.scheme, authority, path, query, fields)
    }
}
