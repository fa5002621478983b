use super::*;

#[tokio::test]
async fn every_shop_says_its_price() {
    let connection = kombu::connect("memory://answers-test").await.unwrap();
    shop(&connection, "dear", 9).await.unwrap();
    shop(&connection, "cheap", 1).await.unwrap();
    let caller = connection.caller(shops()).await.unwrap();
    let prices = prices(&caller, "plum").await.unwrap();
    let expected = [("cheap".to_owned(), 4), ("dear".to_owned(), 36)];
    assert_eq!(prices, BTreeMap::from(expected));
}

#[tokio::test]
async fn the_program_runs_to_its_end() {
    run("memory://answers-run").await.unwrap();
}
