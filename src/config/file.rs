//! The sections of a file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use kombu_core::{Error, Exchange, Queue, mom, occo};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{connection, handles};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename = "configuration")]
pub(super) struct File {
    pub(super) connections: BTreeMap<String, connection::Settings>,
    pub(super) exchanges: BTreeMap<String, Exchange>,
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) producers: BTreeMap<String, handles::Producer>,
    pub(super) consumers: BTreeMap<String, handles::Consumer>,
    pub(super) rpc: BTreeMap<String, handles::Rpc>,
    pub(super) handlers: BTreeMap<String, handles::Handlers>,
    #[serde(deserialize_with = "names")]
    pub(super) senders: Vec<mom::Sender>,
    #[serde(deserialize_with = "names")]
    pub(super) receivers: Vec<mom::Receiver>,
    pub(super) mqconfig: Option<occo::Config>,
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
