use super::*;

#[tokio::test]
async fn a_method_is_tried_without_a_mailbox() {
    let division = |divisor| {
        Arguments(Division {
            dividend: 42,
            divisor,
        })
    };
    assert_eq!(divide(division(7)).await.unwrap(), 6);
    assert_eq!(
        divide(division(0)).await.unwrap_err().name(),
        "ZeroDivisionError"
    );
}

#[tokio::test]
async fn the_workers_stop_when_they_are_told() {
    run("memory://control-test").await.unwrap();
}
