//! Runs a command with private brokers: `with-brokers COMMAND [ARGUMENTS]`.
//!
//! Starts what is installed on free ports of the loopback interface, tells the command where they are
//! (`KOMBU_TEST_AMQP_URL`, `KOMBU_TEST_AMQP_ADMIN`, `KOMBU_TEST_REDIS_URL`, `KOMBU_TEST_NATS_URL`), and ends them when it is
//! over. A broker whose address is in the environment already is used as it is. `KOMBU_TEST_REQUIRE=amqp,redis,nats` makes a
//! missing one a failure.
//!
//! The programs are the system's, or those in the folder that `KOMBU_TEST_BROKERS_ROOT` names.
//!
//! SIGTERM and SIGHUP are passed on to the command, Ctrl-C reaches it anyway, and the brokers end after it; where this
//! program is killed, they end at once.

// A program for tests says no by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{ExitCode, ExitStatus};
use std::{env, io};

use kombu_testkit::brokers::{Nats, RabbitMq, Redis, is_required};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-brokers COMMAND [ARGUMENTS]");
        return ExitCode::from(2);
    };
    let mut command = Command::new(&program);
    command.args(arguments);

    // They end when they are dropped, after the command.
    let started = (|| {
        let rabbit = start("RabbitMQ", "amqp", "KOMBU_TEST_AMQP_URL", RabbitMq::start)?;
        let redis = start("Redis", "redis", "KOMBU_TEST_REDIS_URL", Redis::start)?;
        let nats = start("NATS", "nats", "KOMBU_TEST_NATS_URL", Nats::start)?;
        Ok::<_, ExitCode>((rabbit, redis, nats))
    })();
    let (rabbit, redis, nats) = match started {
        Ok(started) => started,
        Err(code) => return code,
    };
    if let Some(rabbit) = &rabbit {
        command
            .env("KOMBU_TEST_AMQP_URL", rabbit.url())
            .env("KOMBU_TEST_AMQP_ADMIN", rabbit.admin());
    }
    if let Some(redis) = &redis {
        command.env("KOMBU_TEST_REDIS_URL", redis.url());
    }
    if let Some(nats) = &nats {
        command.env("KOMBU_TEST_NATS_URL", nats.url());
    }
    match run(command).await {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{} can't be run: {problem}", program.display());
            ExitCode::FAILURE
        }
    }
}

/// Starts a broker unless its address is given; without one, the tests that need it are ignored or must not be.
fn start<B>(
    name: &str,
    short: &str,
    variable: &str,
    start: impl FnOnce() -> io::Result<B>,
) -> Result<Option<B>, ExitCode> {
    if env::var_os(variable).is_some() {
        return Ok(None);
    }
    match start() {
        Ok(broker) => Ok(Some(broker)),
        Err(problem) if is_required(short) => {
            eprintln!("{name} is required and isn't there: {problem}");
            Err(ExitCode::FAILURE)
        }
        Err(problem) => {
            eprintln!("without {name}, its tests are ignored: {problem}");
            Ok(None)
        }
    }
}

/// Runs the command to its end, whatever we are asked meanwhile.
async fn run(mut command: Command) -> io::Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = command.spawn()?;
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let id = id.and_then(Pid::from_raw);
    let pass_on = |signal| {
        if let Some(id) = id {
            // It may just have ended.
            let _ = kill_process(id, signal);
        }
    };
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            _ = terminate.recv() => pass_on(Signal::TERM),
            _ = hang_up.recv() => pass_on(Signal::HUP),
            _ = interrupt.recv() => {}
        }
    }
}
