//! Layers that any transport can be wrapped in.

mod capable;
mod faults;

pub(crate) use capable::{Capable, Need, arguments, asking, check, kept, needs};
pub use faults::Faults;
