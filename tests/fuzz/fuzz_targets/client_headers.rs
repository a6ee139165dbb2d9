//! What clients say of themselves: forwarding headers, paths, traces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice::message::fuzz::client_headers(data));
