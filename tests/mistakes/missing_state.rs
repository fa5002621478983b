//! is not a handler
//! a `State<T>` that it takes is given to the router with `.with_state(..)`, and that of this router is `()`
use kombu::handler::{Router, State};

#[derive(Clone)]
struct Prices;

async fn handle(_: State<Prices>) {}

fn main() {
    Router::<()>::new().on("job", handle);
}
