use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::options;

use super::{Capabilities, Connection, ExchangeKinds};

/// Where to connect to: a URL whose password appears in no output.
#[derive(Clone)]
pub struct Target {
    url: Url,
    other_hosts: Arc<[(String, Option<u16>)]>,
    exchange_kinds: Arc<ExchangeKinds>,
}

impl Target {
    /// A target from a parsed URL.
    pub fn new(url: Url) -> Self {
        Target {
            url,
            other_hosts: Arc::default(),
            exchange_kinds: Arc::default(),
        }
    }

    /// The same place, with the hosts and ports of these URLs beside that of its own.
    #[must_use]
    pub fn with_other_hosts(mut self, others: &[Url]) -> Self {
        let hosts = others.iter().map(|url| {
            let host = url.host_str().unwrap_or_default();
            (host.to_owned(), url.port())
        });
        self.other_hosts = hosts.collect();
        self
    }

    /// The hosts, each with its port, that a URL names beside the first: `scheme://first:1,second:2/path`. Only a
    /// transport that [takes](Transport::takes_hosts) them gets any.
    pub fn other_hosts(&self) -> &[(String, Option<u16>)] {
        &self.other_hosts
    }

    /// The same place, for a connection that knows these exchange kinds.
    #[must_use]
    pub fn with_exchange_kinds(mut self, kinds: Arc<ExchangeKinds>) -> Self {
        self.exchange_kinds = kinds;
        self
    }

    /// The exchange kinds that were registered for the connection.
    pub fn exchange_kinds(&self) -> &Arc<ExchangeKinds> {
        &self.exchange_kinds
    }

    /// The same place, with these credentials in place of those of the URL.
    pub fn with_credentials(&self, credentials: &Credentials) -> Result<Self> {
        // What looks like an encoded byte is none here.
        let encoded = |text: &str| text.replace('%', "%25");
        let mut url = self.url.clone();
        let set = url
            .set_username(&encoded(&credentials.user))
            .and_then(|()| url.set_password(Some(&encoded(&credentials.password))));
        match set {
            Ok(()) => Ok(Target {
                url,
                other_hosts: self.other_hosts.clone(),
                exchange_kinds: self.exchange_kinds.clone(),
            }),
            Err(()) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "a `{}` URL without a host takes no credentials",
                    url.scheme()
                ),
            )),
        }
    }

    /// The URL, secrets included. Never print it.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Reads the URL's query into a transport's options.
    ///
    /// `T` is a struct with `#[serde(default)]`. A key that it doesn't have, and a value that doesn't fit, are
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) errors that name the nearest known key.
    pub fn options<T: DeserializeOwned>(&self) -> Result<T> {
        options::from_pairs(self.url.query_pairs(), self.url.scheme())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        if url.password().is_some() && url.set_password(Some("**")).is_err() {
            return f.write_str(url.scheme());
        }
        // A query may carry credentials as well.
        let query = url.query().is_some();
        url.set_query(None);
        f.write_str(url.as_str())?;
        if query {
            f.write_str("?…")?;
        }
        for (host, port) in &*self.other_hosts {
            write!(f, " or {host}")?;
            if let Some(port) = port {
                write!(f, ":{port}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

/// What a URL is made of, for [`Registry::url_of`](crate::Registry::url_of).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'a> {
    /// The scheme.
    pub protocol: &'a str,
    /// Where the server is.
    pub host: Option<&'a str>,
    /// At which port it listens.
    pub port: Option<u16>,
    /// Who connects.
    pub user: Option<&'a str>,
    /// As whom.
    pub password: Option<&'a str>,
    /// Which space of names is meant.
    pub virtual_host: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// Where the transport of this scheme connects to by itself.
    pub fn new(protocol: &'a str) -> Self {
        Place {
            protocol,
            ..Place::default()
        }
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("protocol", &self.protocol)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("virtual_host", &self.virtual_host)
            .finish_non_exhaustive()
    }
}

/// Who connects.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl Credentials {
    /// Credentials of this user.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Credentials {
            user: user.into(),
            password: password.into(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("password", &format_args!("**"))
            .finish()
    }
}

/// A kind of broker.
///
/// ```
/// use kombu::driver::Transport;
///
/// let registry = kombu::Registry::new().with(kombu::memory::Memory);
/// assert_eq!(registry.schemes(), kombu::memory::Memory.schemes());
/// ```
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// The transport's name, for messages.
    fn name(&self) -> &'static str;

    /// The URL schemes that it answers to, in lower case.
    fn schemes(&self) -> &'static [&'static str];

    /// What it can do, as far as that is known without a broker.
    fn capabilities(&self) -> Capabilities;

    /// Whether a URL of this scheme may name several hosts, with commas between them: [`Target::other_hosts`].
    fn takes_hosts(&self, scheme: &str) -> bool {
        let _ = scheme;
        false
    }

    /// Has a URL mean a virtual host: a space of names of its own on the same server. Default: it is the path.
    fn set_virtual_host(&self, url: &mut Url, name: &str) {
        // A URL without a host has no path to set.
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push(name);
        }
    }

    /// Completes a target before the first connect, so that every later connect reaches the same broker.
    ///
    /// `memory://` without a name gets its fresh name here.
    fn resolve(&self, target: Target) -> Result<Target> {
        Ok(target)
    }

    /// Connects: one attempt.
    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>>;
}
