//! canopsis: URIs that say who sends and who receives, for both ways of messaging.

use std::time::Duration;

use kombu::mom::{DataType, Mom, Settings};

/// One of the URIs that canopsis' documentation shows, here for whatever broker.
fn settings(url: &str, data_type: DataType) -> kombu::Result<Settings> {
    let mut settings: Settings =
        "kombu-pubsub://canopsis:canopsis@demo.canopsis.org:5672".parse()?;
    settings.uri = Some(url.to_owned());
    settings.data_type = data_type;
    settings.senders = vec!["seeds.events".parse()?, "seeds.alerts".parse()?];
    if data_type == DataType::Pt2Pt {
        settings.senders = vec!["seeds.jobs".parse()?];
        settings.receivers = vec!["seeds.jobs".parse()?];
    } else {
        settings.receivers = vec!["seeds.events".parse()?];
    }
    Ok(settings)
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
    let published = settings(url, DataType::PubSub)?;
    let mut here = Mom::open(kombu::registry(), published.clone()).await?;
    let mut there = Mom::open(kombu::registry(), published).await?;
    let sent = here.send("it rains", "weather").await?;
    println!("sent to {} senders", sent.len());
    receive(&mut here, "seeds.events").await?;
    receive(&mut there, "seeds.events").await?;
    there.close().await?;
    here.close().await?;

    let mut jobs = Mom::open(kombu::registry(), settings(url, DataType::Pt2Pt)?).await?;
    for (_, sent) in jobs.send("dig", "seeds.jobs").await? {
        sent?;
    }
    receive(&mut jobs, "seeds.jobs").await?;
    jobs.close().await
}
