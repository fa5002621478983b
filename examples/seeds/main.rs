//! The sample programs of the libraries that kombu learnt from, one by one.
//!
//! `cargo run --features blocking,postage --example seeds -- PROGRAM... [--url URL]`, in order; without a program it says which there are.
//!
//! Those that receive need one that sends before them, on the same broker: `puka_send puka_send puka_send puka_receive`.

use std::future::Future;
use std::pin::Pin;

mod canopsis_uris;
mod kombu_declarations;
mod kombu_feed;
mod kombu_overview;
mod kombu_own_classes;
mod kombu_raw_data;
mod kombu_serialization;
mod occo;
mod occo_async_producer;
mod occo_infinite_consumer;
mod occo_interruptable_consumer;
mod occo_rpc_producer;
mod postage_generic_message;
mod postage_my_exchange;
mod postage_ping;
mod postage_quit;
mod puka_async_send;
mod puka_receive;
mod puka_send;

type Running<'a> = Pin<Box<dyn Future<Output = kombu::Result<()>> + 'a>>;

enum Program {
    /// It waits, and has no tasks.
    Blocking(fn(&str) -> kombu::Result<()>),
    Asynchronous(for<'a> fn(&'a str) -> Running<'a>),
}

macro_rules! asynchronous {
    ($($name:ident)*) => {
        [$((stringify!($name), Program::Asynchronous(|url| Box::pin($name::run(url))))),*]
    };
}

fn program(name: &str) -> Option<Program> {
    let blocking = [
        ("puka_send", Program::Blocking(puka_send::run)),
        ("puka_receive", Program::Blocking(puka_receive::run)),
    ];
    let asynchronous = asynchronous! {
        canopsis_uris
        kombu_declarations
        kombu_feed
        kombu_overview
        kombu_own_classes
        kombu_raw_data
        kombu_serialization
        occo_async_producer
        occo_infinite_consumer
        occo_interruptable_consumer
        occo_rpc_producer
        postage_generic_message
        postage_my_exchange
        postage_ping
        postage_quit
        puka_async_send
    };
    let mut programs = blocking.into_iter().chain(asynchronous);
    programs
        .find(|(known, _)| *known == name)
        .map(|(_, program)| program)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut url = "memory://seeds".to_owned();
    let mut programs = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--url" {
            url = arguments.next().ok_or("--url takes a URL")?;
            continue;
        }
        let known = program(&argument);
        programs.push(known.ok_or_else(|| format!("there is no program `{argument}`"))?);
    }
    if programs.is_empty() {
        return Err("usage: seeds PROGRAM... [--url URL]; each is a file in examples/seeds".into());
    }
    for program in programs {
        match program {
            Program::Blocking(run) => run(&url)?,
            Program::Asynchronous(run) => {
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                runtime.enable_all().build()?.block_on(run(&url))?;
            }
        }
    }
    Ok(())
}
