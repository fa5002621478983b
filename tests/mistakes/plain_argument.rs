//! is not a handler
//! extractors: `Payload<T>`, `State<T>`, `Headers`
async fn handle(_: u32) {}

fn main() {
    kombu::handler::Router::<()>::new().on("job", handle);
}
