use std::fmt::{self, Write};
use std::io;
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::certificates::Certificates;
use super::folder::{DATA, Folder};
use super::process::{self, Process};
use super::programs::Programs;
use super::server::{Server, on_free_ports};

/// The programs themselves: the scripts of those names in the path change the user and lose the environment.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// The port mapper has nothing to prepare.
const MAPPER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a program that tells the node something may take: what it begins may be a start of the node.
const TOLD_WITHIN: Duration = Duration::from_secs(120);

/// A RabbitMQ of our own, with its management interface. What else it can do is on [`Server`].
///
/// It takes 3 to 10 seconds to start, so most tests share one, in a virtual host each.
#[derive(Debug)]
pub struct RabbitMq {
    server: Server,
    node: Node,
    // After the server: it ends last.
    _mapper: Mapper,
}

/// How a [`RabbitMq`] is to be.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqBuilder {
    certificates: Option<Certificates>,
    plugins: Vec<String>,
    config: String,
}

impl RabbitMqBuilder {
    /// Listens for TLS too, with these. Clients need no certificate, unless a line of [`config`](Self::config) asks for
    /// one (`ssl_options.verify = verify_peer`, `ssl_options.fail_if_no_peer_cert = true`).
    pub fn tls(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Enables a plugin, such as `rabbitmq_auth_mechanism_ssl`.
    pub fn plugin(mut self, name: impl Into<String>) -> Self {
        self.plugins.push(name.into());
        self
    }

    /// Adds a line to `rabbitmq.conf`, such as `consumer_timeout = 10000`.
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
    pub fn start(self) -> io::Result<RabbitMq> {
        on_free_ports(|[port, admin, tls, distribution, mapper]| {
            self.start_on(Ports {
                port,
                admin,
                tls: self.certificates.as_ref().map(|_| tls),
                distribution,
                mapper,
            })
        })
    }

    fn start_on(&self, ports: Ports) -> io::Result<RabbitMq> {
        let programs = Programs::find()?;
        let folder = Folder::create(&programs, "rabbitmq", ports.port)?;
        let mut plugins = String::from("[rabbitmq_management");
        for plugin in &self.plugins {
            plugins.push(',');
            plugins.push_str(plugin);
        }
        plugins.push_str("].\n");
        folder.write("plugins", &plugins)?;
        folder.write("rabbit.conf", &self.config_file(&folder, &ports)?)?;
        let node = Node::new(programs.clone(), &folder, ports);
        // Started first, or the node would start it as a daemon, which outlives it.
        let mapper = Mapper::start(&programs, &folder, ports.mapper)?;
        let in_node = node.clone();
        let server = Server::start(
            "RabbitMQ",
            folder,
            move || in_node.command("rabbitmq-server"),
            |printed| printed.contains("completed with"),
        )?;
        Ok(RabbitMq {
            server,
            node,
            _mapper: mapper,
        })
    }

    fn config_file(&self, folder: &Folder, ports: &Ports) -> io::Result<String> {
        let mut config = format!(
            "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {}\n",
            ports.admin
        );
        if let (Some(pem), Some(port)) = (&self.certificates, ports.tls) {
            // Writing to a string can't fail.
            let _ = writeln!(config, "listeners.ssl.1 = 127.0.0.1:{port}");
            for (option, name, text) in [
                ("cacertfile", "authority.pem", &pem.authority),
                ("certfile", "certificate.pem", &pem.certificate),
                ("keyfile", "key.pem", &pem.key),
            ] {
                let path = folder.write(name, text)?;
                let _ = writeln!(config, "ssl_options.{option} = {}", path.display());
            }
        }
        config.push_str(&self.config);
        Ok(config)
    }
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    port: u16,
    admin: u16,
    tls: Option<u16>,
    distribution: u16,
    mapper: u16,
}

/// What its programs have to be told to find each other and nothing else.
#[derive(Clone)]
struct Node {
    programs: Programs,
    ports: Ports,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Node {
    fn new(programs: Programs, folder: &Folder, ports: Ports) -> Self {
        let text = |text: String| PathBuf::from(text);
        let environment = vec![
            ("HOME", folder.inside("")),
            ("RABBITMQ_NODENAME", text(name(&ports))),
            ("RABBITMQ_NODE_PORT", text(ports.port.to_string())),
            ("RABBITMQ_NODE_IP_ADDRESS", text("127.0.0.1".to_owned())),
            ("RABBITMQ_DIST_PORT", text(ports.distribution.to_string())),
            ("RABBITMQ_MNESIA_BASE", folder.inside(DATA)),
            ("RABBITMQ_LOG_BASE", folder.inside("log")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", folder.inside("plugins")),
            ("RABBITMQ_CONFIG_FILE", folder.inside("rabbit")),
            ("ERL_EPMD_PORT", text(ports.mapper.to_string())),
            ("ERL_EPMD_ADDRESS", text("127.0.0.1".to_owned())),
        ];
        Node {
            programs,
            ports,
            environment,
        }
    }

    fn name(&self) -> String {
        name(&self.ports)
    }

    /// A program of RabbitMQ's.
    fn command(&self, program: &str) -> io::Result<Command> {
        let path = PathBuf::from(PROGRAMS).join(program);
        Ok(self.told(self.programs.command(program, &[path])?))
    }

    /// A program of Erlang's.
    fn command_in_path(&self, program: &str) -> io::Result<Command> {
        Ok(self.told(self.programs.command_in_path(program)?))
    }

    fn told(&self, mut command: Command) -> Command {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn name(ports: &Ports) -> String {
    format!("kombu{}@localhost", ports.port)
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ports.fmt(f)
    }
}

/// Tells the node's programs on which port it is.
struct Mapper {
    _process: Process,
}

impl Mapper {
    fn start(programs: &Programs, folder: &Folder, port: u16) -> io::Result<Self> {
        let mut command = programs.command_in_path("epmd")?;
        command
            .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process::start(&mut command, folder.path())?;
        let deadline = Instant::now() + MAPPER_PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if process.has_ended() || Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "Erlang's port mapper didn't start",
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Mapper { _process: process })
    }
}

impl fmt::Debug for Mapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mapper")
    }
}

impl RabbitMq {
    /// How it is to be.
    pub fn builder() -> RabbitMqBuilder {
        RabbitMqBuilder::default()
    }

    /// Starts one as it comes.
    ///
    /// # Errors
    ///
    /// Those of [`RabbitMqBuilder::start`].
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Where it takes connections, as the user `guest`.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}", self.address())
    }

    /// The same as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.node.ports.port)
    }

    /// Where it takes connections with TLS, as `host:port`, if it does.
    pub fn tls_address(&self) -> Option<String> {
        let port = self.node.ports.tls?;
        Some(format!("127.0.0.1:{port}"))
    }

    /// Its management interface, as `host:port`.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.node.ports.admin)
    }

    /// Runs `rabbitmqctl`, and returns what it prints: `ctl(["set_vm_memory_high_watermark", "0"])` raises the alarm that
    /// blocks publishers.
    ///
    /// # Errors
    ///
    /// What it says when it fails, and if it takes longer than two minutes.
    pub fn ctl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> io::Result<String> {
        let mut command = self.node.command("rabbitmqctl")?;
        let output = process::output(command.args(arguments), "", TOLD_WITHIN);
        let output = output.map_err(|error| failed("rabbitmqctl", &error))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(failed("rabbitmqctl", &format!("{printed}{errors}")))
    }

    /// Has the node evaluate an Erlang expression, and returns its value as Erlang prints it: `eval("nodes().")`. That takes
    /// milliseconds; `rabbitmqctl` begins with a virtual machine of its own.
    ///
    /// # Errors
    ///
    /// What Erlang says when it fails: with the arguments of the call that failed. The value `{error, …}` is a failure too. And if it
    /// takes longer than two minutes.
    pub fn eval(&self, expression: &str) -> io::Result<String> {
        let value = match self.node.command_in_path("erl_call") {
            Ok(mut command) => {
                command.args(["-sname", &self.node.name(), "-e"]);
                // It ends with its line.
                let input = format!("{expression}\n");
                let output = process::output(&mut command, &input, TOLD_WITHIN);
                let output = output.map_err(|error| failed("erl_call", &error))?;
                let printed = String::from_utf8_lossy(&output.stdout);
                let value = printed.trim_end().strip_prefix("{ok, ");
                let Some(value) = value.and_then(|value| value.strip_suffix('}')) else {
                    let errors = String::from_utf8_lossy(&output.stderr);
                    return Err(failed("erl_call", &format!("{printed}{errors}")));
                };
                value.to_owned()
            }
            // Some systems have it in a package of its own.
            Err(_) => self.ctl(["eval", expression])?,
        };
        match value.starts_with("{error,") {
            true => Err(failed("the expression", &value)),
            false => Ok(value),
        }
    }
}

/// Leaves out what was told: a password may be in it.
fn failed(what: &str, why: &dyn fmt::Display) -> io::Error {
    io::Error::other(format!("{what} failed: {why}"))
}

impl Deref for RabbitMq {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for RabbitMq {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}
