//! The program that the README shows.

use std::time::Duration;

use kombu::prelude::*;
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::{Answer, Outcome, Recorder};
use tokio::time::timeout;

use crate::stand::{self, heal, inflict};

const PATIENCE: Duration = Duration::from_secs(60);
/// Connecting has a deadline, and the broker has to be there by then.
const LINES: u64 = 4;

#[derive(Serialize, Deserialize)]
struct Video {
    name: String,
    size: u64,
}

/// The broker is killed before each of its lines in turn, and is started again while that line waits.
pub(crate) async fn survives_kills(broker: &mut Breakable) {
    let recorder = Recorder::new();
    for killed_before in 0..LINES {
        run(broker, &recorder, killed_before).await.unwrap();
    }
    let history = recorder.history();
    let (name, fault) = (broker.name(), "killed between lines of the README");
    let row = Row::of(name, fault, LINES, &history, PATIENCE, Breakable::RECOVERY);
    stand::report(vec![row], &history);
}

async fn run(broker: &mut Breakable, recorder: &Recorder, killed_before: u64) -> kombu::Result<()> {
    let mut lines = 0..LINES;
    // What a line comes to, with a broker that isn't there when it begins if it is its turn.
    macro_rules! meanwhile {
        ($work:expr) => {{
            let is_killed = lines.next() == Some(killed_before);
            if is_killed {
                inflict(broker, recorder, Fault::Kill).await;
            }
            let healing = async {
                heal(broker, recorder).await;
                if is_killed {
                    // The program goes on from here to its end.
                    recorder.expect(killed_before, Duration::ZERO, Breakable::RECOVERY);
                }
            };
            let (answer, ()) = tokio::join!(async { $work }, healing);
            answer
        }};
    }

    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "video.#");

    let conn = broker.builder().await?;
    let mut consumer = meanwhile!(conn.consumer(&videos).prefetch(32).await)?;
    let producer = meanwhile!(conn.producer(&media).await)?;

    recorder.publishing(0, killed_before);
    let size = killed_before;
    let name = "lolcat1.avi".into();
    let video = Video { name, size };
    let publish = producer
        .publish(&video)
        .routing_key("video.new")
        .header("tenant", "7");
    let published = meanwhile!(publish.await);
    recorder.answered(killed_before, &published);

    let received = meanwhile!(timeout(PATIENCE, consumer.try_next()).await);
    let delivery = received.expect("it isn't forgotten")?.expect("it goes on");
    let (video, delivery) = delivery.take::<Video>()?;
    recorder.received(0, video.size, &delivery);
    assert_eq!((video.name.as_str(), video.size), ("lolcat1.avi", size));
    let acked = delivery.ack().confirmed().await;
    let acked = Answer::of_sent(&acked, broker.answers_settles());
    recorder.settled(0, size, Outcome::Ack, acked);
    // What was sent again may be there twice.
    conn.purge("videos").await?;
    conn.close().await
}
