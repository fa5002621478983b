//! Calls over RabbitMQ, whose answers come over the channel that the questions went out on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{CallError, ErrorKind, Exchange, Queue};
use kombu_testkit::Harness;
use kombu_tests::AmqpHarness;

#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
#[tokio::test]
async fn calls_go_on_when_the_broker_closes_their_channel() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    let fleeting = Exchange::direct("fleeting");
    let queue = Queue::new("questions").bind(&fleeting, "questions");
    let mut questions = connection.consumer(&queue).await.unwrap();
    let caller = connection
        .caller(&fleeting)
        .routing_key("questions")
        .await
        .unwrap();

    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call::<_, i64>(&1).await }
    });
    let first = questions.try_next().await.unwrap().unwrap();
    assert!(
        first
            .reply_to()
            .unwrap()
            .starts_with("amq.rabbitmq.reply-to.")
    );
    // Long enough for the confirm, without which the question would go out again anyway.
    tokio::time::sleep(broker.lag()).await;
    // Behind the back of its session, which takes the exchange to be there.
    let other = broker.connect().await;
    other.delete_exchange("fleeting").await.unwrap();
    let failed = caller.call::<_, i64>(&2).await.unwrap_err();
    let CallError::Transport(error) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);

    // The channel is another one, so what was under way is asked again: to nobody, here.
    let failed = call.await.unwrap().unwrap_err();
    assert!(matches!(failed, CallError::Transport(_)), "{failed:?}");
    first.ack().await.unwrap();
    let call = tokio::spawn(async move {
        let default = Exchange::default();
        caller.call::<_, i64>(&3).exchange(&default).await
    });
    let again = questions.try_next().await.unwrap().unwrap();
    assert_eq!(again.decode::<i64>().unwrap(), 3);
    again.reply(&3).await.unwrap();
    again.ack().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 3);
    harness.clean_up(broker).await;
}
