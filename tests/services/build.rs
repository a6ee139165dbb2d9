//! Compiles the IM and the echo definitions.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    println!("cargo::rerun-if-changed=proto");
    let definitions = protox::compile(["im/v1/im.proto", "echo/v1/echo.proto"], ["../../proto", "proto"])?;
    tonic_prost_build::configure().compile_fds(definitions)?;
    Ok(())
}
