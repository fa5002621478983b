use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::folder::{DATA, Folder};
use super::programs::Programs;
use super::server::{Server, on_free_ports};

/// One that doesn't introduce itself in this time is asked again.
const GREETING: Duration = Duration::from_secs(1);

/// Unless set otherwise, messages may be as large as the server recommends at most.
const LIMIT: &str = "max_payload: 8MB\n";

/// A NATS server of our own, with JetStream. What else it can do is on [`Server`].
#[derive(Debug)]
pub struct Nats {
    server: Server,
    port: u16,
    access: Access,
}

/// How a [`Nats`] is to be: by default, everybody may come in.
#[derive(Clone, Debug, Default)]
pub struct NatsBuilder {
    access: Access,
    config: String,
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
}

impl fmt::Debug for Access {
    /// Without what has to be known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Everybody => "everybody",
            Access::User { .. } => "a user with a password",
            Access::Token(_) => "a token",
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

    /// Adds a line to its configuration file, such as `max_payload: 1MB`.
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
        on_free_ports(|[port]| self.start_on(port))
    }

    fn start_on(&self, port: u16) -> io::Result<Nats> {
        let programs = Programs::find()?;
        let folder = Folder::create(&programs, "nats", port)?;
        // What comes twice in a file of NATS is an error.
        let limit = match self.config.contains("max_payload") {
            true => "",
            false => LIMIT,
        };
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\n{limit}jetstream {{ store_dir: \"{}\" }}\n{}{}",
            folder.inside(DATA).display(),
            self.access.config(),
            self.config
        );
        let config = folder.write("nats.conf", &config)?;
        let command = move || {
            let mut command = programs.command_in_path("nats-server")?;
            command.arg("-c").arg(&config);
            Ok(command)
        };
        let server = Server::start("NATS", folder, command, move |_| introduces_itself(port))?;
        Ok(Nats {
            server,
            port,
            access: self.access.clone(),
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

    /// Where it takes connections, with what it asks for.
    pub fn url(&self) -> String {
        let port = self.port;
        match &self.access {
            Access::Everybody => format!("nats://127.0.0.1:{port}"),
            Access::User { name, password } => format!("nats://{name}:{password}@127.0.0.1:{port}"),
            Access::Token(token) => format!("nats://{token}@127.0.0.1:{port}"),
        }
    }

    /// The same as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
