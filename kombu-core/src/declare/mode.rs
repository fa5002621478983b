use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// What a connection does about a declaration before it is used.
///
/// A declaration that sets none follows the handle or the connection that uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DeclareMode {
    /// Declare it. An equal one that is there already is fine, a different one is an error.
    #[default]
    Ensure,
    /// Ask whether something of this name is there, and create nothing; AMQP's `passive`.
    ///
    /// Brokers compare nothing but the name.
    Verify,
    /// Do nothing: somebody else declares it.
    Never,
}

/// Whether a message should survive a restart of the broker. It does so only in a durable queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum DeliveryMode {
    /// Kept in memory; AMQP's 1.
    Transient = 1,
    /// Written to disk; AMQP's 2.
    #[default]
    Persistent = 2,
}

impl From<DeliveryMode> for u8 {
    fn from(mode: DeliveryMode) -> u8 {
        mode as u8
    }
}

/// Fails with [`ErrorKind::Protocol`] for anything but 1 and 2.
impl TryFrom<u8> for DeliveryMode {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self> {
        match number {
            1 => Ok(DeliveryMode::Transient),
            2 => Ok(DeliveryMode::Persistent),
            _ => Err(Error::new(
                ErrorKind::Protocol,
                format!("{number} is no delivery mode; AMQP has 1 (transient) and 2 (persistent)"),
            )),
        }
    }
}
