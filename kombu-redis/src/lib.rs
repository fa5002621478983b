//! `redis://`: queues on a Redis server, shared with Python's kombu and Celery.
//!
//! - `redis://user:password@host:port/db`; what is missing is none, none, `localhost`, 6379 and 0.
//! - `redis+unix:///path/of/the.socket?db=0`, which may be written `redis+socket://` as kombu writes it.
//! - `?prefix=TEXT` before every key, `?lease=SECONDS`, `?max_message_size=BYTES`.
//!
//! All of them are described at [`RedisOptions`].
//!
//! It takes Redis 7.0 or newer, and no cluster. Messages and bindings lie where Python's kombu has them, so that both may publish
//! to, bind and consume the same queues; everything else, such as what is unsettled, is in keys of ours below
//! `_kombu.rs.`, and changed by scripts on the server. Exchanges, dead letters and the rest are what
//! [`kombu_core::virt`] makes of that.

mod bell;
mod dial;
mod element;
mod error;
mod flight;
mod hear;
mod known;
mod left;
mod line;
mod look;
mod pulse;
mod reader;
mod records;
mod script;
mod store;
mod texts;
mod transport;
mod work;

#[cfg(feature = "tls")]
pub use kombu_core::driver::tls::rustls;
#[doc(hidden)]
pub use script::digests;
#[cfg(feature = "tls")]
pub use transport::RedisWithTls;
pub use transport::{Fanout, Layout, Redis, RedisOptions, Secret};
