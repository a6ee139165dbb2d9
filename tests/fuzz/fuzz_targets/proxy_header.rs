//! A PROXY header is parsed the same whole as from any beginning of it that is
//! long enough, and never past its end.
#![no_main]

use sluice::net::proxy_protocol::parse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    let Ok(Some((header, used))) = &whole else { return };
    assert!(*used <= data.len());
    let alone = parse(&data[..*used]);
    assert_eq!(alone.as_ref().ok(), Some(&Some((header.clone(), *used))));
    for cut in 0..*used {
        assert!(matches!(parse(&data[..cut]), Ok(None)), "complete after {cut} of {used} bytes");
    }
});
