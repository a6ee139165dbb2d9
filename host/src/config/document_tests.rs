use serde_json::json;

use super::*;

fn yaml(text: &str) -> Result<Value, SyntaxError> {
    parse_value(text.as_bytes(), Format::Yaml)
}

#[test]
fn yaml_and_json_give_the_same_values() {
    let written = "begin: 0x09\nname: yes\ntime: 10s\nport: 80\nlist: [1, 2.5, true, null]\nnodes: {\"a:1\": 1}\n#END\n";
    let value = yaml(written).unwrap();
    let expected = json!({"begin": 9, "name": "yes", "time": "10s", "port": 80,
        "list": [1, 2.5, true, null], "nodes": {"a:1": 1}});
    assert_eq!(value, expected);
    assert_eq!(parse_value(expected.to_string().as_bytes(), Format::Json).unwrap(), expected);
}

#[test]
fn large_numbers_keep_every_digit() {
    assert_eq!(yaml("id: 9223372036854775807").unwrap()["id"], json!(9_223_372_036_854_775_807_u64));
}

#[test]
fn bad_text_is_refused_with_its_place() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let earlier = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", [earlier.as_str(); 10].join(", "));
        }
        text
    };
    let deep = "[".repeat(100_000);
    let cases: [(&str, Format, &str, Option<u64>); 11] = [
        ("a: 1\na: 2\n", Format::Yaml, "duplicate", Some(2)),
        ("a: 1\nb: [1\nc: 2\n", Format::Yaml, "is not YAML", Some(3)),
        ("a: 1\n---\nb: 2\n", Format::Yaml, "is not YAML", None),
        ("", Format::Yaml, "is empty", None),
        ("# only words\n", Format::Yaml, "is empty", None),
        ("a: .nan\n", Format::Yaml, "is not YAML", None),
        (&bomb, Format::Yaml, "is not YAML", None),
        (&deep, Format::Yaml, "is not YAML", None),
        (&deep, Format::Json, "is not JSON: recursion limit exceeded", Some(1)),
        ("{\"a\": 1,\n \"a\": 2}", Format::Json, "is not JSON: duplicate key \"a\"", Some(2)),
        ("{\"a\": 1} x", Format::Json, "is not JSON: trailing characters", Some(1)),
    ];
    for (text, format, message, line) in cases {
        let shown: String = text.chars().take(40).collect();
        let error = parse_value(text.as_bytes(), format).expect_err(&shown);
        assert!(error.message.contains(message), "{shown}: {error:?}");
        assert!(!error.message.contains("line "), "the place is told once: {error:?}");
        if let Some(line) = line {
            assert_eq!(error.position.map(|at| at.line), Some(line), "{shown}: {error:?}");
        }
    }
    let bytes = b"a: 1\nb: \xff\n";
    let error = parse_value(bytes, Format::Yaml).unwrap_err();
    assert_eq!(
        error,
        SyntaxError { message: "is not UTF-8 text".into(), position: Some(Position { line: 2, column: 1 }) }
    );
    let large = vec![b' '; FILE_BYTES_MAX + 1];
    assert!(parse_value(&large, Format::Json).unwrap_err().message.contains("16 MiB"));
}

#[test]
fn the_standalone_form_gives_every_good_object_and_every_fault() {
    let text = "
routes:
  - id: one
    uri: /a
  - uri: /b
  - id: bad id
  - 7
upstreams: {}
xrpc_protocols: []
nonsense: []
services:
  - id: 5
#END
";
    let (documents, errors) =
        parse_standalone(text.as_bytes(), Format::Yaml, Path::new("apisix.yaml")).unwrap();
    let named: Vec<String> =
        documents.iter().map(|document| format!("{}/{}", document.kind, document.id)).collect();
    assert_eq!(named, ["routes/one", "routes/arr_2", "services/5"]);
    assert_eq!(documents[1].origin.to_string(), "apisix.yaml:5:5");
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "apisix.yaml:6:5: routes[2].id: must be 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' and '.', or a \
             positive integer (\"bad id\")",
            "apisix.yaml:7:5: routes[3]: must be an object with fields",
            "apisix.yaml: upstreams: must be a list of objects",
            "apisix.yaml: xrpc_protocols: objects of kind \"xrpc_protocols\" are not supported by this build yet",
            "apisix.yaml: nonsense: there is no kind \"nonsense\"; kinds are listeners, frame_formats, ssls, trust_keys, modules, \
             protos, upstreams, services, plugin_configs, global_rules, routes, stream_routes, secrets, consumer_groups, \
             consumers, credentials, plugin_metadata",
        ]
    );
}

#[test]
fn any_bytes_come_back_from_the_parser() {
    let seeds = [
        "uri: /a\nupstream: {nodes: {\"a:1\": 1}}\n",
        "{\"routes\": [{\"id\": 1, \"uri\": \"/\", \"plugins\": {\"x\": {\"_meta\": {}}}}]}",
        "bind: [\"127.0.0.1:1\"]\ntls: {versions: [TLSv1.2]}\nlimits: {header_bytes: 64KiB}\n",
        "&a [*a, *a]",
        "!!binary x",
        "? {a: 1}\n: b\n",
        "<<: *x",
        "- - - - - -",
        "\u{feff}---\n",
    ];
    let mut state = 7_u64;
    for seed in seeds {
        parse_document(seed.as_bytes());
        for _ in 0..60 {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            parse_document(&bytes);
        }
    }
}
