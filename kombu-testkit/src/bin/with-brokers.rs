//! Runs a command with private brokers: `with-brokers COMMAND [ARGUMENTS]`.
//!
//! Starts what is installed on free ports of the loopback interface, tells the command where they are
//! (`KOMBU_TEST_AMQP_URL`, `KOMBU_TEST_AMQP_ADMIN`), and ends them when it is over. A broker whose address is in
//! the environment already is used as it is. `KOMBU_TEST_REQUIRE=amqp` makes a missing one a failure.

// A program for tests says no by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::env;
use std::process::{Command, ExitCode};

use kombu_testkit::brokers::{RabbitMq, is_required};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-brokers COMMAND [ARGUMENTS]");
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(arguments);

    let mut rabbit = None;
    if env::var_os("KOMBU_TEST_AMQP_URL").is_none() {
        match RabbitMq::start() {
            Ok(started) => {
                command
                    .env("KOMBU_TEST_AMQP_URL", started.url())
                    .env("KOMBU_TEST_AMQP_ADMIN", started.admin());
                rabbit = Some(started);
            }
            Err(problem) if is_required("amqp") => {
                eprintln!("RabbitMQ is required and isn't there: {problem}");
                return ExitCode::FAILURE;
            }
            Err(problem) => eprintln!("without RabbitMQ, its tests are ignored: {problem}"),
        }
    }
    let status = command.status();
    drop(rabbit);
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{command:?} can't be run: {problem}");
            ExitCode::FAILURE
        }
    }
}
