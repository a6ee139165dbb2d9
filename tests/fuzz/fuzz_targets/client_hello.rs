//! A ClientHello that is understood is understood the same with more behind it.
#![no_main]

use sluice::net::tls::hello::parse;

const LIMIT: usize = 16 << 10;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Some(hello)) = parse(data, LIMIT) {
        let mut longer = data.to_vec();
        longer.extend_from_slice(&[0; 7]);
        assert_eq!(parse(&longer, LIMIT).ok().flatten().map(|hello| hello.sni), Some(hello.sni));
    }
});
