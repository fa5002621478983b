//! The conformance suite of kombu: what every transport does, one case per behaviour.
//!
//! The author of a transport says where the suite finds a broker, by implementing [`Harness`], and calls
//! [`conformance!`] in a test. Each case becomes a test of its own, such as
//! `memory::routing::fanout::every_bound_queue_gets_a_copy_whatever_the_keys_are`:
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use std::time::Duration;
//!
//! use kombu_testkit::{Broker, Harness, conformance};
//!
//! struct MemoryHarness;
//!
//! impl Harness for MemoryHarness {
//!     fn name(&self) -> &str {
//!         "memory"
//!     }
//!
//!     fn registry(&self) -> kombu::Registry {
//!         kombu::Registry::new().with(kombu::memory::Memory)
//!     }
//!
//!     async fn broker(&self) -> Broker {
//!         static NEXT: AtomicU64 = AtomicU64::new(0);
//!         let name = format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed));
//!         // In process: what one connection does, another one sees at once.
//!         Broker::new(self.registry(), format!("memory://{name}")).with_lag(Duration::ZERO)
//!     }
//!
//!     async fn clean_up(&self, broker: Broker) {
//!         kombu::memory::remove(broker.url().trim_start_matches("memory://"));
//!     }
//! }
//!
//! conformance!(memory, MemoryHarness);
//! # fn main() {
//! #     kombu_testkit::run(MemoryHarness, "routing::fanout::every_bound_queue_gets_a_copy_whatever_the_keys_are");
//! # }
//! ```
//!
//! The [`cases`] say what is asked for. Where a transport's capabilities leave a feature out, its cases ask for
//! the [`Unsupported`](kombu_core::ErrorKind::Unsupported) error instead; none passes by skipping. A case that
//! hangs fails after [`DEADLINE`].
//!
//! [`expect`] has what the cases wait for and compare with; other tests can use it too. [`history`] writes down what
//! happens while connections are cut, and finds what must not. The `oracle`, behind the feature of that name, compares two
//! brokers.

// A library of tests: it says no by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "awkward")]
pub mod awkward;
#[cfg(all(feature = "brokers", unix))]
pub mod brokers;
pub mod cases;
pub mod expect;
#[cfg(all(feature = "brokers", feature = "proxy", unix))]
pub mod faults;
mod freedom;
mod harness;
pub mod history;
#[cfg(feature = "oracle")]
pub mod oracle;
mod poll;
#[cfg(any(all(feature = "brokers", unix), feature = "proxy"))]
mod ports;
#[cfg(feature = "proxy")]
pub mod proxy;
mod run;
pub mod table;

pub use freedom::Freedom;
pub use harness::{Broker, Harness};
pub use poll::poll_then_drop;
pub use run::{Case, DEADLINE, Failure, all_cases, failures, run, run_isolation};

include!(concat!(env!("OUT_DIR"), "/each_case.rs"));

/// Makes a module with a test for each case of the suite.
///
/// The first argument names the module, the second one is an expression for the [`Harness`]; it is evaluated for
/// each test, and sees what is in scope at the call. Nothing else has to be a dependency of the calling crate.
///
/// ```
/// # struct MyHarness;
/// # impl kombu_testkit::Harness for MyHarness {
/// #     fn name(&self) -> &str { "mine" }
/// #     fn registry(&self) -> kombu::Registry { kombu::registry() }
/// #     async fn broker(&self) -> kombu_testkit::Broker {
/// #         kombu_testkit::Broker::new(self.registry(), "memory://mine")
/// #     }
/// # }
/// kombu_testkit::conformance!(mine, MyHarness);
/// # fn main() {}
/// ```
///
/// With `ignore_unless`, the tests are there but ignored unless a `cfg` is set, which a build script can do for
/// each broker that it finds:
///
/// ```
/// # #![allow(unexpected_cfgs)]
/// # struct MyHarness;
/// # impl kombu_testkit::Harness for MyHarness {
/// #     fn name(&self) -> &str { "mine" }
/// #     fn registry(&self) -> kombu::Registry { kombu::registry() }
/// #     async fn broker(&self) -> kombu_testkit::Broker {
/// #         kombu_testkit::Broker::new(self.registry(), "memory://mine")
/// #     }
/// # }
/// kombu_testkit::conformance!(mine, MyHarness, ignore_unless = kombu_test_mine);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    ($name:ident, $harness:expr $(,)?) => {
        $crate::__conformance!($name, $harness,);
    };
    ($name:ident, $harness:expr, ignore_unless = $present:meta $(,)?) => {
        $crate::__conformance!(
            $name,
            $harness,
            #[cfg_attr(not($present), ignore = "there is no broker of this kind to test against")]
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($name:ident, $harness:expr, $($attribute:tt)*) => {
        #[cfg(test)]
        mod $name {
            #[allow(unused_imports)] // the expression may need what is in scope at the call
            use super::*;

            fn harness() -> impl $crate::Harness {
                $harness
            }

            #[test]
            $($attribute)*
            fn brokers_of_the_harness_share_nothing() {
                $crate::run_isolation(harness());
            }

            $crate::__each_case!($($attribute)*);
        }
    };
}
