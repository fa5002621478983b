//! is not a handler
//! it returns `()`, an `Outcome`, a number, a text, `Reply(value)`, or a `Result` of one of these
struct Price;

async fn handle() -> Price {
    Price
}

fn main() {
    kombu::handler::Router::<()>::new().on("job", handle);
}
