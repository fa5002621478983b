//! Networks that fail again while everybody comes back.

use std::time::Duration;

use kombu::RetryPolicy;
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::Recorder;
use tokio::time::sleep;

use crate::stand::{self, count};
use crate::traffic::{NEVER, Sentinels};

// A lost reply takes somebody who publishes meanwhile.
const FAULTS: [Fault; 3] = [Fault::Cut, Fault::Reset, Fault::HalfClose];
/// A session is restored within this time, in microseconds.
const RESTORING: u64 = 30_000;

pub(crate) async fn stall_nobody(broker: &mut Breakable) {
    let mut rng = stand::rng();
    let recorder = Recorder::new();
    let retry = RetryPolicy::default()
        .first_pause(Duration::from_millis(1))
        .longest_pause(Duration::from_millis(10));
    let builder = broker.builder().retry(retry);
    let connection = builder.deadlines(stand::patient()).await.unwrap();
    let mut sentinels = Sentinels::start(broker, &connection, &recorder).await;
    let storms = count(40, 2000);
    for _ in 0..storms {
        recorder.fault("a storm");
        for _ in 0..rng.usize(1..6) {
            let fault = FAULTS[rng.usize(..FAULTS.len())];
            broker.inflict(fault).await.unwrap();
            sleep(Duration::from_micros(rng.u64(..RESTORING))).await;
        }
        broker.heal().await.unwrap();
        recorder.fault("over");
        sentinels.send_and_wait().await;
    }
    sentinels.end().await;
    connection.close().await.unwrap();
    let history = recorder.history();
    println!("{:?}", history.summary());
    let row = Row::of(
        broker.name(),
        "struck again on the way back",
        storms,
        &history,
        NEVER,
        Breakable::RECOVERY,
    );
    stand::report(vec![row], &history);
}
