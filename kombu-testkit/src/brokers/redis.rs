use std::fmt::{self, Write as _};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use super::certificates::Certificates;
use super::folder::{DATA, Folder};
use super::programs::Programs;
use super::server::{Server, on_free_ports};

const SOCKET: &str = "socket";
/// One that doesn't answer a greeting in this time is asked again.
const GREETING: Duration = Duration::from_secs(1);
/// What it is told to do may take it a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis of our own. What else it can do is on [`Server`].
#[derive(Debug)]
pub struct Redis {
    server: Server,
    port: u16,
    tls_port: Option<u16>,
    password: Secret,
    has_socket: bool,
}

/// How a [`Redis`] is to be: by default without a password, and storing nothing.
#[derive(Clone, Debug, Default)]
pub struct RedisBuilder {
    persistent: bool,
    unix_socket: bool,
    password: Secret,
    certificates: Option<Certificates>,
    config: String,
}

/// Shows nothing of itself.
#[derive(Clone, Default)]
struct Secret(Option<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "***" } else { "none" })
    }
}

impl RedisBuilder {
    /// Has every change written to disk before it is answered, so that it survives a crash.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    /// Listens on a unix socket too.
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Asks clients for this password.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Secret(Some(password.into()));
        self
    }

    /// Listens for TLS too, with these. Clients need a certificate, unless a line of [`config`](Self::config) says
    /// `tls-auth-clients no`, or `optional`.
    pub fn tls(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Adds a line to its configuration file, such as `maxmemory 10mb` or `user alice on >secret ~* +@all`.
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
    pub fn start(self) -> io::Result<Redis> {
        on_free_ports(|[port, tls_port]| self.start_on(port, tls_port))
    }

    fn start_on(&self, port: u16, tls_port: u16) -> io::Result<Redis> {
        let programs = Programs::find()?;
        let folder = Folder::create(&programs, "redis", port)?;
        let mut config = format!(
            "bind 127.0.0.1\nport {port}\nsave \"\"\ndir \"{}\"\n",
            folder.inside(DATA).display()
        );
        if self.persistent {
            config.push_str("appendonly yes\nappendfsync always\n");
        }
        if self.unix_socket {
            let socket = folder.inside(SOCKET);
            // Writing to a string can't fail.
            let _ = writeln!(config, "unixsocket \"{}\"", socket.display());
        }
        if let Some(password) = &self.password.0 {
            let _ = writeln!(config, "requirepass \"{password}\"");
        }
        if let Some(certificates) = &self.certificates {
            config.push_str(&listen_for_tls(&folder, certificates, tls_port)?);
        }
        config.push_str(&self.config);
        let config = folder.write("redis.conf", &config)?;
        let command = move || {
            let mut command = programs.redis()?;
            command.arg(&config);
            Ok(command)
        };
        let server = Server::start("Redis", folder, command, move |_| answers(port))?;
        Ok(Redis {
            server,
            port,
            tls_port: self.certificates.is_some().then_some(tls_port),
            password: self.password.clone(),
            has_socket: self.unix_socket,
        })
    }
}

/// Lines of a configuration.
pub(super) fn listen_for_tls(
    folder: &Folder,
    certificates: &Certificates,
    port: u16,
) -> io::Result<String> {
    let authority = folder.write("authority.pem", &certificates.authority)?;
    let certificate = folder.write("certificate.pem", &certificates.certificate)?;
    let key = folder.write("key.pem", &certificates.key)?;
    Ok(format!(
        "tls-port {port}\ntls-ca-cert-file \"{}\"\ntls-cert-file \"{}\"\ntls-key-file \"{}\"\n",
        authority.display(),
        certificate.display(),
        key.display()
    ))
}

/// Whether it is there and has read what it had stored. Asking for a password is an answer too.
pub(super) fn answers(port: u16) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(GREETING))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask().is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
}

/// Sends a command, and reads an answer that isn't an array.
fn exchange(stream: &mut BufReader<TcpStream>, command: &[&str]) -> io::Result<String> {
    let mut request = format!("*{}\r\n", command.len());
    for part in command {
        // Writing to a string can't fail.
        let _ = write!(request, "${}\r\n{part}\r\n", part.len());
    }
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    if let Some(refusal) = line.strip_prefix('-') {
        return Err(io::Error::other(refusal.to_owned()));
    }
    let length = line.strip_prefix('$').and_then(|text| text.parse().ok());
    let Some(length) = length else {
        return Ok(line.to_owned());
    };
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    stream.read_exact(&mut [0; 2])?;
    String::from_utf8(text).map_err(io::Error::other)
}

impl Redis {
    /// How it is to be.
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Starts one without a password, which stores nothing.
    ///
    /// # Errors
    ///
    /// Those of [`RedisBuilder::start`].
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Where it takes connections, with its password if it has one.
    pub fn url(&self) -> String {
        match &self.password.0 {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The same as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it takes encrypted connections, as `host:port`, if it does.
    pub fn tls_address(&self) -> Option<String> {
        self.tls_port.map(|port| format!("127.0.0.1:{port}"))
    }

    /// Sends it one command over a connection of its own, and returns the answer: its first line, or the text that
    /// follows it.
    ///
    /// # Errors
    ///
    /// If it isn't there, doesn't answer within a minute, or refuses.
    pub fn ask<'a>(&self, command: impl IntoIterator<Item = &'a str>) -> io::Result<String> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port))?);
        stream.get_mut().set_read_timeout(Some(PATIENCE))?;
        if let Some(password) = &self.password.0 {
            exchange(&mut stream, &["AUTH", password])?;
        }
        exchange(&mut stream, &command.into_iter().collect::<Vec<_>>())
    }

    /// Its unix socket, if it has one.
    pub fn unix_socket(&self) -> Option<PathBuf> {
        let folder = self.server.folder().path();
        self.has_socket.then(|| folder.join(SOCKET))
    }
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}
