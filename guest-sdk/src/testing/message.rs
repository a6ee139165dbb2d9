//! Messages for tests, and how the host packs their heads.

use crate::{Edit, Field};

/// A request for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Request {
    /// `GET` and its like.
    pub method: String,
    /// `https` unless said otherwise.
    pub scheme: String,
    /// `localhost` unless said otherwise.
    pub authority: String,
    /// The path with its query.
    pub target: String,
    /// The client's address; `127.0.0.1` unless said otherwise.
    pub peer: String,
    /// Header fields.
    pub fields: Vec<Field>,
    /// The pieces in which the body comes.
    pub body: Vec<Vec<u8>>,
}

/// A response for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Header fields.
    pub fields: Vec<Field>,
    /// The pieces in which the body comes.
    pub body: Vec<Vec<u8>>,
}

impl Request {
    /// A request without fields and body.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            scheme: "https".to_owned(),
            authority: "localhost".to_owned(),
            target: target.to_owned(),
            peer: "127.0.0.1".to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(Field::new(name, value));
        self
    }

    /// Adds a piece to the body.
    pub fn piece(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body.push(bytes.as_ref().to_vec());
        self
    }

    /// For this host.
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// From this address.
    pub fn peer(mut self, peer: &str) -> Self {
        peer.clone_into(&mut self.peer);
        self
    }

    /// The head as the host packs it, with the fields named in `wanted` alone;
    /// empty means all.
    #[must_use]
    pub fn pack(&self, wanted: &[String]) -> (Vec<u8>, Vec<u32>) {
        let parts = [&self.method, &self.scheme, &self.authority, &self.target, &self.peer];
        pack(parts.map(String::as_bytes), &self.fields, wanted)
    }

    /// The request with these changes.
    ///
    /// # Panics
    ///
    /// On a change that no request can have: the host would fail the call.
    pub fn edited(mut self, edits: &[Edit]) -> Self {
        for edit in edits {
            match edit {
                Edit::SetPath(path) => path.clone_into(&mut self.target),
                Edit::SetAuthority(authority) => authority.clone_into(&mut self.authority),
                Edit::SetMethod(method) => method.clone_into(&mut self.method),
                Edit::SetStatus(status) => panic!("a request has no status to be set to {status}"),
                edit => edit_fields(&mut self.fields, edit),
            }
        }
        self
    }

    /// The value of the first field of this name, as text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        get(&self.fields, name)
    }
}

impl Response {
    /// A response without fields and body.
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new() }
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push(Field::new(name, value));
        self
    }

    /// Adds a piece to the body.
    pub fn piece(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body.push(bytes.as_ref().to_vec());
        self
    }

    /// The head as the host packs it, with the fields named in `wanted` alone;
    /// empty means all.
    #[must_use]
    pub fn pack(&self, wanted: &[String]) -> (Vec<u8>, Vec<u32>) {
        pack([self.status.to_string().as_bytes()], &self.fields, wanted)
    }

    /// The response with these changes.
    ///
    /// # Panics
    ///
    /// On a change that no response can have: the host would fail the call.
    pub fn edited(mut self, edits: &[Edit]) -> Self {
        for edit in edits {
            match edit {
                Edit::SetStatus(status) => self.status = *status,
                Edit::SetPath(_) | Edit::SetAuthority(_) | Edit::SetMethod(_) => {
                    panic!("a response cannot be changed by {edit:?}")
                }
                edit => edit_fields(&mut self.fields, edit),
            }
        }
        self
    }

    /// The value of the first field of this name, as text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        get(&self.fields, name)
    }
}

fn get(fields: &[Field], name: &str) -> Option<String> {
    let field = fields.iter().find(|field| field.name == name)?;
    Some(String::from_utf8_lossy(&field.value).into_owned())
}

fn edit_fields(fields: &mut Vec<Field>, edit: &Edit) {
    match edit {
        Edit::SetField(new) => {
            fields.retain(|field| field.name != new.name);
            fields.push(new.clone());
        }
        Edit::AddField(new) => fields.push(new.clone()),
        Edit::RemoveField(name) => fields.retain(|field| field.name != *name),
        Edit::SetPath(_) | Edit::SetAuthority(_) | Edit::SetMethod(_) | Edit::SetStatus(_) => {}
    }
}

fn pack<const N: usize>(parts: [&[u8]; N], fields: &[Field], wanted: &[String]) -> (Vec<u8>, Vec<u32>) {
    let mut bytes = Vec::new();
    let mut spans = Vec::new();
    let mut add = |part: &[u8]| {
        let number = |length: usize| u32::try_from(length).expect("heads in tests are small");
        spans.extend([number(bytes.len()), number(part.len())]);
        bytes.extend_from_slice(part);
    };
    parts.into_iter().for_each(&mut add);
    for field in fields.iter().filter(|field| wanted.is_empty() || wanted.contains(&field.name)) {
        add(field.name.as_bytes());
        add(&field.value);
    }
    (bytes, spans)
}
