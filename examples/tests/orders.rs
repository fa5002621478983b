use super::*;

#[tokio::test]
async fn prices_are_told_without_a_broker() {
    let prices: Prices = Arc::new(BTreeMap::from([("apples", 3)]));
    let order = |item: &str| {
        let item = item.to_owned();
        Payload(Order { item, count: 2 })
    };
    let Reply(total) = price(order("apples"), State(prices.clone())).await.unwrap();
    assert_eq!(total, 6);
    let failure = price(order("pears"), State(prices)).await.unwrap_err();
    assert_eq!(failure.name(), "OutOfStock");
}

#[tokio::test]
async fn the_warehouse_quits_when_it_is_told() {
    assert_eq!(run("memory://orders-test").await.unwrap(), Exit::Quit);
}
