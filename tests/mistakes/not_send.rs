//! is not a handler
//! no `Rc`, and no lock guard across an `.await`
use std::rc::Rc;

async fn handle() {
    let count = Rc::new(1);
    std::future::ready(()).await;
    drop(count);
}

fn main() {
    kombu::handler::Router::<()>::new().on("job", handle);
}
