//! Layers that any transport can be wrapped in.

mod faults;

pub use faults::Faults;
