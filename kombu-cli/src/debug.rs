//! All that is published and received, told on standard error.

use std::io;

use kombu::Config;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// What the library says of itself. Drivers say what they send, which may be a password.
const OURS: &str = "kombu";

/// Begins to tell, if an argument or `POSTAGE_DEBUG_MODE` asks for it.
pub(crate) fn begin(is_asked: bool) {
    // What is wrong with the environment is told by what needs it.
    if is_asked || Config::from_env().is_ok_and(|config| config.is_debug()) {
        let ours = Targets::new().with_target(OURS, LevelFilter::DEBUG);
        let lines = fmt::layer().with_writer(io::stderr).with_filter(ours);
        tracing_subscriber::registry().with(lines).init();
    }
}
