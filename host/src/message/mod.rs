//! What passes through the gateway, as values: heads, bodies' shapes, who the
//! client is, and the variables a rule can name.
//!
//! Reads no socket and no clock. Everything above (`net`, `route`, `filter`,
//! `upstream`, `proxy`) speaks in these types, so no library's own type
//! crosses a module border. Start at [`RequestHead`] and [`ResponseHead`].

mod address_text;
mod addresses;
mod body;
mod client;
mod exchange;
mod fields;
pub mod forwarded;
pub mod fuzz;
mod head;
pub mod path_signature;
mod subject;
mod template;
pub mod trace;
mod transcode;
mod transfer;
mod variable;

pub use address_text::AddressText;
pub use addresses::{AddressError, IpSet};
pub use body::{BodyPart, BodyRead, BodyWrite};
pub use client::{Client, ClientCertificate, TlsClient};
pub use exchange::{BodyLength, Downstream, Moved, RequestShape, UpstreamExchange};
pub use fields::{Field, FieldIndex, Fields, Name, Span};
pub use head::{Method, RequestHead, ResponseHead, Scheme, Version};
pub use subject::{FrameFields, FrameRole, Params, RouteLabels, Stage, Subject, UpstreamView, Value};
pub use template::{Captures, Origin, Template, TemplateError};
pub use transcode::{CallerId, Outgoing, TextMessage, Transcode, TranscodeProblem};
pub use transfer::TransferError;
pub use variable::{FramePart, HeaderKey, TlsPart, Variable, VariableError};
