//! What things are called on the server.
//!
//! Names of queues and exchanges are any text; those of streams, keys and subjects aren't. What doesn't fit is written
//! in hexadecimal, and what gets too long ends in a hash.

use std::fmt::Write as _;

use kombu_core::Name;

/// The longest name of a queue or an exchange within that of something else.
const MAX_LEN: usize = 150;

/// The streams, keys and subjects of one virtual host.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: String,
}

impl Layout {
    pub(crate) fn new(prefix: &str) -> Self {
        Layout {
            prefix: prefix.to_owned(),
        }
    }

    /// The bucket of the declarations.
    pub(crate) fn topology(&self) -> Bucket {
        Bucket::new(format!("{}_topology", self.prefix))
    }

    /// The bucket of who is there.
    pub(crate) fn sessions(&self) -> Bucket {
        Bucket::new(format!("{}_sessions", self.prefix))
    }

    /// The stream of what is delayed.
    pub(crate) fn later(&self) -> String {
        format!("{}-later", self.prefix)
    }

    /// The subject of what is delayed for the queue of a stream; `*` for all.
    pub(crate) fn later_subject(&self, stream: &str) -> String {
        format!("{}.later.{stream}", self.prefix)
    }

    /// The stream of a queue. Each declaration has one of its own, so that nobody deletes that of the next.
    pub(crate) fn stream(&self, queue: &str, id: &str) -> String {
        format!("{}-q-{}-{id}", self.prefix, encoded(queue))
    }

    /// The id in the name of a stream of a queue; `None` if it is something else's.
    pub(crate) fn id_of<'a>(&self, queue: &str, stream: &'a str) -> Option<&'a str> {
        let id = stream.strip_prefix(self.stream(queue, "").as_str())?;
        // That of another queue may begin with the name of this one.
        id.bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then_some(id)
    }

    /// The subject of a level of a queue; `*` for all.
    pub(crate) fn subject(&self, queue: &str, level: &str) -> String {
        format!("{}.q.{}.{level}", self.prefix, encoded(queue))
    }

    /// Where sessions tell each other that there is something to do at a queue; `*` for all.
    pub(crate) fn bell(&self, queue: &str) -> String {
        match queue {
            "*" => format!("{}.bell.*", self.prefix),
            queue => format!("{}.bell.{}", self.prefix, encoded(queue)),
        }
    }

    /// Where whoever publishes to a queue wakes those that wait for a message.
    pub(crate) fn news(&self, queue: &str) -> String {
        format!("{}.new.{}", self.prefix, encoded(queue))
    }

    /// The same for what is delayed.
    pub(crate) fn later_news(&self) -> String {
        format!("{}.delayed", self.prefix)
    }

    /// Where sessions are asked for what they hold.
    pub(crate) fn question(&self) -> String {
        format!("{}.held", self.prefix)
    }
}

/// A key-value bucket.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) stream: String,
    subjects: String,
}

impl Bucket {
    fn new(name: String) -> Self {
        Bucket {
            stream: format!("KV_{name}"),
            subjects: format!("$KV.{name}."),
        }
    }

    /// The subject of a key, or of a pattern of keys.
    pub(crate) fn subject(&self, key: &str) -> String {
        format!("{}{key}", self.subjects)
    }
}

/// A name as a token.
pub(crate) fn encoded(name: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        match is_plain(&byte) {
            true => token.push(char::from(byte)),
            // Writing to a string can't fail.
            false => {
                let _ = write!(token, "={byte:02x}");
            }
        }
    }
    if token.len() > MAX_LEN {
        token.truncate(MAX_LEN - 34);
        // Writing to a string can't fail.
        let _ = write!(token, "=={:032x}", hash(name.as_bytes()));
    }
    token
}

/// FNV-1a: the same in all versions.
pub(crate) fn hash(bytes: &[u8]) -> u128 {
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// A new part of a stream's name.
pub(crate) fn fresh_id() -> String {
    format!("{:x}", fastrand::u64(1 << 32..))
}

/// The keys of the declarations.
pub(crate) fn queue_key(name: &Name) -> String {
    format!("q.{}", encoded(name))
}

pub(crate) fn exchange_key(name: &Name) -> String {
    format!("x.{}", encoded(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_a_token_of_its_own() {
        assert_eq!(encoded("jobs"), "jobs");
        assert_eq!(encoded("a.b *>/é"), "a=2eb=20=2a=3e=2f=c3=a9");
        assert_ne!(encoded("a=2eb"), encoded("a.b"));
        let (one, other) = ("x".repeat(254) + "1", "x".repeat(254) + "2");
        assert_ne!(encoded(&one), encoded(&other));
        assert!(encoded(&one).len() <= MAX_LEN);
    }

    #[test]
    fn a_stream_is_that_of_one_queue() {
        let layout = Layout::new("kombu");
        let id = fresh_id();
        let stream = layout.stream("jobs-x", &id);
        assert_eq!(layout.id_of("jobs-x", &stream), Some(id.as_str()));
        assert_eq!(layout.id_of("jobs", &stream), None);
    }

    #[test]
    fn the_hash_stays_what_it_is() {
        assert_eq!(hash(b""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(hash(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
    }
}
