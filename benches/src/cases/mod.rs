//! One file per promise; each case is our side and the limit that it is held against.

mod codec;
mod memory;

use std::error::Error;

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Something to measure.
pub(crate) struct Case {
    /// What it is called, by theme and behaviour.
    pub(crate) name: &'static str,
    /// The ratio of our rate to the limit's that has to be reached.
    pub(crate) bar: f64,
    /// Operations per run.
    pub(crate) count: u64,
    /// Our side.
    pub(crate) ours: Box<dyn Fn(u64) -> Outcome>,
    /// The other side.
    pub(crate) limit: Box<dyn Fn(u64) -> Outcome>,
}

/// All of them, in the order in which they are run.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = memory::cases();
    cases.extend(codec::cases());
    cases
}
