use sluice_sdk::testing::{Host, Outcome, Request, Response, Tester};

use super::*;

fn waf(config: &str) -> Tester<Waf> {
    Tester::new(config).expect("a good configuration")
}

fn denied(outcome: Outcome<Request>) -> Denial {
    match outcome {
        Outcome::Denied(denial) => denial,
        Outcome::Forwarded(request) => panic!("{request:?} passed"),
    }
}

#[test]
fn an_attack_is_denied_with_json_and_noted() {
    let host = Host::install();
    let mut plugin = waf("{}");
    let attack = Request::new("GET", "/?x=%3C%3Fphp+system(%24_GET%5B1%5D)%3B").field("x-request-id", "r1");
    let denial = denied(plugin.request(&attack));
    assert_eq!(denial.status, 403);
    assert_eq!(
        String::from_utf8_lossy(&denial.body),
        r#"{"error_msg":"denied by the firewall","request_id":"r1"}"#
    );
    let event = &host.events()[0];
    assert_eq!((event.rule.as_str(), event.action.as_str()), ("9100100", "block"));
    assert!(matches!(plugin.request(&Request::new("GET", "/?x=what+does+eval+do")), Outcome::Forwarded(_)));
}

#[test]
fn a_body_is_judged_as_a_whole_whatever_its_pieces() {
    let _host = Host::install();
    let mut plugin = waf("{}");
    let request = Request::new("POST", "/").field("content-type", "application/json");
    let denial =
        denied(plugin.request(&request.clone().piece("{\"a\":\"<?ph").piece("p system('id'); ?>\"}")));
    assert_eq!(denial.rule, "9100100");
    let Outcome::Forwarded(passed) = plugin.request(&request.piece("{\"a\":\"hel").piece("lo\"}")) else {
        panic!("a harmless body passes");
    };
    assert_eq!(passed.body.concat(), b"{\"a\":\"hello\"}");
}

#[test]
fn detection_lets_through_and_the_debug_header_tells() {
    let host = Host::install();
    let mut plugin = waf(r#"{"mode": "detect", "debug_header": "x-waf-rules"}"#);
    let attack = Request::new("GET", "/?x=%3C%3Fphp+system(%24_GET%5B1%5D)%3B");
    assert!(matches!(plugin.request(&attack), Outcome::Forwarded(_)));
    let Outcome::Forwarded(response) = plugin.response(&Response::new(200)) else {
        panic!("the response goes on")
    };
    assert!(response.get("x-waf-rules").expect("the field").contains("9100100"));
    assert!(host.events().iter().all(|event| event.action == "detect"));
}

#[test]
fn rules_and_their_data_come_from_files_and_texts() {
    let host = Host::install();
    host.file("/etc/waf/a.conf", "SecRule ARGS \"@pmFromFile words.data\" \"id:1,phase:2,deny,status:406\"");
    host.file("/etc/waf/words.data", "forbidden\n");
    let mut plugin =
        waf(r#"{"rules": ["/etc/waf/a.conf", "SecRule ARGS:k \"@streq v\" \"id:2,phase:2,deny\""]}"#);
    assert_eq!(denied(plugin.request(&Request::new("GET", "/?a=Forbidden"))).status, 406);
    assert_eq!(denied(plugin.request(&Request::new("GET", "/?k=v"))).rule, "2");
}

#[test]
fn responses_are_judged_where_that_is_asked_for() {
    let _host = Host::install();
    let rules = r#"{"inspect_response": true, "rules": ["SecRule RESPONSE_BODY \"@contains secret\" \"id:1,phase:4,deny,status:500\""]}"#;
    let mut plugin = waf(rules);
    let outcome = plugin.request(&Request::new("GET", "/"));
    assert!(matches!(outcome, Outcome::Forwarded(_)));
    let response = Response::new(200).field("content-type", "text/html");
    let Outcome::Denied(denial) = plugin.response(&response.piece("a sec").piece("ret")) else {
        panic!("it passed")
    };
    assert_eq!(denial.status, 500);
}

#[test]
fn what_is_wrong_in_the_configuration_is_named() {
    let error = |config: &str| Tester::<Waf>::new(config).err().expect("a bad configuration").to_string();
    assert_eq!(error(r#"{"paranoia_level": 7}"#), "paranoia_level: 7: a paranoia level is from 1 to 4");
    assert!(
        error(r#"{"rules": ["SecRule ARGS \"@rx (\" \"id:1\""]}"#)
            .starts_with("rules: rules[0]:1: SecRule: ")
    );
    assert!(error(r#"{"exclusions": [{}]}"#).starts_with("exclusions[0]"));
    assert!(error(r#"{"mode": "off"}"#).starts_with("mode: \"off\""));
}
