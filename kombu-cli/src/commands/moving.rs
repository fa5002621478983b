use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use clap::Args;
use kombu::driver::Target as Broker;
use kombu::{Connection, Consumer, Delivery, Name, Producer, Queue};
use percent_encoding::percent_decode_str;

use super::publish::rate;
use crate::failure::{Code, Failure, Result};
use crate::forward::{Ends, Limits, Route, Totals, WINDOW, forward};
use crate::output::counted;
use crate::place::{TIME, duration};
use crate::target::Target;
use crate::{Context, output};

/// Move what a queue has to another queue, or to an exchange
///
/// A message leaves its queue when the broker has confirmed that it is at the other end. So nothing is lost if this is killed, but up to
/// 1000 messages may be at both ends. It moves as many as the queue has at the start, or ends when nothing came for 5s. While the broker
/// is away, it waits, and for 35s at least once that is back: so long may it keep what the lost connection had. It keeps the routing
/// keys, unless -q or -k says otherwise. A message that reaches no queue stays, and ends it (code 5). Into a queue, with -q or with -e ''
/// and -k, the headers CC and BCC aren't taken along: they would send copies elsewhere.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu move failed -q jobs
  kombu move jobs -e archive -n 100")]
pub(crate) struct Move {
    /// The queue that messages are taken from
    source: String,
    #[command(flatten)]
    target: Target,
    /// At most so many messages; if there were fewer, it ends with code 6
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// At most so many messages per second; what takes more than 5 min isn't fetched ahead
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Count a message that reaches no queue as moved, which loses it
    #[arg(long)]
    allow_unroutable: bool,
}

/// Move what comes to a queue on to another broker, until Ctrl-C
///
/// A message leaves its queue when the other broker has confirmed it. So nothing is lost if this is killed or a broker is restarted, but
/// up to 1000 messages may be there twice. Lost connections are made again, and a broker that is away is waited for, however long.
/// Without --idle it waits for messages for ever, also with -n. Into a queue, with -q or with -e '' and -k, the headers CC and BCC aren't
/// taken along: they would send copies elsewhere.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu bridge jobs --to nats://localhost -q jobs
  kombu bridge jobs --to redis://localhost -e media -k video.new --idle 10s")]
pub(crate) struct Bridge {
    /// The queue that messages are taken from
    source: String,
    /// The broker that they go to; KOMBU_TO_URL hides it from others on the machine
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    target: Target,
    /// End after so many messages; with code 6 if fewer came before --idle
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for so long from a broker that is there, and for 35s after its connection was lost; by default, never
    #[arg(long, value_name = TIME, value_parser = duration)]
    idle: Option<Duration>,
    /// At most so many messages per second; what takes more than 5 min isn't fetched ahead
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Count a message that reaches no queue as moved, which loses it
    #[arg(long)]
    allow_unroutable: bool,
}

const TO_VARIABLE: &str = "KOMBU_TO_URL";
/// A queue that is being emptied and gives nothing for so long is empty.
pub(super) const EMPTY: Duration = Duration::from_secs(5);
const NOWHERE: &str = "where to? Give a queue with -q, or an exchange with -e";

impl Move {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.target.queue.is_none() && self.target.exchange.is_none() {
            return Err(Failure::usage(NOWHERE));
        }
        if let Some(why) = goes_round(&self.source, &self.target) {
            return Err(Failure::usage(why));
        }
        let connection = context.connect().await?;
        let ready = ready(&connection, &self.source).await?;
        let limits = Limits {
            count: self.count.unwrap_or(u64::MAX).min(ready),
            idle: EMPTY,
            rate: self.rate,
            persists: false,
            leaves_unroutable: false,
        };
        let moving = Moving {
            source: &self.source,
            from: &connection,
            to: &connection,
            target: &self.target,
            limits,
            allow_unroutable: self.allow_unroutable,
        };
        let (producer, consumer) = moving.open().await?;
        let (mut totals, moved) = moving.run(context, "moved", &producer, consumer).await;
        let closed = connection.close().await;
        let interrupted = interrupted(context, &totals, limits.count);
        if moved.is_err() || interrupted.is_err() {
            totals.stay(limits.count);
        }
        let reported = report(context, &totals, "moved");
        moved?;
        closed?;
        interrupted?;
        fewer(&totals, self.count, "moved")?;
        reported
    }
}

impl Bridge {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.target.queue.is_none() && self.target.exchange.is_none() {
            return Err(Failure::usage(NOWHERE));
        }
        let named = self.to.clone().or_else(|| std::env::var(TO_VARIABLE).ok());
        let to = match named.filter(|url| !url.is_empty()) {
            Some(to) => to,
            None => {
                return Err(Failure::usage(format!(
                    "no broker is named to move to; give --to, or set {TO_VARIABLE}"
                )));
            }
        };
        let from = context.connect().await?;
        let to = context.connected(context.place.connect_to(&to)).await?;
        if is_same(from.target(), to.target())
            && let Some(why) = goes_round(&self.source, &self.target)
        {
            return Err(Failure::usage(why));
        }
        let limits = Limits {
            count: self.count.unwrap_or(u64::MAX),
            idle: self.idle.unwrap_or(Duration::MAX),
            rate: self.rate,
            persists: true,
            leaves_unroutable: false,
        };
        let moving = Moving {
            source: &self.source,
            from: &from,
            to: &to,
            target: &self.target,
            limits,
            allow_unroutable: self.allow_unroutable,
        };
        let (producer, consumer) = moving.open().await?;
        if !context.output.quiet {
            output::note(&format!(
                "from {} to {} (if this is killed, up to {WINDOW} messages may be there twice, and none is lost)",
                from.target(),
                to.target()
            ));
        }
        let (totals, moved) = moving.run(context, "bridged", &producer, consumer).await;
        // Acknowledgements go out last: what they are about is at the other end by then.
        let closed = to.close().await.and(from.close().await);
        let reported = report(context, &totals, "bridged");
        moved?;
        closed?;
        if let Some(count) = self.count {
            interrupted(context, &totals, count)?;
        }
        fewer(&totals, self.count, "bridged")?;
        reported
    }
}

/// Why messages would come from this queue again, if both ends are one broker.
fn goes_round(source: &str, target: &Target) -> Option<&'static str> {
    if target.only_queue() == Some(source) {
        return Some(
            "it is the same queue of the same broker: what is sent there would come from there again",
        );
    }
    target.is_by_own_key().then_some(
        "it is the same broker: what was published to this queue by its name would come from there again; give a queue \
         with -q, or a key with -k",
    )
}

/// Whether both are one place, as far as URLs tell. Of several servers, one that both have is enough.
fn is_same(from: &Broker, to: &Broker) -> bool {
    let (from, to) = (Place::of(from), Place::of(to));
    from.space == to.space
        && from
            .servers
            .iter()
            .any(|server| to.servers.contains(server))
}

/// The parts of a URL that make a place, as they are where it leaves them out.
struct Place {
    servers: Vec<(String, u16)>,
    space: [String; 5],
}

impl Place {
    fn of(target: &Broker) -> Self {
        let url = target.url();
        let option = |wanted: &str| {
            let mut options = url.query_pairs();
            let value = options.find(|(name, _)| name == wanted)?.1.into_owned();
            (!value.is_empty()).then_some(value)
        };
        let path = percent_decode_str(url.path().trim_start_matches('/'));
        let path = path.decode_utf8_lossy().into_owned();
        let database = || option("db").or_else(|| option("virtual_host"));
        // What names the same in other words, and may be encrypted on the same port.
        let scheme = match url.scheme() {
            "tls" => "nats",
            "redis+socket" => "redis+unix",
            scheme => scheme,
        };
        let (port, path, database, prefix) = match scheme {
            "amqp" | "amqps" if path == "/" => (amqp_port(scheme), String::new(), None, ""),
            "amqp" | "amqps" => (amqp_port(scheme), path, None, ""),
            "redis" | "rediss" => {
                let database = Some(path).filter(|path| !path.is_empty());
                (6379, String::new(), database.or_else(|| option("db")), "")
            }
            "redis+sentinel" | "rediss+sentinel" => (26379, path, database(), ""),
            "nats" => (4222, String::new(), None, "kombu"),
            _ => (0, path, database(), ""),
        };
        let first = (url.host_str().unwrap_or_default(), url.port());
        let others = target.other_hosts().iter();
        let others = others.map(|(host, port)| (host.as_str(), *port));
        let servers = std::iter::once(first).chain(others);
        Place {
            servers: servers
                .map(|(name, of_its_own)| (host(name), of_its_own.unwrap_or(port)))
                .collect(),
            space: [
                scheme.to_owned(),
                path,
                database.unwrap_or_else(|| "0".to_owned()),
                option("prefix").unwrap_or_else(|| prefix.to_owned()),
                // The number of a place in memory that has no name.
                url.fragment().unwrap_or_default().to_owned(),
            ],
        }
    }
}

fn amqp_port(scheme: &str) -> u16 {
    match scheme {
        "amqps" => 5671,
        _ => 5672,
    }
}

/// A host as it is however it is written. This machine has many names.
fn host(name: &str) -> String {
    const THIS: &str = "localhost";
    let name = name.trim_matches(['[', ']']).trim_end_matches('.');
    match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST)) => THIS.to_owned(),
        Ok(address) => address.to_string(),
        Err(_) if name.is_empty() => THIS.to_owned(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// How many messages a queue has to give; those that somebody else has are told of.
pub(super) async fn ready(connection: &Connection, queue: &str) -> Result<u64> {
    let info = connection.queue_info(queue).await?;
    if let Some(held) = info.unsettled.filter(|held| *held > 0) {
        output::note(&format!(
            "{} of queue `{queue}`, with somebody who hasn't acknowledged, won't be taken; what a \
             killed program had comes back by itself: on Redis 10 s later, once something stays connected for some seconds, \
             as `kombu queues {queue} --watch` does; on NATS 30 s later",
            counted(held, "message")
        ));
    }
    Ok(info.ready)
}

struct Moving<'a> {
    source: &'a str,
    from: &'a Connection,
    to: &'a Connection,
    target: &'a Target,
    limits: Limits,
    allow_unroutable: bool,
}

impl Moving<'_> {
    /// Both ends, which have to be there.
    async fn open(&self) -> Result<(Producer, Consumer)> {
        let at = |end: &str, broker: &Connection, failure: Failure| {
            failure.about(&format!("{end} {}", broker.target()))
        };
        let producer = self.target.open(self.to).await;
        let producer = producer.map_err(|failure| at("to", self.to, failure))?;
        let consumer = self
            .from
            .consumer(&Queue::new(self.source))
            .prefetch(self.limits.first_fetched())
            .await;
        let consumer = consumer.map_err(|error| at("from", self.from, error.into()))?;
        Ok((producer, consumer))
    }

    async fn run(
        &self,
        context: &Context,
        what: &'static str,
        producer: &Producer,
        consumer: Consumer,
    ) -> (Totals, Result<()>) {
        let total = (self.limits.count < u64::MAX).then_some(self.limits.count);
        let bar = context.output.progress(total, what);
        let ends = Ends {
            from: self.from,
            to: self.to,
            consumer,
            producer,
            allow_unroutable: self.allow_unroutable,
        };
        let key = self.target.key().map(Name::from);
        let into_queue = self.target.only_queue().is_some();
        let (totals, result) = forward(ends, self.limits, &context.stop, &bar, |delivery| {
            route(delivery, key.as_ref(), into_queue)
        })
        .await;
        bar.finish_and_clear();
        (totals, result)
    }
}

fn route(delivery: &Delivery, key: Option<&Name>, into_queue: bool) -> Route {
    let mut content = Box::new((**delivery).clone());
    if into_queue {
        without_copies(&mut content);
    }
    Route::To(content, key.cloned())
}

/// Leaves out the headers by which a message that goes to one queue would go to others, too.
pub(super) fn without_copies(content: &mut kombu::Content) {
    for header in ["CC", "BCC"] {
        content.headers_mut().remove(header);
    }
}

pub(super) fn report(context: &Context, totals: &Totals, done: &str) -> Result<()> {
    context.output.summary(totals, &totals.sentence(done))
}

/// Whether the end came before it was done.
pub(super) fn interrupted(context: &Context, totals: &Totals, wanted: u64) -> Result<()> {
    if context.stop.is_asked() && totals.moved + totals.left < wanted {
        return Err(Failure::interrupted("ended before everything was moved"));
    }
    Ok(())
}

/// Whether fewer were there than were asked for.
pub(super) fn fewer(totals: &Totals, wanted: Option<u64>, done: &str) -> Result<()> {
    match wanted {
        Some(wanted) if totals.moved < wanted => Err(Failure::new(
            Code::Nothing,
            format!("{} of {wanted} messages were {done}", totals.moved),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_however_its_url_is_written() {
        for (one, other, same) in [
            ("amqp://h", "amqp://h:5672", true),
            ("amqp://h/", "amqp://u:p@h/%2F", true),
            ("amqp:///v", "amqp://localhost/v", true),
            ("amqp://h/v", "amqp://h/w", false),
            ("amqp://h", "amqp://h:5673", false),
            ("amqps://h", "amqps://h:5671", true),
            ("redis://h", "redis://h:6379/0", true),
            ("redis://h/", "redis://h?db=0", true),
            ("redis://h/1", "redis://h?db=1", true),
            ("redis://h/1", "redis://h/2", false),
            ("redis://h/1?prefix=a", "redis://h/2?prefix=a", false),
            ("redis+unix:///a.sock", "redis+unix:///a.sock?db=0", true),
            ("redis+unix:///a.sock", "redis+unix:///b.sock", false),
            ("nats://h", "nats://h:4222/?prefix=kombu", true),
            ("nats://h", "nats://h?prefix=shop", false),
            ("nats://h", "redis://h:4222", false),
            ("amqp://Shop.Example", "amqp://shop.example.", true),
            ("amqp://localhost", "amqp://127.0.0.1:5672", true),
            ("amqp://LOCALHOST", "amqp://[::1]", true),
            ("amqp://[::ffff:127.0.0.1]", "amqp://127.0.0.1", true),
            ("amqp://[2001:db8:0:0::1]", "amqp://[2001:DB8::1]", true),
            ("amqp://127.0.0.1", "amqp://127.0.0.2", false),
            ("amqp://h/v%77", "amqp://h/vw", true),
            ("amqp://h/a%2Fb", "amqp://h/a", false),
            ("redis://localhost:6379", "redis://127.0.0.1", true),
            ("rediss://localhost", "rediss://[::1]:6379/0", true),
            (
                "redis+unix:///a.sock",
                "redis+socket://localhost/a.sock",
                true,
            ),
            ("nats://localhost", "tls://127.0.0.1:4222", true),
        ] {
            let target = |url: &str| Broker::new(url::Url::parse(url).unwrap());
            let is_same = is_same(&target(one), &target(other));
            assert_eq!(is_same, same, "{one} {other}");
        }
    }

    #[test]
    fn servers_of_one_cluster_are_a_place_in_any_order() {
        let url = |text| url::Url::parse(text).unwrap();
        let cluster = |first, other| Broker::new(url(first)).with_other_hosts(&[url(other)]);
        let place = cluster("nats://a", "nats://b:4223");
        assert!(is_same(&place, &cluster("nats://b:4223", "nats://a:4222")));
        assert!(is_same(&place, &Broker::new(url("nats://B:4223"))));
        assert!(!is_same(&place, &Broker::new(url("nats://b"))));
    }

    #[test]
    fn a_key_of_the_default_exchange_is_a_queue() {
        for (exchange, key, queue) in [
            (Some(""), Some("jobs"), Some("jobs")),
            (Some("media"), Some("jobs"), None),
            (Some(""), None, None),
        ] {
            let target = Target {
                queue: None,
                exchange: exchange.map(str::to_owned),
                key: key.map(str::to_owned),
            };
            assert_eq!(target.only_queue(), queue);
            assert_eq!(target.is_by_own_key(), key.is_none());
        }
    }
}
