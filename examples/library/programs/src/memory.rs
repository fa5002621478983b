//! The newsroom on kombu's memory transport.

use std::error::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    newsroom_programs::run(kombu::connect("memory://").await?).await
}
