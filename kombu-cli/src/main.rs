//! The `kombu` command: look into queues, send, receive and move messages from a shell, on any broker.

mod acks;
mod commands;
mod confirm;
mod debug;
mod failure;
mod forward;
mod idle;
mod input;
mod look;
mod output;
mod place;
mod record;
mod show;
mod stop;
mod target;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use kombu::Connection;

use self::failure::{CODES, Code, Failure, Result};
use self::output::Output;
use self::place::Place;
use self::stop::Stop;

/// What `--help` says about ends that aren't told in advance.
const WAITING: &str = "What waits, and for how long:
  Until Ctrl-C, whether something comes or not: `consume --follow`, `serve`, `queues --watch`;
  `consume -n` and `bridge`, unless --idle says when they end.
  Until the broker is back, however long that takes: `consume`, `move`, `bridge`, `dead redrive`.
  For 35s behind that, they don't take a queue for empty: so long may a broker keep what a lost
  connection had.
  Until its end, a look (`--release`, `dead list`, `dead show`) holds what it shows: 1000 messages,
  or 64 MiB, at most.";

const EXAMPLE: &str = "Example:
  export KOMBU_URL=amqp://guest:guest@localhost
  kombu declare queue jobs
  kombu publish -q jobs '{\"id\": 7}'
  kombu consume jobs";

/// Look into queues, send, receive and move messages, on RabbitMQ, Redis and NATS.
#[derive(Debug, Parser)]
#[command(
    name = "kombu",
    version,
    arg_required_else_help = true,
    after_help = EXAMPLE,
    after_long_help = format!("{EXAMPLE}\n\n{WAITING}\n\n{CODES}")
)]
struct Cli {
    #[command(flatten)]
    place: Place,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but results and errors
    #[arg(long, short = 'Q', global = true)]
    quiet: bool,
    /// Tell what the library does: each publish and delivery, without body and headers. So does POSTAGE_DEBUG_MODE=true, unless --quiet
    #[arg(long, global = true)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Publish(Box<commands::publish::Publish>),
    Consume(commands::consume::Consume),
    Get(commands::get::Get),
    Declare(commands::declare::Declare),
    Bind(commands::bind::Bind),
    Unbind(commands::bind::Unbind),
    Delete(commands::delete::Delete),
    Purge(commands::purge::Purge),
    Queues(commands::queues::Queues),
    Move(commands::moving::Move),
    Bridge(commands::moving::Bridge),
    Dead(commands::dead::Dead),
    Call(commands::call::Call),
    Serve(commands::serve::Serve),
    Check(commands::check::Check),
    Schema(commands::schema::Schema),
    Plan(commands::topology::Plan),
    Apply(commands::topology::Apply),
    Diff(commands::topology::Diff),
    Bench(commands::bench::Bench),
    Doctor(commands::doctor::Doctor),
    Completions(commands::completions::Completions),
}

/// What every command has.
#[derive(Debug)]
struct Context {
    place: Place,
    output: Output,
    stop: Stop,
}

impl Context {
    /// Connects to the broker that is meant.
    async fn connect(&self) -> Result<Connection> {
        self.connected(self.place.connect()).await
    }

    /// Waits for a connection, or for the end.
    async fn connected(
        &self,
        connecting: impl Future<Output = Result<Connection>>,
    ) -> Result<Connection> {
        let what = "there was a connection";
        self.stop.unless_asked(what, connecting).await
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli) {
        Ok(()) | Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(Failure::Because(code, message)) => {
            output::note(&message);
            ExitCode::from(code as u8)
        }
    }
}

/// Help, or what is wrong with the arguments, which may have a URL among them.
fn explain(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        let _ = write!(std::io::stdout(), "{text}");
        return ExitCode::SUCCESS;
    }
    let shown = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => text,
        _ => kombu::without_secrets(&text),
    };
    let _ = write!(std::io::stderr(), "{shown}");
    ExitCode::from(Code::Usage as u8)
}

fn run(cli: Cli) -> Result<()> {
    let debug = cli.debug || !cli.quiet && debug::is_asked();
    if debug {
        debug::begin();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("no runtime: {error}")))?;
    let result = runtime.block_on(async {
        let output = Output {
            json: cli.json,
            quiet: cli.quiet,
            debug,
        };
        let context = Context {
            place: cli.place,
            output,
            stop: Stop::listen(),
        };
        let done = match cli.command {
            Command::Publish(command) => command.run(&context).await,
            Command::Consume(command) => command.run(&context).await,
            Command::Get(command) => command.run(&context).await,
            Command::Declare(command) => command.run(&context).await,
            Command::Bind(command) => command.run(&context).await,
            Command::Unbind(command) => command.run(&context).await,
            Command::Delete(command) => command.run(&context).await,
            Command::Purge(command) => command.run(&context).await,
            Command::Queues(command) => command.run(&context).await,
            Command::Move(command) => command.run(&context).await,
            Command::Bridge(command) => command.run(&context).await,
            Command::Dead(command) => command.run(&context).await,
            Command::Call(command) => command.run(&context).await,
            Command::Serve(command) => command.run(&context).await,
            Command::Check(command) => command.run(&context),
            Command::Schema(command) => command.run(&context),
            Command::Plan(command) => command.run(&context).await,
            Command::Apply(command) => command.run(&context).await,
            Command::Diff(command) => command.run(&context).await,
            Command::Bench(command) => command.run(&context).await,
            Command::Doctor(command) => command.run(&context).await,
            Command::Completions(command) => command.run(&context).await,
        };
        match done {
            // Whoever asked for the end while the broker was away got it.
            Err(Failure::Because(Code::Unreachable, message)) if context.stop.is_asked() => {
                Err(Failure::interrupted(message))
            }
            done => done,
        }
    });
    // A read of standard input that nobody waits for any more would hold up the end.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn check(command: &mut clap::Command, path: &str) {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example"), "{path}:\n{help}");
        // clap's own, which says how it is used.
        let ours = |command: &&mut clap::Command| command.get_name() != "help";
        for command in command.get_subcommands_mut().filter(ours) {
            let path = format!("{path} {}", command.get_name());
            check(command, &path);
        }
    }

    #[test]
    fn the_help_of_each_command_shows_an_example() {
        check(&mut Cli::command(), "kombu");
    }
}
