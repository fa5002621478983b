use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use url::Url;

use crate::driver::{Capabilities, Target, Transport};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::options::nearest;

/// Transports by URL scheme.
///
/// A plain value: nothing is registered behind a program's back. The facade's `kombu::registry()` has the
/// transports that its features built in; [`with`](Registry::with) adds one from any other crate.
#[derive(Clone, Default)]
pub struct Registry {
    transports: BTreeMap<&'static str, Arc<dyn Transport>>,
    absent: BTreeMap<&'static str, &'static str>,
}

impl Registry {
    /// A registry without any transport.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transport under all of its schemes, in place of one that had them before.
    #[must_use]
    pub fn with(mut self, transport: impl Transport) -> Self {
        let transport: Arc<dyn Transport> = Arc::new(transport);
        for scheme in transport.schemes() {
            self.absent.remove(scheme);
            self.transports.insert(scheme, transport.clone());
        }
        self
    }

    /// Says which cargo feature would add a scheme, for the error that a user of it meets.
    #[must_use]
    pub fn without(mut self, scheme: &'static str, feature: &'static str) -> Self {
        if !self.transports.contains_key(scheme) {
            self.absent.insert(scheme, feature);
        }
        self
    }

    /// What the transport of a scheme can do, as far as that is known without a broker.
    pub fn capabilities(&self, scheme: &str) -> Option<Capabilities> {
        self.transports
            .get(scheme)
            .map(|transport| transport.capabilities())
    }

    /// All schemes, in alphabetical order.
    pub fn schemes(&self) -> Vec<&'static str> {
        self.transports.keys().copied().collect()
    }

    /// A URL of its parts. What isn't set is left to the transport.
    ///
    /// ```
    /// use kombu::Place;
    ///
    /// let registry = kombu::registry();
    /// let mut place = Place::new("memory");
    /// place.host = Some("shop");
    /// place.virtual_host = Some("tests/night");
    /// assert_eq!(registry.url_of(&place)?, "memory://shop/tests%2Fnight");
    /// # Ok::<(), kombu::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownScheme`], and [`ErrorKind::Config`] if the parts make no URL.
    pub fn url_of(&self, place: &Place<'_>) -> Result<String> {
        let Some(transport) = self.transports.get(place.protocol) else {
            return Err(self.unknown(place.protocol));
        };
        // An empty host, which is each transport's own default, takes nothing else.
        let is_alone = (place.port, place.user, place.password) == (None, None, None);
        let host = place
            .host
            .unwrap_or(if is_alone { "" } else { "localhost" });
        let mut url = parse(&format!("{}://{host}", place.protocol))?;
        let impossible = |what: &str| {
            let scheme = place.protocol;
            let message = format!("a `{scheme}` URL with this host takes no {what}");
            Error::new(ErrorKind::Config, message)
        };
        let encoded = |text: &str| text.replace('%', "%25");
        if place.port.is_some() {
            let set = url.set_port(place.port);
            set.map_err(|()| impossible("port"))?;
        }
        if let Some(user) = place.user {
            let set = url.set_username(&encoded(user));
            set.map_err(|()| impossible("user"))?;
        }
        if let Some(password) = place.password {
            let set = url.set_password(Some(&encoded(password)));
            set.map_err(|()| impossible("password"))?;
        }
        match place.virtual_host {
            None | Some("" | "/") => {}
            Some(name) => transport.set_virtual_host(&mut url, name),
        }
        Ok(url.into())
    }

    /// What can be said about a URL without connecting: whether it is one, has a transport, and only options that the transport
    /// has, with values of their kinds. What they mean together is told when it connects.
    ///
    /// ```
    /// let wrong = kombu::registry().check("memory://?histroy=5").unwrap_err();
    /// assert!(wrong.to_string().contains("did you mean `history`?"));
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], and [`ErrorKind::UnknownScheme`] without a transport.
    pub fn check(&self, url: &str) -> Result<()> {
        self.resolve(url).map(drop)
    }

    /// Finds the transport for a URL, and completes the URL to a target.
    pub(crate) fn resolve(&self, url: &str) -> Result<(Arc<dyn Transport>, Target)> {
        let takes_hosts = |scheme: &str| {
            let scheme = scheme.to_ascii_lowercase();
            let transport = self.transports.get(scheme.as_str());
            transport.is_some_and(|transport| transport.takes_hosts(&scheme))
        };
        let (url, others) = match url.split_once("://") {
            Some((scheme, rest)) if takes_hosts(scheme) => first_host(scheme, rest),
            _ => (url.into(), Vec::new()),
        };
        let parsed = parse(&url)?;
        let scheme = parsed.scheme();
        let Some(transport) = self.transports.get(scheme) else {
            return Err(self.unknown(scheme));
        };
        if !parsed.has_authority() {
            // What stands behind it would count as a path, and the host would be this one.
            return Err(Error::new(
                ErrorKind::Config,
                format!("malformed URL: `{scheme}:` is followed by `//`, and then by the host"),
            ));
        }
        let others: Vec<Url> = others.iter().map(|url| parse(url)).collect::<Result<_>>()?;
        let target = transport.resolve(Target::new(parsed).with_other_hosts(&others))?;
        let virtual_host = match transport.virtual_host(target.url()) {
            name if name.is_empty() => Name::from_static("/"),
            name => name.into(),
        };
        let target = target.with_virtual_host(virtual_host);
        Ok((transport.clone(), target))
    }

    fn unknown(&self, scheme: &str) -> Error {
        let mut message = format!("no transport for `{scheme}://`");
        if self.transports.is_empty() {
            message.push_str("; none is registered");
        } else {
            message.push_str("; available: ");
            message.push_str(&self.schemes().join(", "));
        }
        if let Some(feature) = self.absent.get(scheme) {
            message.push_str(&format!("; kombu's cargo feature `{feature}` adds it"));
        } else if let Some(near) = nearest(scheme, self.transports.keys().copied()) {
            message.push_str(&format!("; did you mean `{near}`?"));
        } else {
            message.push_str("; `Registry::with` adds a transport from another crate");
        }
        Error::new(ErrorKind::UnknownScheme, message)
    }
}

fn parse(url: &str) -> Result<Url> {
    Url::parse(url).map_err(|problem| {
        // The text may hold a password, so it isn't repeated.
        let hint = if url.contains("://") {
            String::new()
        } else {
            "; it starts with a scheme, for example `memory://`".to_owned()
        };
        Error::new(ErrorKind::Config, format!("malformed URL: {problem}{hint}"))
    })
}

/// The URL with the first of its hosts only, and for each of the others a URL that has nothing else.
fn first_host(scheme: &str, rest: &str) -> (Cow<'static, str>, Vec<String>) {
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let mut hosts = hosts.split(',');
    let first = hosts.next().unwrap_or_default();
    let others = hosts.map(|host| format!("{scheme}://{host}")).collect();
    (format!("{scheme}://{user}{first}{behind}").into(), others)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.schemes()).finish()
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
