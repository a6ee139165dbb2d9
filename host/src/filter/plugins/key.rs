//! The keys limits count by.

use serde::Deserialize;
use smallvec::SmallVec;

use crate::filter::build::{BuildContext, Built, FieldError};
use crate::message::{Captures, FramePart, Stage, Subject, Template, Variable};

/// Room for a key; longer ones go to the heap.
pub(super) type KeyBuffer = SmallVec<[u8; 96]>;

/// The longest key that is kept as it is. A longer one counts as its first
/// bytes and a hash of the whole, so that no client makes tables big.
const KEY_MAX: usize = 256;

/// `key_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyType {
    #[default]
    Var,
    VarCombination,
    Constant,
}

/// What a limit counts by.
#[derive(Debug)]
pub(super) enum LimitKey {
    Variable(Variable),
    Combination(Template),
    Constant(Box<[u8]>),
}

impl LimitKey {
    pub(super) fn parse(
        field: &str,
        text: &str,
        kind: KeyType,
        stage: Stage,
        context: &BuildContext<'_>,
    ) -> Built<Self> {
        let fail = |message: &dyn ToString| FieldError::with(field, text, message.to_string());
        if text.is_empty() {
            return Err(fail(&"must not be empty"));
        }
        Ok(match kind {
            KeyType::Var => {
                let variable = Variable::parse(text, stage).map_err(|error| fail(&error))?;
                if let Variable::Frame(FramePart::Field(name)) = &variable
                    && !context.frame_fields.contains(&&**name)
                {
                    return Err(fail(&format_args!("the frame format has no field {name:?}")));
                }
                Self::Variable(variable)
            }
            KeyType::VarCombination => {
                Self::Combination(Template::parse(text, stage, Captures::None).map_err(|error| fail(&error))?)
            }
            KeyType::Constant => Self::Constant(text.as_bytes().into()),
        })
    }

    pub(super) fn needs_body(&self) -> bool {
        match self {
            Self::Variable(variable) => variable.needs_body(),
            Self::Combination(template) => template.needs_body(),
            Self::Constant(_) => false,
        }
    }

    /// Appends the key of a subject; says whether it is the wanted one. Where
    /// no variable has a value it is the client's address, as in APISIX.
    pub(super) fn fill(&self, subject: &Subject<'_>, out: &mut KeyBuffer) -> bool {
        let from = out.len();
        let is_found = match self {
            Self::Variable(variable) => variable.read(subject).is_some_and(|value| {
                out.extend_from_slice(&value);
                true
            }),
            Self::Combination(template) => template.fill(subject, out) > 0,
            Self::Constant(text) => {
                out.extend_from_slice(text);
                true
            }
        };
        if !is_found {
            out.truncate(from);
            if let Some(value) = Variable::RemoteAddr.read(subject) {
                out.extend_from_slice(&value);
            }
        }
        if out.len() - from > KEY_MAX {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &out[from..]);
            out.truncate(from + KEY_MAX - digest.as_ref().len());
            out.extend_from_slice(digest.as_ref());
        }
        is_found
    }
}

/// Refuses the policies that need a Redis, before its fields are unknown ones.
pub(super) fn check_policy(config: &serde_json::Value) -> Built<()> {
    match config.get("policy") {
        None => Ok(()),
        Some(policy) if policy == "local" => Ok(()),
        Some(policy) => Err(FieldError::with(
            "policy",
            policy.clone(),
            "only \"local\" is offered: counters are kept in the memory of each node",
        )),
    }
}
