//! canopsis: URIs that say who sends and who receives, for both ways of messaging.

use std::time::Duration;

use kombu::mom::{Mom, Settings};

/// The URI that canopsis' documentation shows.
const DOCUMENTED: &str = "kombu-pubsub://canopsis:canopsis@demo.canopsis.org:5672";

/// A URI of this kind for whatever broker: the way of messaging stands in its scheme, senders and receivers in its query.
fn settings(url: &str, data_type: &str, names: &str) -> kombu::Result<Settings> {
    let uri = url.replacen("://", &format!("-{data_type}://"), 1);
    let separator = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{separator}{names}").parse()
}

async fn receive(mom: &mut Mom, receiver: &str) -> kombu::Result<()> {
    let received = mom.receive(receiver, Duration::from_secs(5)).await?;
    match received {
        Some(message) => {
            println!("{receiver}: {}", message.decode::<String>()?);
            message.ack().await
        }
        None => {
            println!("{receiver}: nothing");
            Ok(())
        }
    }
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let documented: Settings = DOCUMENTED.parse()?;
    let (user, host) = (documented.user.as_deref(), documented.host.as_deref());
    let (protocol, data_type) = (&documented.protocol, documented.data_type);
    println!("{protocol}, {data_type:?}: {user:?} at {host:?}");

    let names = "senders=seeds.events,seeds.alerts&receivers=seeds.events";
    let published = settings(url, "pubsub", names)?;
    let mut here = Mom::open(kombu::registry(), published.clone()).await?;
    let mut there = Mom::open(kombu::registry(), published).await?;
    let sent = here.send("it rains", "weather").await?;
    println!("sent to {} senders", sent.len());
    receive(&mut here, "seeds.events").await?;
    receive(&mut there, "seeds.events").await?;
    there.close().await?;
    here.close().await?;

    let names = "senders=seeds.jobs&receivers=seeds.jobs";
    let mut jobs = Mom::open(kombu::registry(), settings(url, "pt2pt", names)?).await?;
    for (_, sent) in jobs.send("dig", "seeds.jobs").await? {
        sent?;
    }
    receive(&mut jobs, "seeds.jobs").await?;
    jobs.close().await
}
