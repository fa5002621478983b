//! is not a handler
//! a handler is an `async fn` whose arguments are extractors
fn main() {
    kombu::handler::Router::<()>::new().on("job", || ());
}
