//! What the environment says about connections, and where that stands: `KOMBU_URL` before the file, all else behind it.

use kombu_core::{Error, ErrorKind, Place, Result};

use super::url::Url;

/// Replaces the URL of the default connection.
const URL: &str = "KOMBU_URL";
/// Take its place where nothing else says where the default connection goes, each for its protocol.
const OTHER_URLS: [(&str, &str); 3] = [
    ("AMQP_URL", "amqp"),
    ("REDIS_URL", "redis"),
    ("NATS_URL", "nats"),
];
/// Postage's, each with the name that it had later.
const VIRTUAL_HOST: [&str; 1] = ["POSTAGE_VHOST"];
const USER: [&str; 2] = ["POSTAGE_RMQ_USER", "POSTAGE_USER"];
const PASSWORD: [&str; 2] = ["POSTAGE_RMQ_PASSWORD", "POSTAGE_PASSWORD"];
const DEBUG_MODE: &str = "POSTAGE_DEBUG_MODE";

/// Where variables are looked up.
pub(super) struct Environment<'a>(&'a dyn Fn(&str) -> Result<Option<String>>);

/// That of this process.
pub(super) const OF_PROCESS: Environment<'static> = Environment(&of_process);

fn of_process(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Going on without it would connect to another broker than was asked for.
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::new(
            ErrorKind::Config,
            format!("{name} isn't valid UTF-8"),
        )),
    }
}

impl<'a> Environment<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Result<Option<String>>) -> Self {
        Environment(lookup)
    }

    pub(super) fn get(&self, name: &str) -> Result<Option<String>> {
        (self.0)(name)
    }

    /// An empty variable is none.
    fn filled(&self, name: &str) -> Result<Option<String>> {
        Ok(self.get(name)?.filter(|value| !value.is_empty()))
    }

    fn first(&self, names: &[&str]) -> Result<Option<String>> {
        for name in names {
            if let Some(value) = self.filled(name)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// What of the environment concerns connections, read at once.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// For the default connection, whatever the file says.
    pub(super) url: Option<Url>,
    /// For the default connection, if the file doesn't say where that goes, with the protocol that each is of.
    others: Vec<(&'static str, Url)>,
    user: Option<String>,
    password: Option<String>,
    virtual_host: Option<String>,
    pub(super) debug: bool,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("url", &self.url)
            .field("others", &self.others)
            .field("virtual_host", &self.virtual_host)
            .finish_non_exhaustive()
    }
}

impl Surroundings {
    pub(super) fn of(environment: &Environment<'_>) -> Result<Self> {
        let mut others = Vec::new();
        for (name, protocol) in OTHER_URLS {
            if let Some(url) = environment.filled(name)? {
                others.push((protocol, Url(url)));
            }
        }
        let debug = environment.get(DEBUG_MODE)?;
        Ok(Surroundings {
            url: environment.filled(URL)?.map(Url),
            others,
            user: environment.first(&USER)?,
            password: environment.first(&PASSWORD)?,
            virtual_host: environment.first(&VIRTUAL_HOST)?,
            debug: debug.is_some_and(|value| value.eq_ignore_ascii_case("true")),
        })
    }

    /// The URL of a variable that is named after a protocol; of any, the first that this program has a transport for.
    pub(super) fn other_url(&self, protocol: Option<&str>) -> Option<&Url> {
        let fits = |protocol: &str, asked: &str| {
            asked == protocol || asked.starts_with(&format!("{protocol}s"))
        };
        let mut urls = self.others.iter();
        let found = match protocol {
            Some(asked) => urls.find(|(protocol, _)| fits(protocol, asked)),
            None => {
                let schemes = crate::registry().schemes();
                let known = urls.find(|(protocol, _)| schemes.contains(protocol));
                known.or(self.others.first())
            }
        };
        found.map(|(_, url)| url)
    }

    /// Whether Postage's variables say something about a place.
    pub(super) fn names_a_place(&self) -> bool {
        self.user.is_some() || self.password.is_some() || self.virtual_host.is_some()
    }

    /// What Postage's variables say, where nothing else does. They are about RabbitMQ.
    pub(super) fn complete<'a>(&'a self, place: &mut Place<'a>) {
        if !matches!(place.protocol, "amqp" | "amqps") {
            return;
        }
        // A user and a password belong together.
        if place.user.is_none() && place.password.is_none() {
            place.user = self.user.as_deref();
            place.password = self.password.as_deref();
        }
        place.virtual_host = place.virtual_host.or(self.virtual_host.as_deref());
    }
}
