use super::*;

#[tokio::test]
async fn what_two_programs_send_a_third_one_receives() {
    let url = "memory://first-steps-test";
    send(url).await.unwrap();
    send_in_the_background(url).await.unwrap();
    for _ in 0..2 {
        send(url).await.unwrap();
    }
    assert_eq!(receive_three(url).await.unwrap(), ["Hello world!"; 3]);
    let connection = kombu::connect(url).await.unwrap();
    let info = connection.queue_info(queue().name()).await.unwrap();
    assert_eq!(
        (info.ready, info.unsettled, info.consumers),
        (1, Some(0), 0)
    );
}
