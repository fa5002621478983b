use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, thread};

use super::{Group, free_port};

/// The program itself: the script of that name in the path changes the user and loses the environment.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// It takes 5 to 10 seconds; a busy machine needs more.
const PATIENCE: Duration = Duration::from_secs(120);

/// A RabbitMQ of our own, with its management interface. Dropping it ends it.
pub struct RabbitMq {
    group: Option<Group>,
    folder: PathBuf,
    port: u16,
    admin: u16,
    mapper: u16,
}

impl RabbitMq {
    /// Starts one and waits until it takes connections.
    pub fn start() -> io::Result<Self> {
        if !Path::new(PROGRAM).exists() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no {PROGRAM}; `scripts/test --install` installs it"),
            ));
        }
        let (port, admin, mapper) = (free_port()?, free_port()?, free_port()?);
        let folder = env::temp_dir().join(format!("kombu-rabbitmq-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("plugins"), "[rabbitmq_management].\n")?;
        fs::write(
            folder.join("rabbit.conf"),
            format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {admin}\n"),
        )?;
        let mut rabbit = RabbitMq {
            group: None,
            folder,
            port,
            admin,
            mapper,
        };
        let mut command = Command::new(PROGRAM);
        let folder = &rabbit.folder;
        command
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", format!("kombu{port}@localhost"))
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbit"))
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("errors"))?);
        let mut group = Group::start(&mut command)?;
        let output = group.0.stdout.take();
        rabbit.group = Some(group);
        let output = output.ok_or_else(|| io::Error::other("no output to read"))?;
        rabbit.wait_for_start(BufReader::new(output))?;
        Ok(rabbit)
    }

    /// It says so when it is there. Its output is read to the end, so that it never has to wait for us.
    fn wait_for_start(&self, output: impl BufRead + Send + 'static) -> io::Result<()> {
        let (started, starting) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line.contains("completed with") {
                    // Whoever waited may have lost patience.
                    let _ = started.send(());
                }
            }
        });
        starting.recv_timeout(PATIENCE).map_err(|_| {
            let errors = fs::read_to_string(self.folder.join("errors")).unwrap_or_default();
            io::Error::other(format!("RabbitMQ didn't start: {errors}"))
        })
    }

    /// Where it takes connections, as the user `guest`.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// Its management interface, as `host:port`.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }
}

impl std::fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitMq")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        drop(self.group.take());
        // The port mapper is a daemon, and outlives the node that started it.
        drop(
            Command::new("epmd")
                .args(["-port", &self.mapper.to_string(), "-kill"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status(),
        );
        drop(fs::remove_dir_all(&self.folder));
    }
}
