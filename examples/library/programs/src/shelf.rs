//! The newsroom on a transport that is no part of kombu.

use std::error::Error;

use kombu::Connection;
use shelf_transport::Shelf;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = kombu::registry().with(Shelf::default());
    let connection = Connection::builder(registry)
        .url("shelf://newsroom")
        .await?;
    newsroom_programs::run(connection).await
}
