//! expected `Prices`, found `Stock`
use kombu::handler::{Router, State};

#[derive(Clone)]
struct Prices;

#[derive(Clone)]
struct Stock;

async fn handle(_: State<Prices>) {}

fn main() {
    let _: Router = Router::new().on("job", handle).with_state(Stock);
}
