use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use kombu::{Connection, DeclareMode, ErrorKind, Exchange, Queue, Topology};
use serde::Serialize;

use crate::Context;
use crate::failure::{Code, Failure, Result};

/// Say what `apply` would do: what is there, what is missing, what is there in another form
///
/// Brokers don't tell their bindings: apply makes those that aren't there. To find out whether something is there in the same form, it
/// is declared as the file has it once it is known to be there, which changes nothing.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu plan shop.yaml")]
pub(crate) struct Plan {
    #[command(flatten)]
    file: File,
}

/// Compare a file with the broker; ends with code 7 if they differ
///
/// It shows what is missing on the broker or is there in another form. Bindings, which brokers don't tell, aren't compared.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu diff shop.yaml && echo the same")]
pub(crate) struct Diff {
    #[command(flatten)]
    file: File,
}

/// Declare what a file has: exchanges, queues and bindings
///
/// What is there in another form is refused before anything is made (code 7). Nothing is deleted.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu apply shop.yaml")]
pub(crate) struct Apply {
    #[command(flatten)]
    file: File,
}

#[derive(Args, Debug)]
struct File {
    /// A configuration file; its connection is taken where neither --url nor KOMBU_URL says which
    #[arg(value_name = "FILE")]
    topology: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
enum State {
    Same,
    Missing,
    Differs(String),
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    name: String,
    #[serde(flatten)]
    state: State,
}

impl Row {
    fn text(&self) -> String {
        let Row { what, name, state } = self;
        match state {
            State::Same => format!("= {what} {name}"),
            State::Missing => format!("+ {what} {name}"),
            State::Differs(why) => format!("! {what} {name}: {why}"),
        }
    }
}

impl File {
    async fn open(&self, context: &Context) -> Result<(Topology, Connection)> {
        let declared = kombu::from_config(&self.topology)?.topology();
        let mut place = context.place.clone();
        place.config.get_or_insert_with(|| self.topology.clone());
        Ok((declared, place.connect().await?))
    }
}

/// The exchanges that a file declares, each once, however many parts of it use it. Others are somebody else's.
fn exchanges(declared: &Topology) -> impl Iterator<Item = &Exchange> {
    let mut seen = HashSet::new();
    let own = declared.exchanges().iter();
    own.filter(|exchange| !exchange.is_predeclared() && is_declared(exchange.declare_mode()))
        .filter(move |exchange| seen.insert(exchange.name()))
}

/// The same of queues. What the broker names is made by whoever uses it.
fn queues(declared: &Topology) -> impl Iterator<Item = &Queue> {
    let mut seen = HashSet::new();
    let own = declared.queues().iter();
    own.filter(|queue| !queue.is_server_named() && is_declared(queue.declare_mode()))
        .filter(move |queue| seen.insert(queue.name()))
}

fn is_declared(mode: Option<DeclareMode>) -> bool {
    mode.unwrap_or_default() == DeclareMode::Ensure
}

async fn compare(connection: &Connection, declared: &Topology) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for exchange in exchanges(declared) {
        rows.push(Row {
            what: "exchange",
            name: exchange.name().to_string(),
            state: exchange_state(connection, exchange).await?,
        });
    }
    for queue in queues(declared) {
        rows.push(Row {
            what: "queue",
            name: queue.name().to_string(),
            state: queue_state(connection, queue).await?,
        });
    }
    Ok(rows)
}

async fn exchange_state(connection: &Connection, exchange: &Exchange) -> Result<State> {
    let alone = exchange.clone().with_bindings(Vec::new());
    let there = connection.declare_exchange(&alone.clone().passive()).await;
    match state(there)? {
        State::Same => state(
            connection
                .declare_exchange(&alone.declare(DeclareMode::Ensure))
                .await,
        ),
        other => Ok(other),
    }
}

async fn queue_state(connection: &Connection, queue: &Queue) -> Result<State> {
    let alone = queue.clone().with_bindings(Vec::new());
    let there = connection.declare_queue(&alone.clone().passive()).await;
    match state(there)? {
        State::Same => state(
            connection
                .declare_queue(&alone.declare(DeclareMode::Ensure))
                .await,
        ),
        other => Ok(other),
    }
}

fn state<T>(answer: kombu::Result<T>) -> Result<State> {
    match answer {
        Ok(_) => Ok(State::Same),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::Missing),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PreconditionFailed | ErrorKind::ResourceLocked
            ) =>
        {
            Ok(State::Differs(error.message().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

fn write<'a>(context: &Context, rows: impl IntoIterator<Item = &'a Row>) -> Result<()> {
    let output = context.output;
    rows.into_iter().try_for_each(|row| match output.json {
        true => output.json(row),
        false => output.line(&row.text()),
    })
}

impl Plan {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (declared, connection) = self.file.open(context).await?;
        let rows = compare(&connection, &declared).await?;
        connection.close().await?;
        write(context, &rows)
    }
}

impl Diff {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (declared, connection) = self.file.open(context).await?;
        let mut rows = compare(&connection, &declared).await?;
        connection.close().await?;
        rows.retain(|row| row.state != State::Same);
        write(context, &rows)?;
        match rows.len() {
            0 => Ok(()),
            1 => Err(Failure::new(Code::Differs, "1 difference")),
            count => Err(Failure::new(Code::Differs, format!("{count} differences"))),
        }
    }
}

impl Apply {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (declared, connection) = self.file.open(context).await?;
        let rows = compare(&connection, &declared).await?;
        let differs = |row: &&Row| matches!(row.state, State::Differs(_));
        if rows.iter().any(|row| differs(&row)) {
            write(context, rows.iter().filter(differs))?;
            connection.close().await?;
            return Err(Failure::new(
                Code::Differs,
                "nothing was made: what is there in another form has to be deleted first",
            ));
        }
        for exchange in exchanges(&declared) {
            connection.declare_exchange(exchange).await?;
        }
        for queue in queues(&declared) {
            connection.declare_queue(queue).await?;
        }
        connection.close().await?;
        write(
            context,
            rows.iter().filter(|row| row.state == State::Missing),
        )?;
        let made = rows
            .iter()
            .filter(|row| row.state == State::Missing)
            .count();
        if !context.output.json && !context.output.quiet {
            crate::output::note(&format!(
                "{made} made, {} there already; bindings are there",
                rows.len() - made
            ));
        }
        Ok(())
    }
}
