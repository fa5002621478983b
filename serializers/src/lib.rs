//! Codecs for message bodies: chosen by name when a value is sent, by content type when one
//! arrives. Compression likewise.
//!
//! | codec | content type | encoding | feature |
//! |---|---|---|---|
//! | `json`, `Codec::JSON` | `application/json` | `utf-8` | `json` |
//! | `msgpack`, `Codec::MSGPACK` | `application/x-msgpack` | `binary` | `msgpack` |
//! | `yaml`, `Codec::YAML` | `application/x-yaml` | `utf-8` | `yaml` |
//! | `raw`, `Codec::RAW` | `application/data` | `binary` | `raw` |
//! | `text`, `Codec::TEXT` | `text/plain` | `utf-8` | `raw` |
//!
//! These are the content types that Python kombu writes. Others join a [`Registry`] at run time,
//! built by [`Codec::builder`]. Nothing in here knows of brokers.
//!
//! ```
//! # #[cfg(feature = "json")] {
//! use kombu_serializers::{Accept, Registry};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Video<'a> {
//!     name: &'a str,
//!     size: u64,
//! }
//!
//! let codecs = Registry::default();
//!
//! let json = codecs.by_name("json")?;
//! let body = json.encode(&Video { name: "lolcat1.avi", size: 1_301_013 })?;
//!
//! let accept = Accept::only(["json", "application/x-msgpack"]);
//! let codec = codecs.decoder_for(Some(json.content_type()), Some(json.content_encoding()), &accept)?;
//! let video: Video = codec.decode(&body)?;          // `name` borrows from the body
//! assert_eq!(video.name, "lolcat1.avi");
//! # }
//! # Ok::<(), kombu_serializers::SerializerError>(())
//! ```
//!
//! # Compression
//!
//! Between codec and broker, a body can pass a [`Stage`]: compression, or what a program registers, such as
//! encryption. Senders choose it by name or alias, receivers by content type.
//!
//! | stage | alias | content type | format | feature |
//! |---|---|---|---|---|
//! | `zlib` | `gzip` | `application/x-gzip` | a zlib stream, not gzip's | `zlib` |
//! | `bzip2` | `bzip` | `application/x-bz2` | a bz2 stream | `bzip2` |
//! | `zstd` | `zstandard` | `application/zstd` | a frame, without a dictionary | `zstd`, which compiles C |
//!
//! Names and formats are Python kombu's. A body is one stream or frame: where Python reads several of them
//! (bz2) or drops what follows (zlib), this is an error.
//!
//! # Bodies that mean harm
//!
//! A body is refused with an error, quickly and without recursion to the end of the stack, if it
//!
//! - nests more than 127 sequences and maps in one another, registered codecs included, or 32 in
//!   YAML;
//! - claims lengths that it doesn't have;
//! - goes on behind its value (every built-in codec);
//! - makes much of little by YAML's aliases, tags, or keys within keys, or has a YAML key twice;
//! - is compressed and comes to more than the limit that the receiver gives. It is refused when the limit is
//!   reached: what is held is the limit and less than 1 MiB, or 5 MiB for bzip2, whose blocks take as much.
//!
//! Tags in YAML never make types. How large a body may be is for the one who receives it to decide:
//! what a codec decodes takes memory in proportion to the body.
//!
//! # What each format keeps
//!
//! | | json | msgpack | yaml |
//! |---|---|---|---|
//! | integers | `i64::MIN` to `u64::MAX` | `i64::MIN` to `u64::MAX` | `i64::MIN` to `u64::MAX` |
//! | floats | exactly; NaN and infinities become `null` | exactly | exactly |
//! | bytes (`serialize_bytes`) | an array of numbers | bytes | `!!binary`; an array if the body is nothing else |
//! | keys of maps | strings; numbers and booleans become strings, others are refused | anything | anything |
//! | `Some(None)` | `None` | `None` | `None` |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod accept;
mod builder;
mod builtin;
mod codec;
mod content;
mod error;
mod limits;
mod registered;
mod registry;
mod scratch;
mod stage;
mod stages;
mod value;

pub use accept::Accept;
pub use builder::CodecBuilder;
pub use codec::Codec;
pub use error::{BoxError, SerializerError, SerializerErrorKind};
pub use registered::{Decoder, Encoder, Visit};
pub use registry::Registry;
pub use stage::{ByteStage, Stage};
pub use stages::Stages;
pub use value::Value;

/// The crate whose objects an [`Encoder`] and a [`Decoder`] deal with, in the version that they
/// deal with.
pub use erased_serde;
