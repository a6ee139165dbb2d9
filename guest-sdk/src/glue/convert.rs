//! Types of this crate as those of the bindings.

use super::imports::sluice::plugin::types as wit;
use super::{wit_frames, wit_lifecycle, wit_transcoder};
use crate::{
    ChunkVerdict, Denial, Edit, Field, FrameVerdict, HeadVerdict, Interest, Message, Outgoing, OverLimit,
    Phase, Problem,
};

impl From<Field> for wit::Field {
    fn from(field: Field) -> Self {
        Self { name: field.name, value: field.value }
    }
}

impl From<wit::Field> for Field {
    fn from(field: wit::Field) -> Self {
        Self { name: field.name, value: field.value }
    }
}

impl From<Edit> for wit::Edit {
    fn from(edit: Edit) -> Self {
        match edit {
            Edit::SetField(field) => Self::SetField(field.into()),
            Edit::AddField(field) => Self::AddField(field.into()),
            Edit::RemoveField(name) => Self::RemoveField(name),
            Edit::SetPath(path) => Self::SetPath(path),
            Edit::SetAuthority(authority) => Self::SetAuthority(authority),
            Edit::SetMethod(method) => Self::SetMethod(method),
            Edit::SetStatus(status) => Self::SetStatus(status),
        }
    }
}

impl From<Denial> for wit::Denial {
    fn from(denial: Denial) -> Self {
        Self {
            status: denial.status,
            rule: denial.rule,
            headers: denial.headers.into_iter().map(Into::into).collect(),
            body: denial.body,
        }
    }
}

impl From<HeadVerdict> for wit::HeadVerdict {
    fn from(verdict: HeadVerdict) -> Self {
        match verdict {
            HeadVerdict::Accept => Self::Accept,
            HeadVerdict::Done => Self::Done,
            HeadVerdict::Edit(edits) => Self::Edit(edits.into_iter().map(Into::into).collect()),
            HeadVerdict::Deny(denial) => Self::Deny(denial.into()),
        }
    }
}

impl From<ChunkVerdict> for wit::ChunkVerdict {
    fn from(verdict: ChunkVerdict) -> Self {
        match verdict {
            ChunkVerdict::Forward => Self::Forward,
            ChunkVerdict::Hold => Self::Hold,
            ChunkVerdict::Replace(bytes) => Self::Replace(bytes),
            ChunkVerdict::Deny(denial) => Self::Deny(denial.into()),
        }
    }
}

impl From<FrameVerdict> for wit_frames::FrameVerdict {
    fn from(verdict: FrameVerdict) -> Self {
        match verdict {
            FrameVerdict::Pass => Self::Pass,
            FrameVerdict::Drop(word) => Self::Drop(word),
            FrameVerdict::Rewrite(body) => Self::Rewrite(body),
            FrameVerdict::Reply(bytes) => Self::Reply(bytes),
            FrameVerdict::Close(word) => Self::Close(word),
        }
    }
}

impl From<Interest> for wit_lifecycle::Interest {
    fn from(interest: Interest) -> Self {
        use wit_lifecycle::Phases;
        let phases = interest.phases.iter().fold(Phases::empty(), |phases, phase| {
            phases
                | match phase {
                    Phase::RequestHead => Phases::REQUEST_HEAD,
                    Phase::RequestBody => Phases::REQUEST_BODY,
                    Phase::ResponseHead => Phases::RESPONSE_HEAD,
                    Phase::ResponseBody => Phases::RESPONSE_BODY,
                    Phase::Frames => Phases::FRAMES,
                }
        });
        Self {
            phases,
            request_fields: interest.request_fields,
            response_fields: interest.response_fields,
            request_body_max: interest.request_body_max,
            response_body_max: interest.response_body_max,
            over_limit: match interest.over_limit {
                OverLimit::Deny => wit_lifecycle::OverLimit::Deny,
                OverLimit::Truncate => wit_lifecycle::OverLimit::Truncate,
            },
            commands: interest.commands,
            timer_interval: u32::try_from(interest.timer_interval.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl From<Outgoing> for wit_transcoder::Outgoing {
    fn from(outgoing: Outgoing) -> Self {
        Self { command: outgoing.command, reply: outgoing.reply, body: outgoing.body }
    }
}

impl From<Message> for wit_transcoder::Message {
    fn from(message: Message) -> Self {
        Self { outgoing: message.outgoing.into(), id: message.id }
    }
}

impl From<Problem> for wit_transcoder::Problem {
    fn from(problem: Problem) -> Self {
        Self { status: problem.status, path: problem.path, message: problem.message }
    }
}
