//! Postage: an exchange of one's own, and what it is made of.

use kombu::Exchange;

fn my_exchange() -> Exchange {
    Exchange::topic("seeds.my-custom-exchange")
        .durable(true)
        .auto_delete(false)
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    let exchange = my_exchange();
    connection.declare_exchange(&exchange).await?;
    println!(
        "{}: {:?}, durable: {}, auto_delete: {}",
        exchange.name(),
        exchange.kind(),
        exchange.is_durable(),
        exchange.is_auto_delete()
    );
    connection.close().await
}
