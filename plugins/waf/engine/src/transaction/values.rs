//! The values of variables.

use super::Transaction;
use crate::lang::variables::{Selector, Target, Variable};
use crate::program::{Kind, Program, TxValue};
use crate::text::table::TextId;

impl Transaction {
    /// Appends the first value of a target.
    pub(super) fn write_first(&self, program: &Program, target: &Target, out: &mut Vec<u8>) {
        if let Some(number) = target.number {
            match self.tx_value(number) {
                TxValue::Absent => {}
                TxValue::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
                TxValue::Text(text) => out.extend_from_slice(text),
            }
            return;
        }
        if target.variable == Variable::MatchedVar {
            if let Some((_, text)) = self.matched.last() {
                out.extend_from_slice(self.texts.get(*text));
            }
            return;
        }
        for kind in Kind::of(target.variable) {
            for item in &self.values[*kind as usize] {
                if target.selector.accepts(self.texts.get(item.name)) {
                    out.extend_from_slice(self.texts.get(item.text));
                    return;
                }
            }
        }
        if let Some((_, value)) = self.computed(program, target).into_iter().next() {
            out.extend_from_slice(&value);
        }
    }

    /// The values of a target with their names.
    pub(super) fn values_of(&mut self, program: &Program, target: &Target) -> Vec<(Vec<u8>, TextId)> {
        let kinds = Kind::of(target.variable);
        if !kinds.is_empty() {
            let items = kinds.iter().flat_map(|kind| &self.values[*kind as usize]);
            let named = items.map(|item| (self.texts.get(item.name), item.text));
            return named
                .filter(|(name, _)| target.selector.accepts(name))
                .map(|(name, text)| (name.to_vec(), text))
                .collect();
        }
        let computed = self.computed(program, target);
        computed.into_iter().map(|(name, value)| (name, self.texts.intern(&value))).collect()
    }

    /// The values of a target that lies in no list.
    fn computed(&self, program: &Program, target: &Target) -> Vec<(Vec<u8>, Vec<u8>)> {
        match target.variable {
            Variable::Tx => self.tx_values(program, target),
            Variable::MatchedVars => {
                self.matched.iter().map(|(name, text)| (name.clone(), self.bytes(*text))).collect()
            }
            Variable::MatchedVarsNames => {
                self.matched.iter().map(|(name, _)| (name.clone(), name.clone())).collect()
            }
            Variable::FilesSizes => {
                let sizes = self.body.file_sizes.iter();
                sizes.map(|(name, size)| (self.bytes(*name), size.to_string().into_bytes())).collect()
            }
            Variable::Ip | Variable::Global | Variable::Session | Variable::User | Variable::Resource => {
                self.others(target)
            }
            Variable::Rule => match &target.selector {
                Selector::Key(key) => {
                    self.of_rule(program, key).map(|value| (key.to_vec(), value)).into_iter().collect()
                }
                _ => Vec::new(),
            },
            variable => self.single(variable).map(|value| (Vec::new(), value)).into_iter().collect(),
        }
    }

    fn bytes(&self, text: TextId) -> Vec<u8> {
        self.texts.get(text).to_vec()
    }

    fn tx_values(&self, program: &Program, target: &Target) -> Vec<(Vec<u8>, Vec<u8>)> {
        if let Some(number) = target.number {
            let name = program.names.name(number).to_vec();
            return self.tx_value(number).text().map(|value| (name, value)).into_iter().collect();
        }
        let numbered =
            (0..program.names.len() as u32).map(|number| (program.names.name(number), self.tx_value(number)));
        let more = self.tx_more.iter().map(|(name, value)| (name.as_slice(), value));
        numbered
            .chain(more)
            .filter(|(name, _)| target.selector.accepts(name))
            .filter_map(|(name, value)| Some((name.to_vec(), value.text()?)))
            .collect()
    }

    fn others(&self, target: &Target) -> Vec<(Vec<u8>, Vec<u8>)> {
        let collection = target.variable.name().to_ascii_lowercase();
        let own = self.others.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(collection.as_bytes())?.strip_prefix(b".")?;
            target.selector.accepts(name).then_some((name.to_vec(), value.text()?))
        });
        own.collect()
    }

    fn of_rule(&self, program: &Program, field: &[u8]) -> Option<Vec<u8>> {
        let rule = program.rules.get(self.current as usize)?;
        match field {
            b"id" => Some(rule.id.to_string().into_bytes()),
            b"msg" => rule.message.as_ref().map(crate::lang::macros::written),
            b"severity" => rule.severity.map(|severity| severity.to_string().into_bytes()),
            _ => None,
        }
    }

    /// The value of a variable that has one value.
    fn single(&self, variable: Variable) -> Option<Vec<u8>> {
        let number = |number: usize| Some(number.to_string().into_bytes());
        let flag = |on: bool| Some(if on { b"1".to_vec() } else { b"0".to_vec() });
        let flags = self.body.flags;
        let of_form =
            |read: fn(&crate::body::multipart::Flags) -> bool| flag(flags.as_ref().is_some_and(read));
        match variable {
            Variable::ArgsCombinedSize => {
                let kinds = [Kind::ArgsGet, Kind::ArgsPost];
                let items = kinds.iter().flat_map(|kind| &self.values[*kind as usize]);
                number(
                    items.map(|item| self.texts.get(item.name).len() + self.texts.get(item.text).len()).sum(),
                )
            }
            Variable::AuthType => {
                let header = self.texts.get(self.header(Kind::RequestHeaders, b"authorization")?);
                Some(header.split(|byte| *byte == b' ').next()?.to_vec())
            }
            Variable::FilesCombinedSize => number(self.body.file_sizes.iter().map(|(_, size)| size).sum()),
            Variable::FullRequestLength => number(self.head.length + self.body.length),
            Variable::HighestSeverity => number(usize::from(self.highest_severity)),
            Variable::InboundDataError => flag(self.body.truncated),
            Variable::OutboundDataError => flag(false),
            Variable::MatchedVar => self.matched.last().map(|(_, text)| self.bytes(*text)),
            Variable::MatchedVarName => self.matched.last().map(|(name, _)| name.clone()),
            Variable::MultipartBoundaryQuoted => of_form(|flags| flags.boundary_quoted),
            Variable::MultipartBoundaryWhitespace => of_form(|flags| flags.boundary_whitespace),
            Variable::MultipartCrlfLfLines => of_form(|flags| flags.crlf_lf_lines),
            Variable::MultipartDataAfter => of_form(|flags| flags.data_after),
            Variable::MultipartDataBefore => of_form(|flags| flags.data_before),
            Variable::MultipartFileLimitExceeded => flag(false),
            Variable::MultipartHeaderFolding => of_form(|flags| flags.header_folding),
            Variable::MultipartInvalidHeaderFolding => of_form(|flags| flags.invalid_header_folding),
            Variable::MultipartInvalidPart => of_form(|flags| flags.invalid_part),
            Variable::MultipartInvalidQuoting => of_form(|flags| flags.invalid_quoting),
            Variable::MultipartLfLine => of_form(|flags| flags.lf_line),
            Variable::MultipartMissingSemicolon => of_form(|flags| flags.missing_semicolon),
            Variable::MultipartStrictError => of_form(|flags| flags.strict_error()),
            Variable::MultipartUnmatchedBoundary => of_form(|flags| flags.unmatched_boundary),
            Variable::RemoteAddr | Variable::RemoteHost => Some(self.head.client.clone().into_bytes()),
            Variable::ReqbodyError | Variable::ReqbodyProcessorError => flag(self.body.error.is_some()),
            Variable::ReqbodyErrorMsg => self.body.error.clone().map(String::into_bytes),
            Variable::ReqbodyProcessor => Some(self.body.processor.clone().into_bytes()),
            Variable::RequestBodyLength => number(self.body.length),
            Variable::ResponseContentLength => number(self.response.length?),
            Variable::ResponseContentType => {
                self.header(Kind::ResponseHeaders, b"content-type").map(|text| self.bytes(text))
            }
            Variable::ResponseProtocol => Some(self.response.protocol.clone()),
            Variable::ResponseStatus | Variable::StatusLine => number(usize::from(self.response.status?)),
            Variable::ServerName => Some(self.head.server_name.clone().into_bytes()),
            Variable::UniqueId => Some(self.head.unique_id.clone().into_bytes()),
            Variable::UrlencodedError => flag(self.head.query_malformed || self.body.malformed),
            _ => None,
        }
    }
}
