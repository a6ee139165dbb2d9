//! The frame decoder agrees with a plain parser, however the bytes are cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice::frame::fuzz::frame_decoder(data));
