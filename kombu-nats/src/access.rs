//! The way to a server: where it is, who we are, and a client that never connects again.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ReconnectToServer, ServerAddr};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kombu_core::driver::tls::{Tls, rustls};
use kombu_core::driver::{Credentials, Target};
use kombu_core::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::classify_connect;
use crate::line::{Loss, lose};
use crate::permissions::{Refusals, Refused};
use crate::transport::{NatsOptions, Secret};

/// Beyond what can be under way at once, so that nothing ever waits for room in the client's own queue.
const CAPACITY: usize = 1 << 20;

/// How often the server is asked whether it is there, if it says nothing.
const PING: Duration = Duration::from_secs(5);

/// How long one server is waited for alone, where there are others.
const ALONE: Duration = Duration::from_secs(1);

/// Longer than the caller waits.
const CONNECTING: Duration = Duration::from_secs(60);

/// The servers of a URL.
pub(crate) struct Servers {
    scheme: String,
    hosts: Vec<(String, u16)>,
    who: Who,
}

/// Who connects.
enum Who {
    Nobody,
    User { name: String, password: String },
    Token(String),
    CredentialsFile(std::path::PathBuf),
    Nkey(String),
    NkeyFile(std::path::PathBuf),
}

impl Servers {
    pub(crate) fn of(target: &Target, options: &NatsOptions) -> Result<Self> {
        let url = target.url();
        if !matches!(url.path(), "" | "/") {
            return Err(config(format!(
                "`{}` says nothing in the URL of a NATS server; a virtual host is a `prefix`: `{}://host?prefix=name`",
                url.path(),
                url.scheme()
            )));
        }
        let host = match url.host_str() {
            None | Some("") => "localhost",
            Some(host) => host,
        };
        let first = (host.to_owned(), url.port());
        let all = std::iter::once(first).chain(target.other_hosts().iter().cloned());
        Ok(Servers {
            scheme: url.scheme().to_owned(),
            hosts: all
                .map(|(host, port)| (host, port.unwrap_or(4222)))
                .collect(),
            who: Who::of(url, options)?,
        })
    }

    /// Connects to one of them, each of which is tried once, in any order; beside one that is silent the next is tried, too.
    pub(crate) async fn connect(
        &self,
        tls: Option<&Tls>,
        lost: &Loss,
        refusals: &Refusals,
    ) -> Result<Client> {
        let mut order: Vec<_> = self.hosts.iter().collect();
        fastrand::shuffle(&mut order);
        let mut others = order.into_iter();
        let mut trying = FuturesUnordered::new();
        let mut failed = None;
        loop {
            let next = others.next();
            let is_last = next.is_none();
            trying.extend(next.map(|(host, port)| async move {
                let connecting = self.connect_to(host, *port, tls, lost, refusals).await;
                connecting.map_err(|error| error.with_context(&format!("`{host}:{port}`")))
            }));
            let tried = match is_last {
                true => trying.next().await,
                false => match tokio::time::timeout(ALONE, trying.next()).await {
                    Ok(tried) => tried,
                    Err(_) => continue,
                },
            };
            match tried {
                Some(Err(error)) if error.is_transient() => failed = Some(error),
                Some(tried) => return tried,
                None => break,
            }
        }
        Err(failed.unwrap_or_else(|| config("the URL names no server")))
    }

    async fn connect_to(
        &self,
        host: &str,
        port: u16,
        tls: Option<&Tls>,
        lost: &Loss,
        refusals: &Refusals,
    ) -> Result<Client> {
        let server = address(&format!("{}://{host}:{port}", self.scheme))?;
        // Where the client goes when its connection is lost: nobody can be there.
        let nowhere = address("nats://127.0.0.1:0")?;
        let servers = vec![server.clone(), nowhere.clone()];
        let is_first = AtomicBool::new(true);
        let (told, refusals) = (lost.clone(), refusals.clone());
        let connecting = ConnectOptions::new()
            .name("kombu")
            .client_capacity(CAPACITY)
            .subscription_capacity(CAPACITY)
            .request_timeout(None)
            .ping_interval(PING)
            .connection_timeout(CONNECTING)
            .ignore_discovered_servers()
            .max_reconnects(1)
            .tls_client_config(match tls {
                Some(tls) => rustls::ClientConfig::clone(tls.config()),
                None => trusting_nobody()?,
            })
            .reconnect_to_server_callback(move |_, _| {
                let addr = match is_first.swap(false, Ordering::Relaxed) {
                    true => server.clone(),
                    false => nowhere.clone(),
                };
                let target = ReconnectToServer {
                    addr,
                    delay: Some(Duration::ZERO),
                };
                async move { Some(target) }
            })
            .event_callback(move |event| {
                let (told, refusals) = (told.clone(), refusals.clone());
                async move {
                    let text = match event {
                        Event::Disconnected => "NATS has closed the connection",
                        Event::LameDuckMode => "the NATS server is about to stop",
                        Event::ServerError(error) => {
                            tracing::warn!(%error, "NATS");
                            if let Some(refused) = Refused::read(&error.to_string()) {
                                // Nobody listens once the session is over.
                                drop(refusals.send(Arc::new(refused)));
                            }
                            return;
                        }
                        _ => return,
                    };
                    lose(&told, ErrorKind::ConnectionLost, text.to_owned());
                }
            });
        let connecting = self.who.tell(connecting).await?;
        let client = match connecting.connect(servers).await {
            Ok(client) => client,
            Err(error) => {
                let error = classify_connect(error);
                return Err(match error.kind() {
                    ErrorKind::Tls if tls.is_none() => Error::new(
                        ErrorKind::Tls,
                        "this NATS server wants to be spoken to by TLS; write `tls://`",
                    )
                    .with_source(error),
                    _ => error,
                });
            }
        };
        if client.connection_state() == State::Disconnected {
            let text = "NATS has closed the connection".to_owned();
            lose(lost, ErrorKind::ConnectionLost, text);
        }
        Ok(client)
    }
}

impl fmt::Display for Servers {
    /// Their addresses, the same for every order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        hosts.sort();
        for (host, port) in hosts {
            write!(f, "{host}:{port} ")?;
        }
        Ok(())
    }
}

/// Makes a token in place of a user's name a password, which is shown to nobody.
pub(crate) fn hide_token(target: Target) -> Result<Target> {
    let url = target.url();
    match (url.username(), url.password()) {
        ("", _) | (_, Some(_)) => Ok(target),
        (token, None) => target.with_credentials(&Credentials::new("", decoded(token, "token")?)),
    }
}

fn decoded(text: &str, what: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(config(format!("the {what} of the URL isn't UTF-8"))),
    }
}

impl Who {
    fn of(url: &Url, options: &NatsOptions) -> Result<Self> {
        let mut said = Vec::new();
        match (url.username(), url.password()) {
            ("", None) => {}
            ("", Some(token)) | (token, None) => said.push(Who::Token(decoded(token, "token")?)),
            (name, Some(password)) => said.push(Who::User {
                name: decoded(name, "user")?,
                password: decoded(password, "password")?,
            }),
        }
        said.extend(options.credentials_file.clone().map(Who::CredentialsFile));
        let nkey = options.nkey.clone();
        said.extend(nkey.map(|Secret(seed)| Who::Nkey(seed)));
        said.extend(options.nkey_file.clone().map(Who::NkeyFile));
        match (said.pop(), said.pop()) {
            (None, _) => Ok(Who::Nobody),
            (Some(who), None) => Ok(who),
            _ => Err(config(
                "who connects is said twice; give a user or token in the URL, or one of `credentials_file`, `nkey` and \
                 `nkey_file`",
            )),
        }
    }

    async fn tell(&self, connecting: ConnectOptions) -> Result<ConnectOptions> {
        Ok(match self {
            Who::Nobody => connecting,
            Who::User { name, password } => {
                connecting.user_and_password(name.clone(), password.clone())
            }
            Who::Token(token) => connecting.token(token.clone()),
            Who::CredentialsFile(path) => {
                let text = read(path).await?;
                connecting
                    .credentials(&text)
                    .map_err(|_| config(format!("`{}` has no credentials in it", path.display())))?
            }
            Who::Nkey(seed) => connecting.nkey(seed.trim().to_owned()),
            Who::NkeyFile(path) => connecting.nkey(read(path).await?.trim().to_owned()),
        })
    }
}

async fn read(path: &Path) -> Result<String> {
    let problem = match tokio::fs::read_to_string(path).await {
        Ok(text) => return Ok(text),
        Err(problem) => problem,
    };
    Err(config(format!("`{}` can't be read", path.display())).with_source(problem))
}

/// What a server meets that wants TLS, though the URL doesn't.
fn trusting_nobody() -> Result<rustls::ClientConfig> {
    let provider = match rustls::crypto::CryptoProvider::get_default() {
        Some(provider) => provider.clone(),
        None => Arc::new(rustls::crypto::ring::default_provider()),
    };
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|problem| config("TLS can't be set up").with_source(problem))?;
    Ok(builder
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

fn address(text: &str) -> Result<ServerAddr> {
    text.parse()
        .map_err(|problem| config("this is no address of a NATS server").with_source(problem))
}

fn config(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text)
}
