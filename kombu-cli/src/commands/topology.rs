use std::path::PathBuf;

use clap::Args;
use kombu::{Binding, Connection, DeclareMode, ErrorKind, Exchange, Queue, Topology};
use serde::Serialize;

use crate::Context;
use crate::failure::{Code, Failure, Result, in_our_words};
use crate::output::counted;

/// Say what `apply` would do: what is there, what is missing, what is there in another form
///
/// Brokers don't tell their bindings, so these aren't compared: apply makes all of the file's again, which changes nothing where they
/// are there, and those that only the broker has stay. To find out whether something is there in the same form, it is declared as the
/// file has it once it is known to be there, which changes nothing.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu plan shop.yaml")]
pub(crate) struct Plan {
    #[command(flatten)]
    file: File,
}

/// Compare a file with the broker; ends with code 7 if they differ
///
/// It shows what is missing on the broker or is there in another form. Bindings aren't compared, since brokers don't tell theirs: one
/// that isn't there is no difference here. Apply makes them again.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu diff shop.yaml && echo the same")]
pub(crate) struct Diff {
    #[command(flatten)]
    file: File,
}

/// Declare what a file has: exchanges, queues and bindings
///
/// What is there in another form is refused before anything is made (code 7), and so is what the broker can't do, which `kombu check` says
/// without one. Nothing is deleted, and bindings that only the broker
/// has stay; those of the file are made again, whether they are there or not. Queues that are exclusive, or that the broker names, are
/// left to whoever uses them.
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
    /// Brokers don't tell.
    NotCompared,
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
            State::NotCompared => format!("~ {what} {name}"),
        }
    }
}

impl File {
    async fn open(&self, context: &Context) -> Result<(Topology, Connection)> {
        let declared = kombu::from_config(&self.topology)?.topology();
        let mut place = context.place.clone();
        place.config.get_or_insert_with(|| self.topology.clone());
        let connection = context.connected(place.connect()).await?;
        // Before anything is made: half of a file is worse than none of it.
        let refused = declared.check(connection.capabilities()).require();
        if let Err(error) = refused {
            connection.close().await?;
            return Err(Failure::from(error).about("nothing of this file can be made"));
        }
        Ok((declared, connection))
    }
}

/// The exchanges that a file declares, each once with all of its bindings, however many parts of it use it, behind those that it is
/// bound to. Others are somebody else's.
fn exchanges(declared: &Topology) -> Vec<Exchange> {
    fn add(exchange: &Exchange, all: &mut Vec<Exchange>) {
        let is_ours = !exchange.is_default() && !exchange.is_predeclared();
        if !is_ours || !is_declared(exchange.declare_mode()) {
            return;
        }
        for binding in exchange.bindings() {
            add(binding.exchange(), all);
        }
        match all.iter_mut().find(|one| one.name() == exchange.name()) {
            Some(same) => {
                let bindings = together(same.bindings(), exchange.bindings());
                *same = same.clone().with_bindings(bindings);
            }
            None => all.push(exchange.clone()),
        }
    }
    let bound = own_queues(declared).flat_map(Queue::bindings);
    let bound = bound.map(|binding| binding.exchange());
    let mut all = Vec::new();
    for exchange in declared.exchanges().iter().chain(bound) {
        add(exchange, &mut all);
    }
    all
}

/// The same of queues.
fn queues(declared: &Topology) -> Vec<Queue> {
    let mut all: Vec<Queue> = Vec::new();
    for queue in own_queues(declared) {
        match all.iter_mut().find(|one| one.name() == queue.name()) {
            Some(same) => {
                let bindings = together(same.bindings(), queue.bindings());
                *same = same.clone().with_bindings(bindings);
            }
            None => all.push(queue.clone()),
        }
    }
    all
}

/// What the broker names, or is there for one connection only, is made by whoever uses it.
fn own_queues(declared: &Topology) -> impl Iterator<Item = &Queue> {
    let own = declared.queues().iter();
    own.filter(|queue| !queue.is_server_named() && !queue.is_exclusive())
        .filter(|queue| is_declared(queue.declare_mode()))
}

fn together(some: &[Binding], more: &[Binding]) -> Vec<Binding> {
    let more = more.iter().filter(|binding| !some.contains(binding));
    some.iter().chain(more).cloned().collect()
}

fn is_declared(mode: Option<DeclareMode>) -> bool {
    mode.unwrap_or_default() == DeclareMode::Ensure
}

/// What apply makes whether it is there or not.
fn bindings(declared: &Topology) -> Vec<Row> {
    let row = |destination: String, binding: &Binding| Row {
        what: "binding",
        name: format!(
            "of {destination} to `{}` by `{}`",
            binding.exchange().name(),
            binding.get_routing_key()
        ),
        state: State::NotCompared,
    };
    let mut rows = Vec::new();
    for exchange in exchanges(declared) {
        let name = format!("exchange `{}`", exchange.name());
        let bindings = exchange.bindings().iter();
        rows.extend(bindings.map(|binding| row(name.clone(), binding)));
    }
    for queue in queues(declared) {
        let name = format!("queue `{}`", queue.name());
        let bindings = queue.bindings().iter();
        rows.extend(bindings.map(|binding| row(name.clone(), binding)));
    }
    rows
}

/// Says of bindings what can be said: programs get a row for each, people the number.
fn write_bindings(context: &Context, declared: &Topology) -> Result<()> {
    let rows = bindings(declared);
    if context.output.json {
        return write(context, &rows);
    }
    if rows.is_empty() || context.output.quiet {
        return Ok(());
    }
    crate::output::note(&format!(
        "{} not compared, since brokers don't tell theirs: apply makes them again",
        counted_bindings(rows.len())
    ));
    Ok(())
}

fn counted_bindings(bindings: usize) -> String {
    counted(bindings as u64, "binding")
}

async fn compare(connection: &Connection, declared: &Topology) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for exchange in exchanges(declared) {
        rows.push(Row {
            what: "exchange",
            name: exchange.name().to_string(),
            state: exchange_state(connection, &exchange).await?,
        });
    }
    for queue in queues(declared) {
        rows.push(Row {
            what: "queue",
            name: queue.name().to_string(),
            state: queue_state(connection, &queue).await?,
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
            Ok(State::Differs(in_our_words(error.message())))
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
        write(context, &rows)?;
        write_bindings(context, &declared)
    }
}

impl Diff {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (declared, connection) = self.file.open(context).await?;
        let mut rows = compare(&connection, &declared).await?;
        connection.close().await?;
        rows.retain(|row| row.state != State::Same);
        write(context, &rows)?;
        write_bindings(context, &declared)?;
        match rows.len() as u64 {
            0 => Ok(()),
            count => Err(Failure::new(Code::Differs, counted(count, "difference"))),
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
        // A reader that is gone is no reason to make half of it.
        let mut written = Ok(());
        let mut made = |row: Option<&Row>| {
            let row = row.filter(|row| row.state == State::Missing);
            if written.is_ok() {
                written = write(context, row);
            }
        };
        let mut these = rows.iter();
        // Each is told when it is there, whatever becomes of its bindings.
        for exchange in exchanges(&declared) {
            let alone = exchange.clone().with_bindings(Vec::new());
            connection.declare_exchange(&alone).await?;
            made(these.next());
            connection.declare_exchange(&exchange).await?;
        }
        for queue in queues(&declared) {
            let alone = queue.clone().with_bindings(Vec::new());
            connection.declare_queue(&alone).await?;
            made(these.next());
            connection.declare_queue(&queue).await?;
        }
        connection.close().await?;
        written?;
        let made = rows
            .iter()
            .filter(|row| row.state == State::Missing)
            .count();
        if !context.output.json && !context.output.quiet {
            crate::output::note(&format!(
                "{made} made, {} there already; {} made again",
                rows.len() - made,
                counted_bindings(bindings(&declared).len())
            ));
        }
        Ok(())
    }
}
