//! Connections to servers, and which server to connect to.

#[cfg(feature = "tls")]
use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use kombu_core::driver::tls::Tls;
use kombu_core::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisError, ServerError, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{classify, classify_connect, unexpected};

/// How long one Sentinel may take, where there are others.
const SENTINEL: Duration = Duration::from_secs(2);

/// Where a server is, or who knows that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
    /// The master of this name, which these Sentinels watch.
    Watched {
        master: String,
        sentinels: Vec<(String, u16)>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(host, port) => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
            Place::Watched { master, sentinels } => {
                write!(f, "{master}")?;
                for (number, (host, port)) in sentinels.iter().enumerate() {
                    let between = if number == 0 { " at " } else { "," };
                    write!(f, "{between}{host}:{port}")?;
                }
                Ok(())
            }
        }
    }
}

/// Who connects.
#[derive(Clone, Default)]
pub(crate) struct User {
    pub(crate) name: Option<String>,
    pub(crate) password: Option<String>,
}

impl User {
    fn greeting(&self, protocol: ProtocolVersion) -> RedisConnectionInfo {
        let mut greeting = RedisConnectionInfo::default().set_protocol(protocol);
        if let Some(name) = &self.name {
            greeting = greeting.set_username(name);
        }
        if let Some(password) = &self.password {
            greeting = greeting.set_password(password);
        }
        greeting
    }
}

/// Built without TLS, there is none.
#[cfg(not(feature = "tls"))]
#[derive(Clone)]
pub(crate) enum Tls {}

/// Makes connections.
pub(crate) struct Dialer<'a> {
    pub(crate) user: &'a User,
    pub(crate) db: i64,
    /// Who asks the Sentinels.
    pub(crate) sentinel_user: &'a User,
    pub(crate) tls: Option<Tls>,
}

/// A connection, which ends when this is dropped, whatever the server is busy with.
pub(crate) struct Wire {
    pub(crate) connection: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Dialer<'_> {
    /// Connects to a server.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt.
    pub(crate) async fn dial(&self, place: &Place, config: AsyncConnectionConfig) -> Result<Wire> {
        let greeting = self.user.greeting(ProtocolVersion::RESP3).set_db(self.db);
        match place {
            Place::Tcp(host, port) => self.greet(host, *port, &greeting, config).await,
            Place::Watched { master, sentinels } => {
                let (host, port) = self.find(master, sentinels).await?;
                self.greet(&host, port, &greeting, config).await
            }
            Place::Unix(path) => {
                let connected = UnixStream::connect(path).await;
                let stream =
                    connected.map_err(|problem| unreachable_at(path.display(), problem))?;
                wire(stream, &greeting, config)
                    .await
                    .map_err(|error| error.with_context(&format!("`{}`", path.display())))
            }
        }
    }

    async fn greet(
        &self,
        host: &str,
        port: u16,
        greeting: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<Wire> {
        let at = format!("{host}:{port}");
        let connected = TcpStream::connect((host, port)).await;
        let connected = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = connected.map_err(|problem| unreachable_at(&at, problem))?;
        let wired = match &self.tls {
            #[cfg(feature = "tls")]
            Some(tls) => match tls.encrypt(host, stream).await {
                Ok(stream) => wire(stream, greeting, config).await,
                Err(error) => Err(error),
            },
            _ => wire(stream, greeting, config).await,
        };
        wired.map_err(|error| error.with_context(&format!("`{at}`")))
    }

    /// Asks the Sentinels, one after the other, where the master is.
    async fn find(&self, master: &str, sentinels: &[(String, u16)]) -> Result<(String, u16)> {
        let mut kind = None;
        let mut problems = Vec::new();
        for (host, port) in sentinels {
            let asked = timeout(SENTINEL, self.ask(master, host, *port)).await;
            let problem = match asked {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(problem)) => problem,
                Err(_) => Error::new(
                    ErrorKind::ConnectionLost,
                    format!("`{host}:{port}` doesn't answer"),
                ),
            };
            // What all say is so. Otherwise another one may know later.
            kind = match kind {
                None => Some(problem.kind()),
                Some(kind) if kind == problem.kind() => Some(kind),
                Some(_) => Some(ErrorKind::ConnectionLost),
            };
            problems.push(problem.to_string());
        }
        Err(Error::new(
            kind.unwrap_or(ErrorKind::Config),
            format!(
                "no Sentinel says where the master `{master}` is: {}",
                problems.join("; ")
            ),
        ))
    }

    async fn ask(&self, master: &str, host: &str, port: u16) -> Result<(String, u16)> {
        let greeting = self.sentinel_user.greeting(ProtocolVersion::RESP2);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let mut wire = self.greet(host, port, &greeting, config).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let answer = wire.connection.send_packed_command(&question).await;
        let at = |error: Error| error.with_context(&format!("`{host}:{port}`"));
        match answer.map_err(|problem| at(classify_connect(problem)))? {
            Value::Nil => Err(at(Error::new(
                ErrorKind::Config,
                format!("it watches no master `{master}`"),
            ))),
            Value::ServerError(problem) => Err(at(refused(&problem))),
            answer => match &answer {
                Value::Array(parts) => address(parts),
                _ => None,
            }
            .ok_or_else(|| at(unexpected("where the master is", &answer))),
        }
    }
}

fn refused(problem: &ServerError) -> Error {
    match problem.code() {
        "NOPERM" | "NOAUTH" => Error::new(
            ErrorKind::Credentials,
            format!(
                "{problem}; `sentinel_username` and `sentinel_password` say who asks a Sentinel"
            ),
        ),
        _ => classify(problem),
    }
}

fn address(parts: &[Value]) -> Option<(String, u16)> {
    let [Value::BulkString(host), Value::BulkString(port)] = parts else {
        return None;
    };
    let host = std::str::from_utf8(host).ok()?;
    let port = std::str::from_utf8(port).ok()?.parse().ok()?;
    Some((host.to_owned(), port))
}

async fn wire(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    greeting: &RedisConnectionInfo,
    config: AsyncConnectionConfig,
) -> Result<Wire> {
    let connecting = MultiplexedConnection::new_with_config(greeting, stream, config).await;
    let (connection, driver) = connecting.map_err(refused_or_lost)?;
    Ok(Wire {
        connection,
        driver: tokio::spawn(driver),
    })
}

fn unreachable_at(place: impl fmt::Display, problem: io::Error) -> Error {
    Error::new(ErrorKind::ConnectionLost, problem.to_string())
        .with_source(problem)
        .with_context(&format!("`{place}`"))
}

/// Why a greeting failed.
fn refused_or_lost(problem: RedisError) -> Error {
    #[cfg(feature = "tls")]
    if let Some(refusal) = io_error(&problem).and_then(kombu_core::driver::tls::refusal) {
        return refusal;
    }
    classify_connect(problem)
}

/// The input's or output's error that the driver has wrapped.
#[cfg(feature = "tls")]
fn io_error(problem: &RedisError) -> Option<&io::Error> {
    type Shared = Arc<dyn std::error::Error + Send + Sync>;
    let source = problem.source()?;
    source
        .downcast_ref()
        .or_else(|| source.downcast_ref::<Shared>()?.downcast_ref())
}
