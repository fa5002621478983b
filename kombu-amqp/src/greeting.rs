//! What the broker says first: `connection.start`, which tells its version and names the mechanisms that it takes.
//!
//! One that is asked for another mechanism hangs up after some seconds without a word, and lapin asks all the same. Lapin
//! keeps the version to itself.

use std::fmt;
use std::sync::{Arc, OnceLock};

use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};

/// What the broker is, once it has told it.
pub(crate) type Told = Arc<OnceLock<Server>>;

/// What the broker calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    product: String,
    version: String,
}

impl Server {
    fn of(properties: &FieldTable) -> Option<Self> {
        let text = |name: &str| match properties.inner().get(name) {
            Some(AMQPValue::LongString(text)) => Some(String::from_utf8_lossy(text.as_bytes())),
            _ => None,
        };
        Some(Server {
            product: text("product").unwrap_or("AMQP".into()).into_owned(),
            version: text("version")?.into_owned(),
        })
    }

    /// 4 for `4.0.5`.
    pub(crate) fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.product, self.version)
    }
}

/// Reads along until the greeting is complete.
pub(crate) struct Greeting {
    mechanism: &'static str,
    told: Told,
    read: Vec<u8>,
}

/// More than any greeting takes.
const MOST: usize = 64 * 1024;
/// Type, channel and length of a frame.
const FRAME_HEADER: usize = 7;

impl Greeting {
    /// Expects one that has this mechanism, and takes from it what the broker is.
    pub(crate) fn expect(mechanism: &'static str, told: Told) -> Self {
        Greeting {
            mechanism,
            told,
            read: Vec::new(),
        }
    }

    /// Takes what came next. `None` as long as the greeting isn't complete; whatever isn't one is left to lapin.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Option<Result<(), Unoffered>> {
        self.read.extend_from_slice(bytes);
        let length = u32::from_be_bytes(*self.read.get(3..)?.first_chunk()?);
        let end = FRAME_HEADER + usize::try_from(length).unwrap_or(MOST);
        if end > MOST {
            return Some(Ok(()));
        }
        let method = self.read.get(FRAME_HEADER..end)?;
        let (properties, offered) = start(method).unzip();
        if let Some(server) = properties.as_ref().and_then(Server::of) {
            // Further connections are to the same broker.
            self.told.get_or_init(|| server);
        }
        Some(match offered {
            Some(offered) if !offered.split(' ').any(|name| name == self.mechanism) => {
                Err(Unoffered {
                    wanted: self.mechanism,
                    offered: offered.to_owned(),
                })
            }
            _ => Ok(()),
        })
    }
}

/// What `connection.start` says of the broker, and its mechanisms.
fn start(method: &[u8]) -> Option<(FieldTable, &str)> {
    const CLASS_AND_METHOD: [u8; 4] = [0, 10, 0, 10];
    let protocol = method.strip_prefix(&CLASS_AND_METHOD)?;
    let (rest, properties) = parse_field_table(protocol.get(2..)?).ok()?;
    let (mechanisms, _locales) = long(rest)?;
    Some((properties, std::str::from_utf8(mechanisms).ok()?))
}

/// A field that begins with its length, and what is behind it.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// The broker doesn't take the mechanism.
#[derive(Debug)]
pub(crate) struct Unoffered {
    wanted: &'static str,
    offered: String,
}

impl fmt::Display for Unoffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unoffered { wanted, offered } = self;
        write!(f, "the broker takes {offered} and not {wanted}; ")?;
        f.write_str(match *wanted {
            "EXTERNAL" => {
                "enable its plugin `rabbitmq_auth_mechanism_ssl` and add EXTERNAL to its `auth_mechanisms`"
            }
            _ => "set `auth_mechanism`, or add it to the broker's `auth_mechanisms`",
        })
    }
}

impl std::error::Error for Unoffered {}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(mechanisms: &str) -> Vec<u8> {
        let mut method = vec![0, 10, 0, 10, 0, 9];
        let properties = b"\x07versionS\0\0\0\x054.0.5";
        for field in [properties, mechanisms.as_bytes(), b"en_US"] {
            method.extend((field.len() as u32).to_be_bytes());
            method.extend(field);
        }
        let mut frame = vec![1, 0, 0];
        frame.extend((method.len() as u32).to_be_bytes());
        frame.extend(method);
        frame.push(0xCE);
        frame
    }

    #[test]
    fn a_mechanism_is_found_among_those_that_are_offered() {
        let mut expecting = Greeting::expect("EXTERNAL", Told::default());
        assert!(matches!(
            expecting.add(&greeting("PLAIN EXTERNAL")),
            Some(Ok(()))
        ));
        let mut expecting = Greeting::expect("EXTERNAL", Told::default());
        let refused = expecting.add(&greeting("PLAIN EXTERNALLY"));
        let text = refused.unwrap().unwrap_err().to_string();
        assert!(text.contains("takes PLAIN EXTERNALLY and not"), "{text}");
    }

    #[test]
    fn the_version_is_taken_from_it() {
        let told = Told::default();
        let mut expecting = Greeting::expect("PLAIN", told.clone());
        assert!(matches!(expecting.add(&greeting("PLAIN")), Some(Ok(()))));
        let server = told.get().unwrap();
        assert_eq!(server.major(), Some(4));
        assert_eq!(server.to_string(), "AMQP 4.0.5");
    }

    #[test]
    fn a_greeting_may_come_in_pieces() {
        let whole = greeting("PLAIN");
        let mut expecting = Greeting::expect("EXTERNAL", Told::default());
        let (last, first) = whole[..whole.len() - 1].split_last().unwrap();
        for byte in first {
            assert!(expecting.add(&[*byte]).is_none());
        }
        assert!(matches!(expecting.add(&[*last]), Some(Err(_))));
    }

    #[test]
    fn what_is_no_greeting_is_left_alone() {
        for other in [
            &b"AMQP\0\0\x09\x01"[..],
            &[1, 0, 0, 0, 0, 0, 0, 0xCE],
            &[0xFF; 32],
        ] {
            let said = Greeting::expect("PLAIN", Told::default()).add(other);
            assert!(matches!(said, None | Some(Ok(()))), "{other:?}");
        }
    }
}
