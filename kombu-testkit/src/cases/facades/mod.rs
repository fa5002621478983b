//! What older libraries called their objects, over what is here.

pub mod mom;
pub mod occo;
