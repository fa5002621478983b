//! `redis://`: queues on a Redis server, shared with Python's kombu and Celery.
//!
//! - `redis://user:password@host:port/db`; what is missing is none, none, `localhost`, 6379 and 0.
//! - `redis+unix:///path/of/the.socket?db=0`, which may be written `redis+socket://` as kombu writes it.
//! - `?prefix=TEXT` before every key, `?lease=SECONDS`, `?max_message_size=BYTES`.
//!
//! All of them are described at [`RedisOptions`].

mod bell;
mod element;
mod error;
mod flight;
mod known;
mod left;
mod line;
mod pulse;
mod reader;
mod records;
mod script;
mod store;
mod texts;
mod transport;
mod work;

#[doc(hidden)]
pub use script::digests;
pub use transport::{Layout, Redis, RedisOptions};
