//! The whole suite, on a shelf of its own for each case.

use std::time::Duration;

use kombu::Registry;
use kombu_testkit::{Broker, Harness, conformance};
use shelf_transport::Shelf;

struct ShelfHarness;

impl Harness for ShelfHarness {
    fn name(&self) -> &str {
        "shelf"
    }

    fn registry(&self) -> Registry {
        Registry::new().with(Shelf::default())
    }

    async fn broker(&self) -> Broker {
        // In process: what one connection does, another one sees at once.
        Broker::new(self.registry(), "shelf://conformance").with_lag(Duration::ZERO)
    }
}

conformance!(shelf, ShelfHarness);
