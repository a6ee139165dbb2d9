//! Any text as JSON: an error, or bytes that are read and say the same.
#![no_main]

#[path = "../transcode.rs"]
mod transcode;

libfuzzer_sys::fuzz_target!(|json: &[u8]| transcode::from_json(json));
