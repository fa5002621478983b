//! a handler asks for `State<Prices>`, and the router's state is `Stock`
//! implement `FromState<Stock>` for `Prices`
use kombu::handler::{Router, State};

#[derive(Clone)]
struct Prices;

#[derive(Clone)]
struct Stock;

async fn handle(_: State<Prices>) {}

fn main() {
    let _: Router = Router::new().on("job", handle).with_state(Stock);
}
