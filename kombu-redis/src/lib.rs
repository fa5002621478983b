//! `redis://`: queues on a Redis server, shared with Python's kombu and Celery.
//!
//! - `redis://user:password@host:port/db`; what is missing is none, none, `localhost`, 6379 and 0.
//! - `redis+unix:///path/of/the.socket?db=0`, which may be written `redis+socket://` as kombu writes it; with a user,
//!   `redis+unix://user:password@localhost/path/of/the.socket`.
//! - `redis+sentinel://user:password@host1:26379,host2:26379/master?db=0`: each connect asks the Sentinels in turn where the
//!   master of this name is. The user is the master's; `?sentinel_username=TEXT` and `?sentinel_password=TEXT` are for the
//!   Sentinels. Redis replicates after it has answered, so what a master confirmed just before a failover may be lost.
//! - `?prefix=TEXT` before every key, `?lease=SECONDS`, `?fanout=kombu` to store what Python publishes to fanout exchanges,
//!   `?max_message_size=BYTES`.
//! - `rediss://` and `rediss+sentinel://` encrypt, with the feature `tls`. The server's certificate is always checked, against
//!   the authorities that the system trusts, `?ca_file=PATH` instead, or `?extra_ca_file=PATH` beside them, and against the
//!   host, or `?server_name=NAME`. `?cert_file=PATH` and `?key_file=PATH` are our own certificate.
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
mod hand;
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
