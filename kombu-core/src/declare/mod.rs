//! Exchanges, queues and bindings as plain values.
//!
//! A declaration says what should be there. It holds no connection: it can be a constant of the
//! program, stand in a configuration file, be compared, cloned and sent anywhere. A connection
//! declares it when a producer or a consumer is opened on it, or when asked to.
//!
//! ```
//! use kombu_core::declare::{Exchange, Queue};
//! use std::time::Duration;
//!
//! let media = Exchange::topic("media");
//! let videos = Queue::new("videos")
//!     .bind(&media, "video.#")
//!     .message_ttl(Duration::from_secs(60))
//!     .dead_letter_exchange("failed");
//!
//! assert_eq!(videos.bindings().len(), 1);
//! assert!(videos.check().is_ok());
//! ```
//!
//! Setters have the name of the attribute (`durable(false)`, `message_ttl(…)`) and can be called in
//! any order. They are read by `is_durable()` where the answer is yes or no, else by
//! `get_message_ttl()`; what can't be set after the constructor is read by its plain name.
//!
//! # In files
//!
//! Every declaration is read and written by serde, in any format that has maps. Defaults are left out,
//! and an unknown key is an error. Durations are texts such as `30s`, see [`duration`].
//!
//! ```yaml
//! name: videos
//! message_ttl: 1m
//! dead_letter_exchange: failed
//! bindings:
//! - exchange: {name: media, type: topic}
//!   routing_key: video.#
//! ```

mod binding;
mod check;
mod difference;
pub mod duration;
mod exchange;
mod kind;
mod known;
mod mode;
mod queue;

pub use binding::Binding;
pub(crate) use check::{LONGEST, check_match};
pub use difference::Difference;
pub use exchange::Exchange;
pub use kind::{ExchangeKind, Overflow, QueueType};
pub use mode::{DeclareMode, DeliveryMode};
pub use queue::Queue;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_true(value: &bool) -> bool {
    *value
}
