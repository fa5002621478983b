use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde_json::{Value, json};

use super::folder::{DATA, Folder};
use super::programs::Programs;
use super::server::{Server, on_free_ports};

/// One that doesn't introduce itself in this time is asked again.
const GREETING: Duration = Duration::from_secs(1);
/// What it is asked for may take it a while.
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "nats.conf";

/// Unless set otherwise, messages may be as large as the server recommends at most.
const LIMIT: &str = "max_payload: 8MB\n";

/// A NATS server of our own, with JetStream. What else it can do is on [`Server`].
#[derive(Debug)]
pub struct Nats {
    server: Server,
    port: u16,
    monitor: u16,
    builder: NatsBuilder,
}

/// How a [`Nats`] is to be: by default, everybody may come in.
#[derive(Clone, Debug, Default)]
pub struct NatsBuilder {
    access: Access,
    domain: Option<String>,
    config: String,
    files: Vec<OwnFile>,
}

/// A file beside its configuration.
#[derive(Clone)]
struct OwnFile {
    name: String,
    content: String,
}

impl fmt::Debug for OwnFile {
    /// Without what may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[derive(Clone, Default)]
enum Access {
    #[default]
    Everybody,
    User {
        name: String,
        password: String,
    },
    Token(String),
    Account(Account),
}

/// What can be changed while the server runs.
#[derive(Clone, Default)]
struct Account {
    /// Those who come without a name have a password too, which changes when all of them are to go.
    disconnected: u64,
    users: Vec<(String, String)>,
    /// How many bytes it may have on disk, if that is limited.
    room: Option<u64>,
}

impl Account {
    fn config(&self) -> String {
        let limit = self.room.map(|room| format!("max_file: {room}"));
        let user = |(name, password): &(String, String)| {
            format!("{{ user: \"{name}\", password: \"{password}\" }}")
        };
        let everybody = ("everybody".to_owned(), self.disconnected.to_string());
        let users: Vec<_> = [&everybody]
            .into_iter()
            .chain(&self.users)
            .map(user)
            .collect();
        format!(
            "no_auth_user: everybody\naccounts {{ kombu {{ jetstream {{ {} }}, users: [{}] }} }}\n",
            limit.unwrap_or_default(),
            users.join(", ")
        )
    }
}

impl fmt::Debug for Access {
    /// Without what has to be known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Everybody => "everybody",
            Access::User { .. } => "a user with a password",
            Access::Token(_) => "a token",
            Access::Account(_) => "everybody, and users",
        })
    }
}

impl Access {
    fn config(&self) -> String {
        match self {
            Access::Everybody => String::new(),
            Access::User { name, password } => {
                format!("authorization {{ user: \"{name}\", password: \"{password}\" }}\n")
            }
            Access::Token(token) => format!("authorization {{ token: \"{token}\" }}\n"),
            Access::Account(account) => account.config(),
        }
    }
}

impl NatsBuilder {
    /// Lets this user in, and nobody else.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.access = Access::User {
            name: name.into(),
            password: password.into(),
        };
        self
    }

    /// Lets in whoever knows the token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.access = Access::Token(token.into());
        self
    }

    /// Lets everybody in, and has an account for them that can be changed while the server runs: it may get users, and run out
    /// of room.
    pub fn account(mut self) -> Self {
        self.access = Access::Account(Account::default());
        self
    }

    /// Gives its JetStream a domain.
    pub fn domain(mut self, name: impl Into<String>) -> Self {
        self.domain = Some(name.into());
        self
    }

    /// Adds a file, such as a certificate, to the folder that a line of its configuration calls `{folder}`.
    pub fn file(mut self, name: impl Into<String>, content: impl Into<String>) -> Self {
        self.files.push(OwnFile {
            name: name.into(),
            content: content.into(),
        });
        self
    }

    /// Adds a line to its configuration file, such as `max_payload: 1MB`. Where it says `{folder}`, that is the folder of its
    /// [files](Self::file).
    pub fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Starts it, and waits until it takes connections.
    ///
    /// # Errors
    ///
    /// If it isn't installed, or doesn't start.
    pub fn start(self) -> io::Result<Nats> {
        on_free_ports(|[port, monitor]| self.start_on(port, monitor))
    }

    /// Its configuration.
    fn text(&self, folder: &Folder, port: u16, monitor: u16) -> String {
        // What comes twice in a file of NATS is an error.
        let limit = match self.config.contains("max_payload") {
            true => "",
            false => LIMIT,
        };
        let domain = self.domain.as_ref();
        format!(
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\n{limit}jetstream {{ store_dir: \"{}\"{} }}\n{}{}",
            folder.inside(DATA).display(),
            domain.map_or_else(String::new, |name| format!(", domain: \"{name}\"")),
            self.access.config(),
            self.config
                .replace("{folder}", &folder.inside("").display().to_string())
        )
    }

    fn start_on(&self, port: u16, monitor: u16) -> io::Result<Nats> {
        let programs = Programs::find()?;
        let folder = Folder::create(&programs, "nats", port)?;
        for file in &self.files {
            folder.write(&file.name, &file.content)?;
        }
        let config = folder.write(CONFIG, &self.text(&folder, port, monitor))?;
        let command = move || {
            let mut command = programs.command_in_path("nats-server")?;
            command.arg("-c").arg(&config);
            Ok(command)
        };
        let server = Server::start("NATS", folder, command, move |_| introduces_itself(port))?;
        Ok(Nats {
            server,
            port,
            monitor,
            builder: self.clone(),
        })
    }
}

/// It speaks first, when it has read what it had stored.
fn introduces_itself(port: u16) -> bool {
    let listen = || -> io::Result<String> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(GREETING))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    listen().is_ok_and(|line| line.starts_with("INFO "))
}

impl Nats {
    /// How it is to be.
    pub fn builder() -> NatsBuilder {
        NatsBuilder::default()
    }

    /// Starts one that lets everybody in.
    ///
    /// # Errors
    ///
    /// Those of [`NatsBuilder::start`].
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Starts three that form a cluster, named `n0` to `n2`. Those that are asked at once may have no leader yet.
    ///
    /// # Errors
    ///
    /// Those of [`NatsBuilder::start`].
    pub fn start_cluster() -> io::Result<[Self; 3]> {
        on_free_ports(|ports: [u16; 3]| {
            let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\""));
            let routes = routes.join(", ");
            let start = |number: usize| {
                let port = ports[number];
                let cluster = format!(
                    "server_name: n{number}\ncluster {{ name: kombu, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
                );
                Self::builder().config(&cluster).start()
            };
            Ok([start(0)?, start(1)?, start(2)?])
        })
    }

    /// Starts one of the domain `hub`, and a leaf node of it of the domain `leaf`, which may not have found the other yet.
    ///
    /// # Errors
    ///
    /// Those of [`NatsBuilder::start`].
    pub fn start_with_leaf() -> io::Result<[Self; 2]> {
        on_free_ports(|[port]: [u16; 1]| {
            let start = |name: &str, nodes: &str| {
                let config = format!("server_name: {name}\nleafnodes {{ {nodes} }}");
                Self::builder().domain(name).config(&config).start()
            };
            Ok([
                start("hub", &format!("listen: \"127.0.0.1:{port}\""))?,
                start(
                    "leaf",
                    &format!("remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}]"),
                )?,
            ])
        })
    }

    /// Where it takes connections, with what it asks for.
    pub fn url(&self) -> String {
        let port = self.port;
        match &self.builder.access {
            Access::Everybody | Access::Account(_) => format!("nats://127.0.0.1:{port}"),
            Access::User { name, password } => format!("nats://{name}:{password}@127.0.0.1:{port}"),
            Access::Token(token) => format!("nats://{token}@127.0.0.1:{port}"),
        }
    }

    /// The same as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether its account can be changed: [`NatsBuilder::account`].
    pub fn has_account(&self) -> bool {
        matches!(self.builder.access, Access::Account(_))
    }

    /// Lets this user in from now on, with this password only. Whoever is in with another one is turned out.
    ///
    /// # Errors
    ///
    /// If it has no [account](NatsBuilder::account), or can't read its configuration again.
    pub fn set_user(&mut self, name: &str, password: &str) -> io::Result<()> {
        self.change_account(|account| {
            account.users.retain(|(other, _)| other != name);
            account.users.push((name.to_owned(), password.to_owned()));
        })
    }

    /// Turns out everybody who came without a name. They may come again.
    ///
    /// # Errors
    ///
    /// Those of [`set_user`](Self::set_user).
    pub fn disconnect(&mut self) -> io::Result<()> {
        self.change_account(|account| account.disconnected += 1)
    }

    /// From now on, there may be so many bytes on its disk; what is there already stays.
    ///
    /// # Errors
    ///
    /// Those of [`set_user`](Self::set_user).
    pub fn limit_room(&mut self, bytes: Option<u64>) -> io::Result<()> {
        self.change_account(|account| account.room = bytes)
    }

    fn change_account(&mut self, change: impl FnOnce(&mut Account)) -> io::Result<()> {
        let Access::Account(account) = &mut self.builder.access else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this server was started without an account",
            ));
        };
        change(account);
        let folder = self.server.folder();
        let text = self.builder.text(folder, self.port, self.monitor);
        folder.write(CONFIG, &text)?;
        self.server.reload("Reloaded server configuration")
    }

    /// Sends a request over a connection of its own, and returns the answer.
    ///
    /// # Errors
    ///
    /// If it isn't there, doesn't answer within a minute, or lets us not in.
    pub fn ask(&self, subject: &str, body: &str) -> io::Result<Value> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port))?);
        stream.get_mut().set_read_timeout(Some(PATIENCE))?;
        let mut who = json!({ "verbose": false, "pedantic": false });
        match &self.builder.access {
            Access::Everybody | Access::Account(_) => {}
            Access::User { name, password } => {
                who["user"] = json!(name);
                who["pass"] = json!(password);
            }
            Access::Token(token) => who["auth_token"] = json!(token),
        }
        let length = body.len();
        let request =
            format!("CONNECT {who}\r\nSUB answer 1\r\nPUB {subject} answer {length}\r\n{body}\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(refusal) = line.strip_prefix("-ERR") {
                return Err(io::Error::other(refusal.trim().to_owned()));
            }
            if line.starts_with("MSG ") {
                let length = line
                    .trim()
                    .rsplit(' ')
                    .next()
                    .and_then(|text| text.parse().ok());
                let mut answer = vec![0; length.unwrap_or(0)];
                stream.read_exact(&mut answer)?;
                return serde_json::from_slice(&answer).map_err(io::Error::other);
            }
        }
    }

    /// What it says at its port for monitoring, as at `/varz`.
    ///
    /// # Errors
    ///
    /// If it doesn't answer within a minute.
    pub fn monitored(&self, path: &str) -> io::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.monitor))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(io::Error::other)
    }
}

impl Deref for Nats {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Nats {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}
