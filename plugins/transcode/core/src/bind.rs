//! Values from outside the body: of the path, of the query, of the identity.

use crate::fault::{Checked, Fault, Problem, fault};
use crate::plan::{Plan, Request, bind};
use crate::routes::{Binding, decode};
use crate::schema::{Kind, Known, MessageId, MessageType, Schema, Shape};
use crate::settings::Unknown;
use crate::to_wire::{Seen, known_text, text_value};
use crate::wire::{close, open};

/// Values a query may have.
pub(crate) const QUERY_VALUES_MAX: usize = 128;

/// Whether a message's JSON is one value, so that a text can say it.
pub(crate) fn is_textual(message: &MessageType) -> bool {
    matches!(message.known, Known::Timestamp | Known::Duration | Known::FieldMask | Known::Wrapper)
}

/// Writes one value, marking the field of the request it belongs to.
fn put(schema: &Schema, id: MessageId, binding: &[usize], text: &str, out: &mut Vec<u8>) -> Checked {
    let message = schema.message(id);
    let Some((index, inner)) = binding.split_first() else {
        return fault("no field");
    };
    let field = &message.fields[*index];
    let before = out.len();
    field.tag.put(out);
    match field.kind {
        Kind::Message(id) if inner.is_empty() => {
            let start = open(out);
            let message = schema.message(id);
            if message.known == Known::Wrapper {
                let value = &message.fields[0];
                value.tag.put(out);
                text_value(schema, value.kind, text.as_bytes(), out)?;
            } else {
                known_text(message.known, text.as_bytes(), out)?;
            }
            close(out, start);
        }
        Kind::Message(id) => {
            let start = open(out);
            put(schema, id, inner, text, out)?;
            close(out, start);
        }
        kind => {
            let is_default = text_value(schema, kind, text.as_bytes(), out)?;
            if is_default && field.shape == Shape::Implicit {
                out.truncate(before);
            }
        }
    }
    Ok(())
}

/// The values of a path.
pub(crate) fn put_path(
    plan: &Plan,
    request: &Request,
    bindings: &[Binding],
    values: &[&str],
    seen: &mut Seen,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    let message = plan.schema.message(request.message);
    for (binding, value) in bindings.iter().zip(values) {
        let field = &message.fields[binding[0]];
        seen.mark_outside(binding[0], "is set in the path already");
        // Members of one oneof in one path are refused here, too.
        let is_taken = seen.mark_oneof(field) && binding.len() == 1;
        let done = match decode(value, false) {
            _ if is_taken => fault("another field of the same oneof is set already"),
            Ok(text) => put(&plan.schema, request.message, binding, &text, out),
            Err(why) => fault(format_args!("{value:?}: {why}")),
        };
        done.map_err(|fault| in_binding(plan, request.message, binding, fault).into_problem(400))?;
    }
    Ok(())
}

/// The values of a query. A name may come twice where its field is a list.
pub(crate) fn put_query(
    plan: &Plan,
    request: &Request,
    query: &str,
    seen: &mut Seen,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    let message = plan.schema.message(request.message);
    let mut bound: Vec<Binding> = Vec::new();
    for (count, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count == QUERY_VALUES_MAX {
            return Err(Problem::new(400, "", format!("a query of more than {QUERY_VALUES_MAX} values")));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name, true)
            .map_err(|why| Problem::new(400, "", format!("{name:?} in the query: {why}")))?;
        if plan.query_ignore.iter().any(|ignored| *ignored == name) {
            continue;
        }
        let binding = match bind(&plan.schema, request.message, &name) {
            Ok(binding) => binding,
            Err(_) if plan.wire.unknown == Unknown::Ignore => continue,
            Err(why) => {
                return Err(Problem::new(400, crate::fault::shown(&name), format!("{why}, in the query")));
            }
        };
        let is_again = bound.contains(&binding);
        let is_known = bound.iter().any(|other| other[0] == binding[0]);
        let problem = |message: &str| Problem::new(400, crate::fault::shown(&name), message);
        if is_again && !is_list(&plan.schema, request.message, &binding) {
            return Err(problem("is set twice in the query"));
        }
        if request.user_field == Some(binding[0]) {
            return Err(problem("is set from the caller's identity"));
        }
        if !is_known {
            if seen.mark_outside(binding[0], "is set in the query already") {
                return Err(problem("is set in the path already"));
            }
            if seen.mark_oneof(&message.fields[binding[0]]) {
                return Err(problem("another field of the same oneof is set already"));
            }
        }
        let done = match decode(value, true) {
            Ok(text) => put(&plan.schema, request.message, &binding, &text, out),
            Err(why) => fault(format_args!("{value:?}: {why}")),
        };
        done.map_err(|fault| in_binding(plan, request.message, &binding, fault).into_problem(400))?;
        bound.push(binding);
    }
    Ok(())
}

/// The caller's identity, where the request has a field for it.
pub(crate) fn put_user(
    plan: &Plan,
    request: &Request,
    user: Option<u64>,
    seen: &mut Seen,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    let Some(index) = request.user_field else {
        return Ok(());
    };
    let Some(user) = user else {
        return Err(Problem::new(401, "", "this command needs an authenticated caller"));
    };
    let field = &plan.schema.message(request.message).fields[index];
    seen.mark_outside(index, "is set from the caller's identity");
    seen.mark_oneof(field);
    put(&plan.schema, request.message, &[index], itoa::Buffer::new().format(user), out)
        .map_err(|fault| fault.in_field(&field.name).into_problem(400))
}

fn is_list(schema: &Schema, mut id: MessageId, binding: &[usize]) -> bool {
    let mut is_list = false;
    for index in binding {
        let field = &schema.message(id).fields[*index];
        is_list = field.shape == Shape::Repeated;
        if let Kind::Message(inner) = field.kind {
            id = inner;
        }
    }
    is_list
}

#[cold]
fn in_binding(plan: &Plan, id: MessageId, binding: &[usize], fault: Box<Fault>) -> Box<Fault> {
    let Some((index, inner)) = binding.split_first() else {
        return fault;
    };
    let field = &plan.schema.message(id).fields[*index];
    let fault = match field.kind {
        Kind::Message(id) if !inner.is_empty() => in_binding(plan, id, inner, fault),
        _ => fault,
    };
    fault.in_field(&field.name)
}
