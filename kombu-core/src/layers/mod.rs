//! Layers that any transport can be wrapped in.

mod capable;
mod faults;

pub(crate) use capable::{Capable, check};
pub use faults::Faults;
