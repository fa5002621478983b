//! a handler asks for `State<Prices>`, and the router's state is `()`
//! give it with `.with_state(..)`
use kombu::handler::{Router, State};

#[derive(Clone)]
struct Prices;

async fn handle(_: State<Prices>) {}

fn main() {
    Router::<()>::new().on("job", handle);
}
