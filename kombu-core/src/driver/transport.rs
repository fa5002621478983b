use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::options;

use super::{Capabilities, Connection, ExchangeKinds};

/// Where to connect to: a URL whose password appears in no output.
#[derive(Clone)]
pub struct Target {
    url: Url,
    other_hosts: Arc<[(String, Option<u16>)]>,
    exchange_kinds: Arc<ExchangeKinds>,
    virtual_host: Name,
}

impl Target {
    /// A target from a parsed URL.
    pub fn new(url: Url) -> Self {
        Target {
            url,
            other_hosts: Arc::default(),
            exchange_kinds: Arc::default(),
            virtual_host: Name::EMPTY,
        }
    }

    pub(crate) fn with_virtual_host(mut self, name: Name) -> Self {
        self.virtual_host = name;
        self
    }

    /// The name of the virtual host that the URL names, as its transport has them; `/` if it names none. It is a
    /// [`Registry`](crate::Registry) that finds it out when it finds the transport: the name is empty before.
    pub fn virtual_host(&self) -> &Name {
        &self.virtual_host
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
                virtual_host: self.virtual_host.clone(),
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

    /// The virtual host that a URL means, as [`set_virtual_host`](Transport::set_virtual_host) has it; empty if it names none.
    fn virtual_host(&self, url: &Url) -> String {
        let path = url.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        percent_decode_str(path).decode_utf8_lossy().into_owned()
    }

    /// Completes a target before the first connect, so that every later connect reaches the same broker. What can be
    /// refused here should be, [options](Target::options) that it doesn't have for one: [`Registry::check`](crate::Registry::check) asks nothing else.
    ///
    /// `memory://` without a name gets its fresh name here.
    fn resolve(&self, target: Target) -> Result<Target> {
        Ok(target)
    }

    /// Connects: one attempt.
    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>>;
}
