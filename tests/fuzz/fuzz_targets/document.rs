//! No document, YAML or JSON, makes the parser panic or grow without bound.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice::config::parse_document(data));
