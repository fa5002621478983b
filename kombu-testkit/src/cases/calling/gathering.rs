//! Several answers to one question.

use std::time::Duration;

use kombu_core::call::Failure;
use kombu_core::{CallError, Connection, Exchange, Queue};

use super::{PATIENCE, Server, serve, value};
use crate::Broker;

async fn members(
    connection: &Connection,
    everybody: &Exchange,
    names: &[&'static str],
) -> Vec<Server> {
    let mut servers = Vec::new();
    for name in names {
        let queue = Queue::new(*name).bind(everybody, "");
        servers.push(
            serve(connection, &queue, |question| {
                match question.queue().as_str() {
                    "broken" => {
                        let failure = Failure::critical(400, "broken");
                        question.responder().unwrap().fail(failure)
                    }
                    name => question.reply(name),
                }
            })
            .await,
        );
    }
    servers
}

/// From as many servers as are asked for.
pub async fn several_servers_answer(broker: &Broker) {
    let connection = broker.connect().await;
    let everybody = Exchange::fanout("everybody");
    let _servers = members(&connection, &everybody, &["left", "middle", "right"]).await;
    let caller = connection
        .caller(&everybody)
        .timeout(PATIENCE)
        .await
        .unwrap();
    let answers = value(caller.call::<_, String>("who?").gather(3).await);
    let mut names: Vec<String> = answers.into_iter().map(value).collect();
    names.sort();
    assert_eq!(names, ["left", "middle", "right"]);
    let two = value(caller.call::<_, String>("who?").gather(2).await);
    assert_eq!(two.len(), 2);
}

/// Those that came, when the time is over.
pub async fn fewer_answers_than_asked_for_are_handed_out_in_time(broker: &Broker) {
    let connection = broker.connect().await;
    let everybody = Exchange::fanout("everybody");
    let _servers = members(&connection, &everybody, &["left", "right"]).await;
    let caller = connection.caller(&everybody).await.unwrap();
    let call = caller.call::<_, String>("who?");
    let answers = value(call.timeout(Duration::from_secs(2)).gather(3).await);
    assert_eq!(answers.len(), 2);
}

/// None is a timeout, after one attempt.
pub async fn no_answer_is_a_timeout(broker: &Broker) {
    let connection = broker.connect().await;
    let everybody = Exchange::fanout("everybody");
    let queue = Queue::new("silent").bind(&everybody, "");
    connection.declare_queue(&queue).await.unwrap();
    let caller = connection.caller(&everybody).await.unwrap();
    let call = caller.call::<_, String>("who?");
    let failed = call.timeout(Duration::from_millis(100)).gather(2).await;
    assert!(
        matches!(failed, Err(CallError::Timeout { attempts: 1 })),
        "{failed:?}"
    );
    broker.assert_counts(&connection, "silent", 1, 0).await;
}

/// One server's failure is its own.
pub async fn a_failure_among_the_answers_is_one_of_them(broker: &Broker) {
    let connection = broker.connect().await;
    let everybody = Exchange::fanout("everybody");
    let _servers = members(&connection, &everybody, &["broken", "left"]).await;
    let caller = connection
        .caller(&everybody)
        .timeout(PATIENCE)
        .await
        .unwrap();
    let answers = value(caller.call::<_, String>("who?").gather(2).await);
    let (values, failures): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(values.into_iter().map(value).collect::<Vec<_>>(), ["left"]);
    assert!(matches!(
        &failures[..],
        [Err(CallError::Critical { code: 400, .. })]
    ));
}
