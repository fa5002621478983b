//! The four ways to settle a delivery, and where the message is afterwards.

pub mod acking;
pub mod dead_letters;
pub mod rejecting;
pub mod releasing;
pub mod retrying;
