//! kombu: declarations are values; what is done with them takes a connection.

use kombu::{ErrorKind, Exchange};

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let exchange = Exchange::direct("seeds.tasks");
    let connection = kombu::connect(url).await?;
    connection.declare_exchange(&exchange).await?;
    connection.delete_exchange(exchange.name()).await?;
    // The declaration is the same as before, and `exchange.delete()` doesn't compile.
    let passive = exchange.clone().passive();
    if let Err(error) = connection.declare_exchange(&passive).await {
        println!("deleted: {}", error.kind() == ErrorKind::NotFound);
    }
    println!("{} is {:?}", exchange.name(), exchange.kind());
    connection.close().await
}
