//! The program: command line, start, signals, end.
pub mod boot;
pub mod cli;
pub mod status;
