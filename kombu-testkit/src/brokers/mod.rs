//! Private brokers, on free ports of the loopback interface: started for one run of tests and ended with it.

mod rabbitmq;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::{env, io};

pub use rabbitmq::RabbitMq;

/// Whether `KOMBU_TEST_REQUIRE`, a list with commas, names this broker.
pub fn is_required(broker: &str) -> bool {
    env::var("KOMBU_TEST_REQUIRE")
        .is_ok_and(|list| list.split(',').any(|name| name.trim() == broker))
}

/// A port that nobody listens on at the moment.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A program with all that it started, in a process group of its own.
struct Group(Child);

impl Group {
    fn start(command: &mut Command) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        command.process_group(0).stdin(Stdio::null());
        command.spawn().map(Group)
    }
}

impl Drop for Group {
    /// Asks all of them to end, and waits for the first.
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let asked = Command::new("kill").args(["-TERM", "--", &group]).status();
        if asked.is_ok_and(|status| status.success()) {
            drop(self.0.wait());
        } else {
            drop(self.0.kill());
        }
    }
}
