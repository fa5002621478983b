use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use kombu::{Connection, ErrorKind, Exchange, Feature, Queue};
use serde::Serialize;

use crate::Context;
use crate::failure::{Code, Failure, Result, in_our_words};

/// Find out what is wrong with a connection: reach, TLS, credentials, version, clock, permissions, limits
///
/// It makes a queue of its own that goes with the connection, sends a message through it, and deletes it. RabbitMQ doesn't tell its clock.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu doctor --url amqps://user:password@host/vhost")]
pub(crate) struct Doctor {}

#[derive(Serialize)]
struct Row {
    check: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    found: String,
}

/// The patience of a message's way there and back.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Clocks that differ by less are the same, as far as a question over a network can tell.
const SAME: Duration = Duration::from_secs(1);

/// What is checked, one behind the other.
struct Visit<'a> {
    context: &'a Context,
}

impl Doctor {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let visit = Visit { context };
        let begin = Instant::now();
        let connection = match context.connect().await {
            Ok(connection) => connection,
            Err(Failure::Because(code, why)) => {
                // Each of these comes when those before it went well.
                let steps = ["reach", "TLS", "credentials"];
                let at = match code {
                    Code::Tls => 1,
                    Code::Refused => 2,
                    Code::Usage | Code::Interrupted => return Err(Failure::Because(code, why)),
                    _ => 0,
                };
                for step in steps.iter().take(at) {
                    visit.tell(step, Ok(String::new()))?;
                }
                visit.tell(steps[at], Err(why))?;
                return Err(Failure::new(code, "something is wrong"));
            }
            Err(failure) => return Err(failure),
        };
        let target = format!("{} in {:.1?}", connection.target(), begin.elapsed());
        visit.tell("reach", Ok(target))?;
        let url = connection.target().url().scheme().to_owned();
        visit.tell("TLS", Ok(encryption(&url).to_owned()))?;
        visit.tell(
            "credentials",
            Ok(format!(
                "virtual host {}",
                connection.target().virtual_host()
            )),
        )?;
        let checked = async {
            visit.broker(&connection).await?;
            visit.permissions(&connection).await
        };
        let checked = checked.await;
        visit.limits(&connection)?;
        let closed = connection.close().await;
        checked?;
        Ok(closed?)
    }
}

fn encryption(scheme: &str) -> &'static str {
    match scheme {
        "amqps" | "rediss" | "rediss+sentinel" | "tls" => {
            "encrypted, and the certificate is trusted"
        }
        "memory" => "within this process",
        _ => "not encrypted",
    }
}

/// A clock beside that of this machine.
fn compared(clock: SystemTime, ours: SystemTime) -> String {
    match clock.duration_since(ours) {
        Ok(ahead) if ahead > SAME => format!("{ahead:.1?} ahead of this machine's"),
        Err(error) if error.duration() > SAME => {
            format!("{:.1?} behind this machine's", error.duration())
        }
        _ => "as this machine's".to_owned(),
    }
}

impl Visit<'_> {
    fn tell(&self, check: &'static str, found: std::result::Result<String, String>) -> Result<()> {
        let (ok, found) = match found {
            Ok(found) => (true, found),
            Err(why) => (false, kombu::without_secrets(&why)),
        };
        let output = self.context.output;
        let row = Row { check, ok, found };
        if output.json {
            return output.json(&row);
        }
        let sign = if ok { "ok" } else { "WRONG" };
        output.line(format!("{sign:<5}  {check:<12}  {}", row.found).trim_end())
    }

    /// What it says of itself. Nothing there is wrong: messages don't depend on clocks that agree.
    async fn broker(&self, connection: &Connection) -> Result<()> {
        let broker = match connection.broker_info().await {
            Ok(broker) => broker,
            Err(error) => return self.refused("version", error),
        };
        let untold = || "the broker doesn't tell".to_owned();
        self.tell("version", Ok(broker.version.unwrap_or_else(untold)))?;
        let clock = broker
            .time
            .map_or_else(untold, |time| compared(time, SystemTime::now()));
        self.tell("clock", Ok(clock))
    }

    /// Declares, publishes, consumes and deletes. The first failure ends it.
    async fn permissions(&self, connection: &Connection) -> Result<()> {
        let queue = Queue::server_named().exclusive(true).auto_delete(true);
        let declared = connection.declare_queue(&queue).await;
        let name = match declared {
            Ok(info) => info.name,
            Err(error) => return self.refused("declare", error),
        };
        self.tell("declare", Ok(String::new()))?;
        let begin = Instant::now();
        let sent = async {
            let producer = connection.producer(Exchange::default()).await?;
            producer.publish_text("ping").routing_key(&name).await
        };
        if let Err(error) = sent.await {
            return self.refused("publish", error);
        }
        self.tell(
            "publish",
            Ok(format!("confirmed in {:.1?}", begin.elapsed())),
        )?;
        let came = async {
            let queue = queue.with_name(&name);
            let mut consumer = connection.consumer(&queue).await?;
            let delivery = consumer.receive(ARRIVAL).await?;
            let Some(delivery) = delivery else {
                return Err(kombu::Error::new(ErrorKind::Timeout, "no message came"));
            };
            delivery.ack().await?;
            consumer.cancel().await
        };
        if let Err(error) = came.await {
            return self.refused("consume", error);
        }
        self.tell(
            "consume",
            Ok(format!("there and back in {:.1?}", begin.elapsed())),
        )?;
        if let Err(error) = connection.delete_queue(&name).await {
            return self.refused("delete", error);
        }
        self.tell("delete", Ok(String::new()))
    }

    fn refused(&self, check: &'static str, error: kombu::Error) -> Result<()> {
        self.tell(check, Err(in_our_words(&error.to_string())))?;
        match Failure::from(error) {
            Failure::Because(code, _) => Err(Failure::new(code, "something is wrong")),
            failure => Err(failure),
        }
    }

    fn limits(&self, connection: &Connection) -> Result<()> {
        let capabilities = connection.capabilities();
        let mut limits = format!("bodies up to {} bytes", capabilities.max_message_size());
        if capabilities.has(Feature::Priority) {
            limits.push_str(&format!(
                ", priorities up to {}",
                capabilities.max_priority()
            ));
        }
        let missing: Vec<String> = Feature::ALL
            .iter()
            .filter(|feature| !capabilities.has(**feature))
            .map(|feature| feature.to_string())
            .collect();
        if !missing.is_empty() {
            limits.push_str(&format!("; without {}", missing.join(", ")));
        }
        self.tell("limits", Ok(limits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_is_told_of() {
        let ours = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        for (clock, told) in [
            (ours, "as this machine's"),
            (ours - Duration::from_millis(900), "as this machine's"),
            (
                ours + Duration::from_millis(2_500),
                "2.5s ahead of this machine's",
            ),
            (ours - Duration::from_secs(7), "7.0s behind this machine's"),
        ] {
            assert_eq!(compared(clock, ours), told);
        }
    }
}
