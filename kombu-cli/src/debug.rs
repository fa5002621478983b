//! What the library does, told on standard error.

use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::output;

/// What the library says of itself. Drivers say what they send, which may be a password.
const OURS: &str = "kombu";

/// Whether the environment asks for it.
pub(crate) fn is_asked() -> bool {
    // What is wrong with the environment is told by what needs it.
    kombu::Config::from_env().is_ok_and(|config| config.is_debug())
}

/// Begins to tell.
pub(crate) fn begin() {
    let ours = Targets::new().with_target(OURS, LevelFilter::DEBUG);
    let lines = fmt::layer().with_writer(|| Lines).with_filter(ours);
    tracing_subscriber::registry().with(lines).init();
}

/// Standard error, for lines as they are.
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        output::tell(&String::from_utf8_lossy(lines));
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
