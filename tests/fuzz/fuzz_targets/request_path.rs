//! The normal form of a path is its own normal form and holds no dot segment.
#![no_main]

use sluice::net::path::{Slashes, normalize_text};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for slashes in [Slashes::Merge, Slashes::Keep] {
        let Ok(normal) = normalize_text(text, slashes) else { continue };
        assert_eq!(normalize_text(&normal, slashes).as_deref().ok(), Some(&*normal), "{text:?}");
        assert!(normal.split('/').all(|segment| !matches!(segment, "." | "..")), "{text:?}");
    }
});
