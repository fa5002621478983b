//! What every transport does, on every transport.

use kombu_testkit::conformance;
use kombu_tests::MemoryHarness;

conformance!(memory, MemoryHarness::new());
