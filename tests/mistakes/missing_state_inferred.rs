//! `Router<Prices>` is not a router whose handlers have their state
//! handlers take a `State<T>`: give it with `.with_state(..)`
use kombu::handler::{Router, State};

#[derive(Clone)]
struct Prices;

async fn handle(_: State<Prices>) {}

async fn serve(connection: kombu::Connection) {
    let router = Router::new().on("job", handle);
    let _ = connection.serve(router).run().await;
}

fn main() {
    drop(serve);
}
