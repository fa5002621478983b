//! The sections of a file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kombu_core::{Error, Exchange, Queue, mom, occo};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

#[cfg(feature = "schema")]
use super::schema::OneOrSeveral;
use super::{connection, handles};

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "configuration")]
pub(super) struct File {
    /// By name; `default` is the one that is meant when none is named.
    pub(super) connections: BTreeMap<String, connection::Settings>,
    /// Declarations, by the names that the rest of the file has for them.
    pub(super) exchanges: BTreeMap<String, Exchange>,
    /// Declarations, by the names that the rest of the file has for them.
    pub(super) queues: BTreeMap<String, Queue>,
    /// What sends, by name.
    pub(super) producers: BTreeMap<String, handles::Producer>,
    /// What receives, by name.
    pub(super) consumers: BTreeMap<String, handles::Consumer>,
    /// What makes calls, by name.
    pub(super) rpc: BTreeMap<String, handles::Rpc>,
    /// How functions of the program serve queues, by name.
    pub(super) handlers: BTreeMap<String, handles::Handlers>,
    /// Canopsis' senders: a name, or `name:mode`.
    #[cfg_attr(feature = "schema", schemars(with = "Option<OneOrSeveral<String>>"))]
    #[serde(deserialize_with = "names")]
    pub(super) senders: Vec<mom::Sender>,
    /// Canopsis' receivers: a name, or `name:callback`.
    #[cfg_attr(feature = "schema", schemars(with = "Option<OneOrSeveral<String>>"))]
    #[serde(deserialize_with = "names")]
    pub(super) receivers: Vec<mom::Receiver>,
    /// OCCO's configuration.
    pub(super) mqconfig: Option<occo::Config>,
    /// Several of OCCO's configurations, by name.
    pub(super) endpoints: BTreeMap<String, occo::Config>,
    /// Of canopsis' own files.
    #[serde(skip)]
    pub(super) moms: BTreeMap<String, mom::Settings>,
}

/// A list, or a text with commas.
fn names<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = Error>,
{
    struct Names<T>(std::marker::PhantomData<T>);

    impl<T: FromStr<Err = Error>> Names<T> {
        fn parse<E: de::Error>(text: &str) -> Result<T, E> {
            text.parse()
                .map_err(|error: Error| E::custom(error.message()))
        }
    }

    impl<'de, T: FromStr<Err = Error>> Visitor<'de> for Names<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of names")
        }

        fn visit_unit<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let names = text.split(',').map(str::trim);
            names
                .filter(|name| !name.is_empty())
                .map(Self::parse)
                .collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = seq.next_element::<String>()? {
                names.push(Self::parse(&name)?);
            }
            Ok(names)
        }
    }

    deserializer.deserialize_any(Names(std::marker::PhantomData))
}
