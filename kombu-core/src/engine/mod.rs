//! Sessions that end and come back, behind the handles that users hold.
//!
//! A [`Session`] is one driver connection; it ends and never comes back. The supervisor makes the next one:
//! it waits for the end of the session, connects again with back-off, declares again what was declared, and when all of
//! that went well lets producers send again what isn't confirmed and hands the session out.

mod backoff;
mod events;
mod policy;
mod shared;
mod supervisor;

pub use events::{Entity, Event, Events, Health};
pub use policy::{Deadlines, RetryPolicy};
pub(crate) use policy::{by, check_runtime, deadline};
pub(crate) use shared::{Begin, LETS_GO_WITHIN, Restore, Session, Shared};
pub(crate) use supervisor::{Attempt, start};
