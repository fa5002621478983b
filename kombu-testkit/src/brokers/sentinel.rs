use std::io;
use std::ops::{Deref, DerefMut};

use super::certificates::Certificates;
use super::folder::{DATA, Folder};
use super::programs::Programs;
use super::redis::{answers, listen_for_tls};
use super::server::{Server, on_free_ports};

/// A Redis Sentinel of our own, which watches a [`Redis`](super::Redis) and its replicas. What else it can do is on [`Server`].
#[derive(Debug)]
pub struct Sentinel {
    server: Server,
    port: u16,
    tls_port: Option<u16>,
}

/// How a [`Sentinel`] is to be.
#[derive(Clone, Debug)]
pub struct SentinelBuilder {
    certificates: Option<Certificates>,
    config: String,
}

impl SentinelBuilder {
    /// Listens for TLS too, with these; see [`RedisBuilder::tls`](super::RedisBuilder::tls).
    pub fn tls(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Adds a line to its configuration file, such as `sentinel auth-pass NAME PASSWORD`.
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
    pub fn start(self) -> io::Result<Sentinel> {
        on_free_ports(|[port, tls_port]| self.start_on(port, tls_port))
    }

    fn start_on(&self, port: u16, tls_port: u16) -> io::Result<Sentinel> {
        let programs = Programs::find()?;
        let folder = Folder::create(&programs, "sentinel", port)?;
        let mut config = format!(
            "bind 127.0.0.1\nport {port}\ndir \"{}\"\n",
            folder.inside(DATA).display()
        );
        if let Some(certificates) = &self.certificates {
            config.push_str(&listen_for_tls(&folder, certificates, tls_port)?);
        }
        config.push_str(&self.config);
        // It writes down there what it finds out.
        let config = folder.write("sentinel.conf", &config)?;
        let command = move || {
            let mut command = programs.redis()?;
            command.arg(&config).arg("--sentinel");
            Ok(command)
        };
        let server = Server::start("Sentinel", folder, command, move |_| answers(port))?;
        Ok(Sentinel {
            server,
            port,
            tls_port: self.certificates.is_some().then_some(tls_port),
        })
    }
}

impl Sentinel {
    /// One that watches the master at this port of this machine under this name, decides alone, and takes it for dead after
    /// half a second.
    pub fn of(name: &str, port: u16) -> SentinelBuilder {
        SentinelBuilder {
            certificates: None,
            config: format!(
                "sentinel monitor {name} 127.0.0.1 {port} 1\nsentinel down-after-milliseconds {name} 500\n\
                 sentinel failover-timeout {name} 5000\n"
            ),
        }
    }

    /// Where it takes connections, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it takes encrypted connections, as `host:port`, if it does.
    pub fn tls_address(&self) -> Option<String> {
        self.tls_port.map(|port| format!("127.0.0.1:{port}"))
    }
}

impl Deref for Sentinel {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Sentinel {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}
