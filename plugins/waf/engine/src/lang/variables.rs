//! What rules look at.

use std::sync::Arc;

use crate::names::Names;
use crate::pattern::Pattern;

/// A variable of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Variable {
    Args,
    ArgsCombinedSize,
    ArgsGet,
    ArgsGetNames,
    ArgsNames,
    ArgsPost,
    ArgsPostNames,
    AuthType,
    Duration,
    Env,
    Files,
    FilesCombinedSize,
    FilesNames,
    FilesSizes,
    FilesTmpContent,
    FullRequestLength,
    Geo,
    Global,
    HighestSeverity,
    InboundDataError,
    Ip,
    MatchedVar,
    MatchedVarName,
    MatchedVars,
    MatchedVarsNames,
    MultipartBoundaryQuoted,
    MultipartBoundaryWhitespace,
    MultipartCrlfLfLines,
    MultipartDataAfter,
    MultipartDataBefore,
    MultipartFileLimitExceeded,
    MultipartFilename,
    MultipartHeaderFolding,
    MultipartInvalidHeaderFolding,
    MultipartInvalidPart,
    MultipartInvalidQuoting,
    MultipartLfLine,
    MultipartMissingSemicolon,
    MultipartName,
    MultipartPartHeaders,
    MultipartStrictError,
    MultipartUnmatchedBoundary,
    OutboundDataError,
    PathInfo,
    QueryString,
    RemoteAddr,
    RemoteHost,
    RemotePort,
    RemoteUser,
    ReqbodyError,
    ReqbodyErrorMsg,
    ReqbodyProcessor,
    ReqbodyProcessorError,
    RequestBasename,
    RequestBody,
    RequestBodyLength,
    RequestCookies,
    RequestCookiesNames,
    RequestFilename,
    RequestHeaders,
    RequestHeadersNames,
    RequestLine,
    RequestMethod,
    RequestProtocol,
    RequestUri,
    RequestUriRaw,
    Resource,
    ResponseBody,
    ResponseContentLength,
    ResponseContentType,
    ResponseHeaders,
    ResponseHeadersNames,
    ResponseProtocol,
    ResponseStatus,
    Rule,
    ServerAddr,
    ServerName,
    ServerPort,
    Session,
    SessionId,
    StatusLine,
    Time,
    TimeEpoch,
    Tx,
    UniqueId,
    UrlencodedError,
    User,
    UserId,
    WebAppId,
    XmlAttributes,
    XmlText,
}

/// The names of the variables, in capitals as rules write them.
const VARIABLES: &[(&str, Variable)] = {
    use Variable::*;
    &[
        ("ARGS", Args),
        ("ARGS_COMBINED_SIZE", ArgsCombinedSize),
        ("ARGS_GET", ArgsGet),
        ("ARGS_GET_NAMES", ArgsGetNames),
        ("ARGS_NAMES", ArgsNames),
        ("ARGS_POST", ArgsPost),
        ("ARGS_POST_NAMES", ArgsPostNames),
        ("AUTH_TYPE", AuthType),
        ("DURATION", Duration),
        ("ENV", Env),
        ("FILES", Files),
        ("FILES_COMBINED_SIZE", FilesCombinedSize),
        ("FILES_NAMES", FilesNames),
        ("FILES_SIZES", FilesSizes),
        ("FILES_TMP_CONTENT", FilesTmpContent),
        ("FULL_REQUEST_LENGTH", FullRequestLength),
        ("GEO", Geo),
        ("GLOBAL", Global),
        ("HIGHEST_SEVERITY", HighestSeverity),
        ("INBOUND_DATA_ERROR", InboundDataError),
        ("IP", Ip),
        ("MATCHED_VAR", MatchedVar),
        ("MATCHED_VAR_NAME", MatchedVarName),
        ("MATCHED_VARS", MatchedVars),
        ("MATCHED_VARS_NAMES", MatchedVarsNames),
        ("MULTIPART_BOUNDARY_QUOTED", MultipartBoundaryQuoted),
        ("MULTIPART_BOUNDARY_WHITESPACE", MultipartBoundaryWhitespace),
        ("MULTIPART_CRLF_LF_LINES", MultipartCrlfLfLines),
        ("MULTIPART_DATA_AFTER", MultipartDataAfter),
        ("MULTIPART_DATA_BEFORE", MultipartDataBefore),
        ("MULTIPART_FILE_LIMIT_EXCEEDED", MultipartFileLimitExceeded),
        ("MULTIPART_FILENAME", MultipartFilename),
        ("MULTIPART_HEADER_FOLDING", MultipartHeaderFolding),
        ("MULTIPART_INVALID_HEADER_FOLDING", MultipartInvalidHeaderFolding),
        ("MULTIPART_INVALID_PART", MultipartInvalidPart),
        ("MULTIPART_INVALID_QUOTING", MultipartInvalidQuoting),
        ("MULTIPART_LF_LINE", MultipartLfLine),
        ("MULTIPART_MISSING_SEMICOLON", MultipartMissingSemicolon),
        ("MULTIPART_SEMICOLON_MISSING", MultipartMissingSemicolon),
        ("MULTIPART_NAME", MultipartName),
        ("MULTIPART_PART_HEADERS", MultipartPartHeaders),
        ("MULTIPART_STRICT_ERROR", MultipartStrictError),
        ("MULTIPART_UNMATCHED_BOUNDARY", MultipartUnmatchedBoundary),
        ("OUTBOUND_DATA_ERROR", OutboundDataError),
        ("PATH_INFO", PathInfo),
        ("QUERY_STRING", QueryString),
        ("REMOTE_ADDR", RemoteAddr),
        ("REMOTE_HOST", RemoteHost),
        ("REMOTE_PORT", RemotePort),
        ("REMOTE_USER", RemoteUser),
        ("REQBODY_ERROR", ReqbodyError),
        ("REQBODY_ERROR_MSG", ReqbodyErrorMsg),
        ("REQBODY_PROCESSOR", ReqbodyProcessor),
        ("REQBODY_PROCESSOR_ERROR", ReqbodyProcessorError),
        ("REQUEST_BASENAME", RequestBasename),
        ("REQUEST_BODY", RequestBody),
        ("REQUEST_BODY_LENGTH", RequestBodyLength),
        ("REQUEST_COOKIES", RequestCookies),
        ("REQUEST_COOKIES_NAMES", RequestCookiesNames),
        ("REQUEST_FILENAME", RequestFilename),
        ("REQUEST_HEADERS", RequestHeaders),
        ("REQUEST_HEADERS_NAMES", RequestHeadersNames),
        ("REQUEST_LINE", RequestLine),
        ("REQUEST_METHOD", RequestMethod),
        ("REQUEST_PROTOCOL", RequestProtocol),
        ("REQUEST_URI", RequestUri),
        ("REQUEST_URI_RAW", RequestUriRaw),
        ("RESOURCE", Resource),
        ("RESPONSE_BODY", ResponseBody),
        ("RESPONSE_CONTENT_LENGTH", ResponseContentLength),
        ("RESPONSE_CONTENT_TYPE", ResponseContentType),
        ("RESPONSE_HEADERS", ResponseHeaders),
        ("RESPONSE_HEADERS_NAMES", ResponseHeadersNames),
        ("RESPONSE_PROTOCOL", ResponseProtocol),
        ("RESPONSE_STATUS", ResponseStatus),
        ("RULE", Rule),
        ("SERVER_ADDR", ServerAddr),
        ("SERVER_NAME", ServerName),
        ("SERVER_PORT", ServerPort),
        ("SESSION", Session),
        ("SESSIONID", SessionId),
        ("STATUS_LINE", StatusLine),
        ("TIME", Time),
        ("TIME_EPOCH", TimeEpoch),
        ("TX", Tx),
        ("UNIQUE_ID", UniqueId),
        ("URLENCODED_ERROR", UrlencodedError),
        ("USER", User),
        ("USERID", UserId),
        ("WEBAPPID", WebAppId),
    ]
};

impl Variable {
    /// The variable of this name, whatever its capitals.
    pub fn from_name(name: &str) -> Option<Variable> {
        let name = name.to_ascii_uppercase();
        VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable)
    }

    /// Its name as rules write it.
    pub fn name(self) -> &'static str {
        match self {
            Variable::XmlAttributes | Variable::XmlText => "XML",
            _ => VARIABLES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name),
        }
    }

    /// Whether it holds values by name.
    pub fn is_collection(self) -> bool {
        use Variable::*;
        matches!(
            self,
            Args | ArgsGet
                | ArgsGetNames
                | ArgsNames
                | ArgsPost
                | ArgsPostNames
                | Env
                | Files
                | FilesNames
                | FilesSizes
                | FilesTmpContent
                | Geo
                | Global
                | Ip
                | MatchedVars
                | MatchedVarsNames
                | MultipartFilename
                | MultipartName
                | MultipartPartHeaders
                | RequestCookies
                | RequestCookiesNames
                | RequestHeaders
                | RequestHeadersNames
                | Resource
                | ResponseHeaders
                | ResponseHeadersNames
                | Rule
                | Session
                | Tx
                | User
        )
    }
}

/// Which values of a collection.
#[derive(Debug, Clone)]
pub enum Selector {
    /// All of them.
    All,
    /// Those of this name, in small letters.
    Key(Arc<[u8]>),
    /// Those whose names match; beside it the pattern's text.
    Matching(Arc<Pattern>, Arc<str>),
}

impl PartialEq for Selector {
    fn eq(&self, other: &Selector) -> bool {
        match (self, other) {
            (Selector::All, Selector::All) => true,
            (Selector::Key(one), Selector::Key(two)) => one == two,
            (Selector::Matching(_, one), Selector::Matching(_, two)) => one == two,
            _ => false,
        }
    }
}

impl Selector {
    /// Whether a value of this name is meant.
    pub fn accepts(&self, name: &[u8]) -> bool {
        match self {
            Selector::All => true,
            Selector::Key(key) => key.eq_ignore_ascii_case(name),
            Selector::Matching(pattern, _) => pattern.is_match(name),
        }
    }
}

/// A variable, or some values of it, or how many there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The variable.
    pub variable: Variable,
    /// Which of its values.
    pub selector: Selector,
    /// Of `TX`: the number of the name.
    pub number: Option<u32>,
    /// `&`: how many values there are, in place of the values.
    pub count: bool,
}

/// The targets of a rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Targets {
    /// What it looks at, in order.
    pub included: Vec<Target>,
    /// What of that it leaves out.
    pub excluded: Vec<Target>,
}

/// Reads `ARGS|!ARGS:x|&TX:y|REQUEST_HEADERS:/z/`.
pub fn parse(text: &str, names: &mut Names) -> Result<Targets, String> {
    let mut targets = Targets::default();
    for part in split(text) {
        let part = part.trim();
        let (excluded, part) = part.strip_prefix('!').map_or((false, part), |rest| (true, rest));
        let (count, part) = part.strip_prefix('&').map_or((false, part), |rest| (true, rest));
        if part.is_empty() {
            continue;
        }
        let target = parse_one(part, count, names)?;
        if excluded { &mut targets.excluded } else { &mut targets.included }.push(target);
    }
    Ok(targets)
}

/// Reads one variable with its selector.
pub fn parse_one(text: &str, count: bool, names: &mut Names) -> Result<Target, String> {
    let (name, selector) = match text.split_once([':', '.']) {
        Some((name, selector)) => (name, Some(selector)),
        None => (text, None),
    };
    if name.eq_ignore_ascii_case("XML") {
        return xml(selector, count);
    }
    let variable = Variable::from_name(name).ok_or_else(|| format!("no variable is called {name:?}"))?;
    let Some(selector) = selector else {
        return Ok(Target { variable, selector: Selector::All, number: None, count });
    };
    let selector = selector.trim_matches('\'');
    let pattern = selector.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
    let (selector, number) = match pattern {
        Some(pattern) => {
            let compiled = Pattern::new(format!("(?i){pattern}").as_bytes())
                .map_err(|error| format!("the selector of {name}: {error}"))?;
            (Selector::Matching(Arc::new(compiled), Arc::from(pattern)), None)
        }
        None => {
            let key = selector.to_ascii_lowercase();
            let number = (variable == Variable::Tx).then(|| names.number(key.as_bytes()));
            (Selector::Key(Arc::from(key.as_bytes())), number)
        }
    };
    Ok(Target { variable, selector, number, count })
}

fn xml(path: Option<&str>, count: bool) -> Result<Target, String> {
    let variable = match path {
        None | Some("/*" | "//*" | "/*/text()" | "//text()") => Variable::XmlText,
        Some("//@*") => Variable::XmlAttributes,
        Some(path) => return Err(format!("XML:{path} is not supported, only XML:/* and XML://@*")),
    };
    Ok(Target { variable, selector: Selector::All, number: None, count })
}

/// Parts at bars that stand outside of `/patterns/`.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut in_pattern) = (0, false);
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'/' if !in_pattern => {
                let before = &bytes[start..at];
                in_pattern = before.ends_with(b":") || before.ends_with(b":'");
                // The paths of XML are no patterns.
                in_pattern &=
                    !text[start..at].trim_start_matches(['!', '&']).to_ascii_uppercase().starts_with("XML");
            }
            b'/' if bytes[at - 1] != b'\\' => in_pattern = false,
            b'|' if !in_pattern => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_with_exclusions_counts_and_patterns() {
        let mut names = Names::default();
        let text = "REQUEST_COOKIES|!REQUEST_COOKIES:/__utm|_pk/|&TX:'/^a_b/'|XML:/*|XML://@*|tx.Score";
        let targets = parse(text, &mut names).unwrap();
        assert_eq!(targets.excluded.len(), 1);
        assert!(targets.excluded[0].selector.accepts(b"x_PK_y"));
        let variables: Vec<_> =
            targets.included.iter().map(|target| (target.variable, target.count)).collect();
        use Variable::*;
        assert_eq!(
            variables,
            [(RequestCookies, false), (Tx, true), (XmlText, false), (XmlAttributes, false), (Tx, false)]
        );
        assert_eq!(targets.included[4].number, names.known(b"score"));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let error = parse("ARGS|FOO:x", &mut Names::default()).unwrap_err();
        assert_eq!(error, "no variable is called \"FOO\"");
    }
}
