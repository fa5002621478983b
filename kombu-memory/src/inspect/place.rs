use std::fmt;
use std::sync::Arc;

use kombu_core::serializers::Registry;
use kombu_core::{Connection, Error, ErrorKind, Result};
use url::Url;

use crate::broker::{self, Broker};

/// Which broker is meant: made of its name, its URL, or a connection to it.
///
/// A name may be followed by a virtual host: `orders/tests` is `memory://orders/tests`. Options in a URL don't matter.
pub struct Place {
    pub(super) url: String,
    pub(super) serializers: Registry,
}

impl From<&str> for Place {
    fn from(text: &str) -> Self {
        let url = match text.contains("://") {
            true => text.to_owned(),
            false => format!("memory://{text}"),
        };
        Place {
            url,
            serializers: Registry::default(),
        }
    }
}

impl From<&String> for Place {
    fn from(text: &String) -> Self {
        Place::from(text.as_str())
    }
}

impl From<&Connection> for Place {
    /// The first of the connection's URLs, and its serializers.
    fn from(connection: &Connection) -> Self {
        Place {
            url: connection.target().url().to_string(),
            serializers: connection.serializers().clone(),
        }
    }
}

impl fmt::Debug for Place {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

pub(super) fn find(url: &str) -> Result<Arc<Broker>> {
    let url = Url::parse(url).map_err(|problem| {
        Error::new(
            ErrorKind::Config,
            format!("malformed URL: {problem}; write the broker's name, or `memory://name`"),
        )
    })?;
    if url.scheme() != "memory" {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "a broker behind `{}://` can't be looked into; only one on `memory://` can",
                url.scheme()
            ),
        ));
    }
    broker::find(&url).ok_or_else(|| {
        let problem = match url.host_str().is_none_or(str::is_empty) && url.fragment().is_none() {
            true => "`memory://` without a name is a fresh broker for each connection; inspect the connection".to_owned(),
            false => format!(
                "there is no broker `memory://{}{}` in this process; connect to it before, and look for a typing mistake",
                url.host_str().unwrap_or_default(),
                url.path()
            ),
        };
        Error::new(ErrorKind::NotFound, problem)
    })
}
