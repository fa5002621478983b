use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::client::Connection;

/// Who sent a message. Host and process together are one component's alone; the rest is for people.
///
/// ```
/// use kombu::postage::Fingerprint;
///
/// let me = Fingerprint::of_process().named("resizer", "worker");
/// assert_eq!(me.pid.as_deref(), Some(std::process::id().to_string().as_str()));
/// let [name, kind, ..] = me.as_tuple();
/// assert_eq!((name, kind), (Some("resizer"), Some("worker")));
/// ```
///
/// It is a map of these six on the wire, of texts or null; whatever else others write there is read as nothing. Any other type
/// that is written as a map can take its place: see [`OpenProducer::fingerprint`](super::OpenProducer::fingerprint).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Fingerprint {
    /// The component's name.
    pub name: Option<String>,
    /// What kind of component it is.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The number of its process, as text.
    pub pid: Option<String>,
    /// The host that it runs on.
    pub host: Option<String>,
    /// The user whose process it is.
    pub user: Option<String>,
    /// The virtual host that it is connected to.
    pub vhost: Option<String>,
}

impl Fingerprint {
    /// That of this process, as far as the system tells: without a name, a type and a virtual host.
    pub fn of_process() -> Self {
        Fingerprint {
            pid: Some(std::process::id().to_string()),
            host: whoami::hostname().ok(),
            user: whoami::username().ok(),
            ..Fingerprint::default()
        }
    }

    /// With a name and a type.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>, kind: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self.kind = Some(kind.into());
        self
    }

    /// With the [virtual host](crate::driver::Target::virtual_host) of a connection.
    #[must_use]
    pub fn on(mut self, connection: &Connection) -> Self {
        self.vhost = Some(connection.target().virtual_host().to_string());
        self
    }

    /// Name, type, process, host, user and virtual host.
    pub fn as_tuple(&self) -> [Option<&str>; 6] {
        let Fingerprint {
            name,
            kind,
            pid,
            host,
            user,
            vhost,
        } = self;
        [name, kind, pid, host, user, vhost].map(Option::as_deref)
    }

    /// What no other component that runs has: its host and its process.
    pub fn key(&self) -> Option<(&str, &str)> {
        self.host.as_deref().zip(self.pid.as_deref())
    }
}

/// Who sent a message is no reason not to read it.
impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Map(BTreeMap<String, Said>),
            Other(IgnoredAny),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Said {
            Text(String),
            // Some write the process so.
            Number(i64),
            Other(IgnoredAny),
        }
        let Written::Map(mut map) = Written::deserialize(deserializer)? else {
            return Ok(Fingerprint::default());
        };
        let mut text = |key: &str| match map.remove(key)? {
            Said::Text(text) => Some(text),
            Said::Number(number) => Some(number.to_string()),
            Said::Other(_) => None,
        };
        Ok(Fingerprint {
            name: text("name"),
            kind: text("type"),
            pid: text("pid"),
            host: text("host"),
            user: text("user"),
            vhost: text("vhost"),
        })
    }
}
