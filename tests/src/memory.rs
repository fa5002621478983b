use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kombu::Registry;
use kombu_testkit::{Broker, Harness};

/// A broker of the memory transport for each case, under a name that no other case has.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryHarness;

impl MemoryHarness {
    /// The harness.
    pub fn new() -> Self {
        MemoryHarness
    }
}

impl Harness for MemoryHarness {
    fn name(&self) -> &str {
        "memory"
    }

    fn registry(&self) -> Registry {
        Registry::new().with(kombu::memory::Memory)
    }

    async fn broker(&self) -> Broker {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Broker::new(self.registry(), format!("memory://{name}"))
            .with_lag(Duration::ZERO)
            .keep(Removed(name))
    }
}

/// Forgets the broker when the case is over.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        kombu::memory::remove(&self.0);
    }
}
