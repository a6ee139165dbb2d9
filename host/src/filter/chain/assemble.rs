//! How a chain is put together of the plugins of an object.

use super::{CONSUMER, Chain, Link, LocalBody, ROUTE, transcoder_of};
use crate::config::Problem;
use crate::config::objects::{BUILT_IN_PLUGINS, Plugins};
use crate::filter::build::{BuildContext, ChainKind, FieldError, FoundModule, ModuleSource};
use crate::filter::exchange::Word;
use crate::filter::module::{MissingModule, ModuleFilter};
use crate::filter::plugins::{self, Filter, Phase};
use crate::filter::verdict::{BodyInterest, Longer};
use crate::message::Stage;
use crate::route::Expression;

/// The most filters of one chain.
const LINKS_MAX: usize = 64;
/// The most of a request's body that is held back for filters, in bytes.
pub(super) const REQUEST_BODY_MAX: usize = 1 << 20;

impl Chain {
    /// Builds the chain of merged plugins. What a filter of `previous` counts is
    /// carried over when its configuration is unchanged.
    ///
    /// # Errors
    /// One problem for each plugin that cannot be built, with field and value.
    pub fn build(
        plugins: &Plugins,
        context: &BuildContext<'_>,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut links = Vec::new();
        for (name, plugin) in plugins {
            let mut fail = |error: FieldError| {
                let dot = if error.field.is_empty() || error.field.starts_with('[') { "" } else { "." };
                let value = error.value.map(|value| shorten(&value));
                let field = format!("plugins.{name}{dot}{}", error.field);
                problems.push(Problem { field, message: error.message, value });
            };
            if plugin.meta.disable {
                // Its name must still be one.
                if BUILT_IN_PLUGINS.contains(&name.as_str()) && plugins::kind(name, context.kind).is_err() {
                    fail(FieldError::new("", "unknown plugin"));
                }
                continue;
            }
            match build_link(name, plugin, context, previous) {
                Ok(Some(link)) => links.push(link),
                Ok(None) => {}
                Err(error) => fail(error),
            }
        }
        if links.len() > LINKS_MAX {
            problems.push(Problem {
                field: "plugins".to_owned(),
                message: format!("must be at most {LINKS_MAX} plugins"),
                value: Some(links.len().to_string()),
            });
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        links.sort_by(|(a, left), (b, right)| b.cmp(a).then_with(|| left.name.cmp(&right.name)));
        Ok(Self::assemble(links.into_iter().map(|(_, link)| link).collect(), context.kind))
    }

    pub(super) fn assemble(links: Vec<Link>, kind: ChainKind) -> Self {
        let places = |phase: Phase| {
            let with =
                links.iter().enumerate().filter(move |(_, link)| link.filter.phases().contains(&phase));
            with.map(|(index, _)| index as u8)
        };
        let needs_body = links.iter().any(|link| {
            link.filter.needs_body() || link.condition.as_ref().is_some_and(Expression::needs_body)
        });
        let is_http = matches!(kind, ChainKind::Http | ChainKind::Global | ChainKind::Consumer);
        let only = |is_wanted: bool, phase| if is_wanted { places(phase).collect() } else { Box::default() };
        let is_inspector = |link: &Link| matches!(&link.filter, Filter::Module(own) if own.inspects());
        let texts = links.iter().any(is_inspector).then(|| transcoder_of(&links)).flatten();
        Self {
            texts,
            request: if is_http {
                places(Phase::Rewrite).chain(places(Phase::Access)).collect()
            } else {
                Box::default()
            },
            rewrites: if is_http { places(Phase::Rewrite).count() } else { 0 },
            response: only(is_http, Phase::Response),
            connection: only(!is_http, Phase::Connection),
            sees_batches: kind == ChainKind::Frames
                && links.iter().any(|link| matches!(&link.filter, Filter::Module(own) if own.sees_frames())),
            frame: only(kind == ChainKind::Frames, Phase::Frame),
            body: body_interest(&links, needs_body),
            has_conditions: links.iter().any(|link| link.condition.is_some()),
            needs_consumers: links.iter().any(|link| link.filter.needs_consumers()),
            slot: match kind {
                ChainKind::Global => 0,
                ChainKind::Consumer => CONSUMER,
                _ => ROUTE,
            },
            function: links.iter().position(Link::is_function).map(|place| place as u8),
            links: links.into(),
        }
    }
}

fn build_link(
    name: &str,
    plugin: &crate::config::objects::Plugin,
    context: &BuildContext<'_>,
    previous: Option<&Chain>,
) -> Result<Option<(i32, Link)>, FieldError> {
    let (filter, name, priority) = if BUILT_IN_PLUGINS.contains(&name) {
        let kind = plugins::kind(name, context.kind)?;
        (kind.build(&plugin.config, context, previous)?, Word::Fixed(kind.name()), kind.priority())
    } else {
        let Some(filter) = build_module(name, &plugin.config, context)? else { return Ok(None) };
        (filter, Word::Shared(name.into()), plugins::MODULE_PRIORITY)
    };
    let meta = &plugin.meta;
    let stage = match context.kind {
        ChainKind::Http | ChainKind::Global | ChainKind::Consumer => Stage::Request,
        _ if filter.phases().contains(&Phase::Connection) => Stage::Connection,
        _ => Stage::Frame,
    };
    let condition = meta.filter.as_ref().map(|filter| Expression::parse(filter, stage)).transpose();
    let condition =
        condition.map_err(|error| FieldError::new(format!("_meta.filter{}", error.at), error.message))?;
    if condition.is_some() && context.kind == ChainKind::Frames && matches!(filter, Filter::Module(_)) {
        let message = "is not supported for modules on frames: the module names the commands it wants";
        return Err(FieldError::new("_meta.filter", message));
    }
    let error_response = meta.error_response.as_ref().map(|value| match value {
        serde_json::Value::String(text) => {
            LocalBody { body: text.clone().into(), content_type: "text/plain; charset=utf-8" }
        }
        value => LocalBody { body: value.to_string().into(), content_type: "application/json" },
    });
    let priority = meta.priority.unwrap_or(priority);
    let config = plugin.config.clone();
    let link = Link { filter, name, priority, config, condition, error_response };
    Ok(Some((priority, link)))
}

fn build_module(
    name: &str,
    config: &serde_json::Value,
    context: &BuildContext<'_>,
) -> Result<Option<Filter>, FieldError> {
    if context.kind == ChainKind::Stream {
        return Err(FieldError::new("", "has no effect on stream routes without frames"));
    }
    let found = (context.module)(ModuleSource { name, config });
    let mut module = match found.map_err(|message| FieldError::new("", message))? {
        FoundModule::Ready(rollout) => ModuleFilter::new(rollout),
        FoundModule::LeftOut => return Ok(None),
        FoundModule::Missing => return Ok(Some(Filter::Missing(MissingModule))),
    };
    let inspect = context.modules.inspect;
    if context.kind == ChainKind::Frames && inspect.iter().any(|own| own == name) {
        module = module.inspecting().map_err(|why| FieldError::new("", why))?;
    }
    let (has_effect, at) = match context.kind {
        // What finds the texts that others inspect is needed as well.
        ChainKind::Frames => {
            let finds_texts = !inspect.is_empty() && module.transcoder().is_some();
            (module.sees_frames() || finds_texts, "frames")
        }
        _ => {
            let answers = module.function().is_some() && context.kind == ChainKind::Http;
            let has_effect = !module.phases().is_empty() || module.transcoder().is_some() || answers;
            (has_effect, "requests or responses")
        }
    };
    if !has_effect && context.modules.is_shared {
        return Ok(None);
    }
    if !has_effect {
        return Err(FieldError::new(
            "",
            format_args!("has no effect here: the module does not look at {at}"),
        ));
    }
    Ok(Some(Filter::Module(Box::new(module))))
}

/// How much of a request's body a chain's filters want, together.
fn body_interest(links: &[Link], built_ins_need_it: bool) -> BodyInterest {
    let modules = links.iter().filter_map(|link| match &link.filter {
        // One that may be left out refuses what is too long when it is not.
        Filter::Module(module) if link.condition.is_some() => {
            module.request_body().map(|(max, _)| (max, Longer::Begin))
        }
        Filter::Module(module) => module.request_body(),
        _ => None,
    });
    let own = built_ins_need_it.then_some((REQUEST_BODY_MAX, Longer::Refuse));
    let most = own.into_iter().chain(modules).reduce(Longer::together);
    most.map_or(BodyInterest::None, |(max, longer)| BodyInterest::Buffered { max, longer })
}

fn shorten(value: &serde_json::Value) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(80) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
