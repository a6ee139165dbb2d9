//! Modules as transcoders of the IM flows.

use std::net::IpAddr;
use std::sync::Arc;

use super::component::Interface;
use super::head::HeadBuffer;
use super::instance::Live;
use super::module::{Plugin, Told, at_once};
use super::{CallError, abi};
use crate::message::{CallerId, Outgoing, RequestHead, TextMessage, Transcode, TranscodeProblem};

/// A module that exports `transcoder`, as the flows ask it.
#[derive(Debug, Clone)]
pub struct Transcoder(Arc<Plugin>);

impl Transcoder {
    /// This module, if it is one that transcodes.
    #[must_use]
    pub fn of(plugin: Arc<Plugin>) -> Option<Self> {
        plugin.component().has(Interface::Transcoder).then_some(Self(plugin))
    }

    /// The module.
    #[must_use]
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.0
    }
}

type Answer<T> = Result<T, TranscodeProblem>;

/// What the module said, or why it said nothing.
fn told<T>((outcome, _): Told<Result<T, abi::TranscodeProblem>>) -> Answer<T> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(problem)) => Err(TranscodeProblem {
            // A status from outside must be one of a failure.
            status: if (400..=599).contains(&problem.status) { problem.status } else { 500 },
            path: problem.path,
            message: problem.message,
        }),
        Err(error) => {
            let status = if error == CallError::Deadline { 504 } else { 503 };
            Err(TranscodeProblem { status, path: String::new(), message: "the transcoder failed".to_owned() })
        }
    }
}

fn outgoing(outgoing: abi::Outgoing) -> Outgoing {
    Outgoing { command: outgoing.command, reply: outgoing.reply, body: outgoing.body }
}

impl Transcode for Transcoder {
    fn encode_request(
        &self,
        head: &RequestHead,
        client: IpAddr,
        body: &[u8],
        user: CallerId,
    ) -> Answer<Outgoing> {
        let mut buffer = HeadBuffer::take();
        buffer.request(head, client, &self.0.interest().request_fields);
        let packed = buffer.head();
        let given = packed.bytes.len() + body.len();
        let act = async |live: &mut Live, deadline| live.encode_request(packed, body, user, deadline).await;
        let answer = at_once(self.0.with(given, act));
        buffer.give_back();
        told(answer).map(outgoing)
    }

    fn decode_reply(&self, request: u32, reply: u32, body: &[u8]) -> Answer<Vec<u8>> {
        let act = async |live: &mut Live, deadline| live.decode_reply(request, reply, body, deadline).await;
        told(at_once(self.0.with(body.len(), act)))
    }

    fn encode_message(&self, text: &[u8], user: CallerId) -> Answer<TextMessage> {
        let act = async |live: &mut Live, deadline| live.encode_message(text, user, deadline).await;
        let answer = at_once(self.0.with(text.len(), act));
        told(answer).map(|message| TextMessage { outgoing: outgoing(message.outgoing), id: message.id })
    }

    fn decode_message(&self, command: u32, id: Option<&str>, body: &[u8]) -> Answer<Vec<u8>> {
        let act = async |live: &mut Live, deadline| live.decode_message(command, id, body, deadline).await;
        told(at_once(self.0.with(body.len(), act)))
    }

    fn text_fields(&self, command: u32, body: &[u8]) -> Answer<Vec<String>> {
        let act = async |live: &mut Live, deadline| live.text_fields(command, body, deadline).await;
        told(at_once(self.0.with(body.len(), act)))
    }
}
