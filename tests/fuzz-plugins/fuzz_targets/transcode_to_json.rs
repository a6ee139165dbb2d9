//! Any bytes as a message: an error, or JSON that is read and says the same.
#![no_main]

#[path = "../transcode.rs"]
mod transcode;

libfuzzer_sys::fuzz_target!(|wire: &[u8]| transcode::from_wire(wire));
