//! Where the tests find a broker of each kind.

mod memory;

pub use memory::MemoryHarness;
