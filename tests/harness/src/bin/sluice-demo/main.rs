//! The demo: IM server, PHP site, HTTP echo and the gateway, started together,
//! with a page of commands to try.
//!
//! Run it as `cargo xtask demo`. With `--check` it takes free ports, runs the
//! commands of the page itself and fails when one does not show what the page
//! promises; a test does that. `page` holds the commands, `parts` what is
//! started.

mod page;
mod parts;

use std::process::ExitCode;

use parts::{Parts, Place};

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("sluice-demo: unknown argument {other}; the only one is --check");
            return ExitCode::FAILURE;
        }
    };
    let place = if check { Place::on_free_ports() } else { Place::on_known_ports() };
    let mut parts = Parts::start(&place);
    let page = page::Page::new(&place);
    if check {
        return page.check(&place);
    }
    page.print();
    parts.until_interrupted();
    println!("stopping");
    ExitCode::SUCCESS
}
