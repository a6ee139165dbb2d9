//! What single rules do.

mod common;

use common::{Request, engine, engine_with, ids, judge};
use sluice_waf::{Engine, Options, Source, Verdict};

fn found(rules: &str, request: &Request) -> Vec<u32> {
    let (_, transaction) = judge(&engine(rules), request);
    ids(&transaction)
}

#[test]
fn a_chain_is_reported_once_and_only_as_a_whole() {
    let rules = r#"
        SecRule REQUEST_METHOD "@streq POST" "id:1,phase:1,pass,msg:'m',chain"
            SecRule &REQUEST_HEADERS:Content-Length "@eq 0" "setvar:tx.score=+3"
        SecRule TX:score "@ge 3" "id:2,phase:1,deny,status:418""#;
    assert_eq!(found(rules, &Request::new("POST", "/")), [1, 2]);
    assert_eq!(found(rules, &Request::new("POST", "/").body("text/plain", "x")), []);
    let (verdict, _) = judge(&engine(rules), &Request::new("POST", "/"));
    assert!(matches!(verdict, Verdict::Deny(denial) if denial.status == 418 && denial.rule == 2));
}

#[test]
fn scores_add_up_for_every_value_that_matches() {
    let rules = r#"
        SecAction "id:1,phase:1,pass,nolog,setvar:tx.score=0,setvar:tx.critical=5"
        SecRule ARGS "@contains bad" "id:2,phase:2,pass,setvar:'tx.score=+%{tx.critical}'"
        SecRule TX:score "@eq 10" "id:3,phase:2,pass,msg:'score %{tx.score}'""#;
    let (_, transaction) = judge(&engine(rules), &Request::new("GET", "/?a=bad&b=good&c=a+bad+one"));
    assert_eq!(ids(&transaction), [2, 3]);
    assert_eq!(transaction.matches()[1].message, "score 10");
}

#[test]
fn rules_are_jumped_over_up_to_a_marker() {
    let rules = r#"
        SecRule ARGS:go "@streq yes" "id:1,phase:2,pass,nolog,skipAfter:END"
        SecRule ARGS "@rx ." "id:2,phase:2,pass"
        SecMarker END
        SecRule ARGS "@rx ." "id:3,phase:2,pass""#;
    assert_eq!(found(rules, &Request::new("GET", "/?go=yes")), [3]);
    assert_eq!(found(rules, &Request::new("GET", "/?go=no")), [2, 3]);
}

#[test]
fn exclusions_hold_by_rule_by_directive_and_by_control() {
    let request = Request::new("GET", "/?text=bad&other=bad");
    let rule =
        r#"SecRule ARGS|!ARGS:text "@streq bad" "id:10,phase:2,pass,tag:'T',logdata:'%{MATCHED_VAR_NAME}'""#;
    let (_, transaction) = judge(&engine(rule), &request);
    assert_eq!(transaction.matches()[0].data, "ARGS:other");
    let plain = r#"SecRule ARGS "@streq bad" "id:10,phase:2,pass,tag:'T'""#;
    let cases = [
        (format!("{plain}\nSecRuleUpdateTargetById 10 \"!ARGS:/^te/,!ARGS:other\""), 0),
        (format!("{plain}\nSecRuleRemoveById 5-10"), 0),
        (format!("{plain}\nSecRuleRemoveByTag T"), 0),
        (format!("SecAction \"id:1,phase:1,pass,nolog,ctl:ruleRemoveById=10\"\n{plain}"), 0),
        (format!("SecAction \"id:1,phase:1,pass,nolog,ctl:ruleRemoveByTag=T\"\n{plain}"), 0),
        (format!("SecAction \"id:1,phase:1,pass,nolog,ctl:ruleRemoveTargetById=10;ARGS:text\"\n{plain}"), 1),
        (
            format!(
                "SecAction \"id:1,phase:1,pass,nolog,ctl:ruleRemoveTargetByTag=T;ARGS:text,\
                 ctl:ruleRemoveTargetById=10;ARGS:other\"\n{plain}"
            ),
            0,
        ),
        (format!("SecAction \"id:1,phase:1,pass,nolog,ctl:ruleEngine=Off\"\n{plain}"), 0),
    ];
    for (rules, expected) in cases {
        assert_eq!(found(&rules, &request).len(), expected, "{rules}");
    }
}

#[test]
fn groups_and_names_reach_later_rules() {
    let rules = r#"
        SecRule REQUEST_HEADERS:Range "@rx (\d+)-(\d+)" "id:1,phase:1,pass,capture,chain"
            SecRule TX:2 "@lt %{tx.1}" "setvar:tx.wrong=1"
        SecRule REQUEST_HEADERS_NAMES "@rx ^.*$" "id:2,phase:1,pass,nolog,capture,t:lowercase,setvar:'tx.h_%{tx.0}=/%{tx.0}/',chain"
            SecRule TX:/^h_/ "@within /proxy/ /range/" "id:3""#;
    assert_eq!(found(rules, &Request::new("GET", "/").header("range", "bytes=9-3")), [1]);
    let (_, transaction) = judge(&engine(rules), &Request::new("GET", "/").header("range", "bytes=9-3"));
    assert_eq!(transaction.variable("wrong"), Some(b"1".to_vec()));
}

#[test]
fn detection_reports_and_denies_nothing() {
    let rules = r#"SecRule ARGS "@streq bad" "id:1,phase:2,deny"
        SecRule ARGS "@streq bad" "id:2,phase:2,pass""#;
    let options = Options { detect_only: true, ..Options::default() };
    let (verdict, transaction) = judge(&engine_with(rules, options), &Request::new("GET", "/?a=bad"));
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(ids(&transaction), [1, 2]);
    assert!(transaction.matches()[0].blocks);
}

#[test]
fn bodies_are_read_by_their_type_and_kept_where_they_cannot_be() {
    let rules = r#"
        SecRule ARGS_POST:json.a.array_0 "@streq x" "id:1,phase:2,pass"
        SecRule REQBODY_ERROR "@eq 1" "id:2,phase:2,pass"
        SecRule REQUEST_BODY "@contains raw" "id:3,phase:2,pass"
        SecRule FILES "@endsWith .php" "id:4,phase:2,pass"
        SecRule MULTIPART_STRICT_ERROR "@eq 1" "id:5,phase:2,pass"
        SecRule XML:/* "@streq inner" "id:6,phase:2,pass"
        SecRule &ARGS_POST "@eq 2" "id:7,phase:2,pass""#;
    let post =
        |content_type: &str, body: &str| found(rules, &Request::new("POST", "/").body(content_type, body));
    assert_eq!(post("application/json", "{\"a\":[\"x\"]}"), [1]);
    assert_eq!(post("application/json", "{\"a\":[\"raw\""), [2, 3]);
    assert_eq!(post("application/vnd.api+json; charset=utf-8", "{\"a\":[\"x\",\"y\"]}"), [1, 7]);
    assert_eq!(post("text/plain", "raw text"), [3]);
    assert_eq!(post("text/xml", "<a>inner</a>"), [6]);
    assert_eq!(post("application/x-www-form-urlencoded", "a=raw&b=2"), [3, 7]);
    let form = "--b\r\nContent-Disposition: form-data; name='f'; filename=\"x.php\"\r\n\r\n1\r\n--b--\r\n";
    assert_eq!(post("multipart/form-data; boundary=b", form), [4, 5]);
}

#[test]
fn too_many_arguments_are_denied() {
    let options = Options { arguments_max: 3, ..Options::default() };
    let engine = engine_with("SecRule ARGS \"@streq x\" \"id:1,phase:2,pass\"", options);
    let verdict = |uri| judge(&engine, &Request::new("GET", uri)).0;
    assert_eq!(verdict("/?a=1&b=2&c=3"), Verdict::Pass);
    assert!(matches!(verdict("/?a=1&b=2&c=3&d=4"), Verdict::Deny(denial) if denial.status == 413));
}

#[test]
fn what_cannot_be_loaded_says_where_and_why() {
    let cases = [
        (
            "SecRule ARGS \"@rx (\" \"id:1\"",
            "test.conf:1: SecRule: the pattern cannot be compiled: unclosed group",
        ),
        ("\n\nSecRule ARGZ \"@rx x\" \"id:1\"", "test.conf:3: SecRule: no variable is called \"ARGZ\""),
        (
            "SecRule ARGS \"@inspectFile x\" \"id:1\"",
            "test.conf:1: SecRule: the operator @inspectfile is not supported",
        ),
        ("SecFoo on", "test.conf:1: SecFoo: no directive of this name is known"),
        ("SecRule ARGS \"@rx x\" \"id:1,chain\"", "test.conf:1: SecRule: the chain has no next rule"),
        ("SecRule ARGS \"@pmFromFile gone.data\" \"id:1\"", "test.conf:1: SecRule: gone.data: No such file"),
    ];
    for (rules, expected) in cases {
        let source = Source { name: "test.conf".into(), text: rules.into() };
        let error = Engine::load(&[source], Options::default(), &common::Disk).expect_err(rules).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_transaction_that_is_used_again_remembers_nothing() {
    let engine = engine("SecRule ARGS \"@streq bad\" \"id:1,phase:2,deny,setvar:tx.seen=1\"");
    let (_, mut transaction) = judge(&engine, &Request::new("GET", "/?a=bad"));
    assert_eq!(transaction.variable("seen"), Some(b"1".to_vec()));
    transaction.reset();
    assert_eq!(transaction.variable("seen"), None);
    assert!(transaction.matches().is_empty());
}
