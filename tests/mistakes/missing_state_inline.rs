//! `Router<Prices>` is not a router whose handlers have their state
//! handlers take a `State<T>`: give it with `.with_state(..)`
use kombu::handler::{Router, State};
use kombu::mailbox::Mailbox;

#[derive(Clone)]
struct Prices;

async fn handle(_: State<Prices>) {}

async fn serve(connection: kombu::Connection, workers: Mailbox) {
    let _ = workers.node(&connection, "one", Router::new().on("job", handle)).await;
}

fn main() {
    drop(serve);
}
