//! The page's files, as they were when the plugin was built.

/// A file of the page.
pub(crate) struct Asset {
    /// Its name below the folder the page is served from; empty for the page itself.
    pub(crate) name: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) bytes: &'static [u8],
    /// What changes when the bytes do.
    pub(crate) tag: u64,
}

const fn asset(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { name, content_type, bytes, tag: fingerprint(bytes) }
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All files.
pub(crate) const ASSETS: &[Asset] = &[
    asset("", "text/html; charset=utf-8", include_bytes!("../page/index.html")),
    asset("style.css", "text/css; charset=utf-8", include_bytes!("../page/style.css")),
    asset("app.js", SCRIPT, include_bytes!("../page/app.js")),
    asset("chat.js", SCRIPT, include_bytes!("../page/chat.js")),
    asset("ids.js", SCRIPT, include_bytes!("../page/ids.js")),
    asset("link.js", SCRIPT, include_bytes!("../page/link.js")),
    asset("login.js", SCRIPT, include_bytes!("../page/login.js")),
    asset("points.js", SCRIPT, include_bytes!("../page/points.js")),
    asset("view.js", SCRIPT, include_bytes!("../page/view.js")),
    asset("icon.svg", "image/svg+xml", include_bytes!("../page/icon.svg")),
];

/// FNV-1a. Computed when the plugin is built, so a request pays nothing for it.
const fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// The file of a name.
pub(crate) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}
