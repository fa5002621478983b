use percent_encoding::percent_decode_str;
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
/// It is a map of these six on the wire, of texts or null. Any other type that is written as a map can take its place:
/// see [`OpenProducer::fingerprint`](super::OpenProducer::fingerprint).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// The component's name.
    pub name: Option<String>,
    /// What kind of component it is.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The number of its process, as text.
    #[serde(deserialize_with = "text_or_number")]
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

    /// With the virtual host that a connection's URL names; `/` if it names none.
    #[must_use]
    pub fn on(mut self, connection: &Connection) -> Self {
        let path = connection.target().url().path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let vhost = percent_decode_str(path).decode_utf8_lossy();
        self.vhost = Some(match &*vhost {
            "" => "/".to_owned(),
            vhost => vhost.to_owned(),
        });
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

/// Some write the process as a number.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Pid {
        Text(String),
        Number(i64),
    }
    Ok(Option::deserialize(deserializer)?.map(|pid| match pid {
        Pid::Text(pid) => pid,
        Pid::Number(pid) => pid.to_string(),
    }))
}
