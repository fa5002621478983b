use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::Fault;
use crate::brokers::{Nats, RabbitMq, Redis, Server};

/// Seconds after which Redis takes a silent client for dead, and RabbitMQ half of those.
const SIGN_OF_LIFE: u64 = 2;

/// A private broker that can be broken: what has to be known of each sort.
pub trait Victim: Send + Sync + 'static {
    /// What it is called in tables: the scheme of its URLs.
    fn name(&self) -> &str;

    /// Where it takes connections, as `host:port`.
    fn address(&self) -> String;

    /// A URL that leads to it by this address, its own or a proxy's. Its options have the server notice within seconds that a
    /// client is gone.
    fn url(&self, address: &str) -> String;

    /// Its process.
    fn server(&mut self) -> &mut Server;

    /// Within what time the server gives back what a client held that was killed.
    fn gives_back_within(&self) -> Duration;

    /// Whether it answers a settle. Otherwise, one that was sent may still be lost with the server.
    fn answers_settles(&self) -> bool;

    /// Whether it knows this one of the faults that depend on the sort of the broker: disconnecting its clients, alarms, wiping.
    fn can(&self, fault: Fault) -> bool;

    /// Inflicts one of those.
    ///
    /// # Errors
    ///
    /// If the server refuses, or the fault isn't one of them.
    fn inflict(&mut self, fault: Fault) -> io::Result<()>;

    /// Ends an alarm.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    fn relieve(&mut self, alarm: Fault) -> io::Result<()>;

    /// Makes a user who may do everything, or gives the one of this name another password.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    fn set_user(&mut self, name: &str, password: &str) -> io::Result<()>;

    /// How many connections it has, and what there is of each session.
    ///
    /// # Errors
    ///
    /// If it doesn't say.
    fn counts(&self) -> io::Result<Vec<(&'static str, u64)>>;
}

/// The stream of NATS that has what was declared.
const TOPOLOGY: &str = "KV_kombu_topology";

fn unknown(fault: Fault) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("this broker can't be {fault}"),
    )
}

fn silent_on(what: &str, answer: &dyn std::fmt::Display) -> io::Error {
    let text = format!("the server doesn't say {what}: {answer}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn number(text: &str) -> io::Result<u64> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().map_err(io::Error::other)
}

/// An Erlang binary of this text, whatever is in it.
fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}

impl Victim for RabbitMq {
    fn name(&self) -> &str {
        "amqp"
    }

    fn address(&self) -> String {
        RabbitMq::address(self)
    }

    fn url(&self, address: &str) -> String {
        format!("amqp://guest:guest@{address}?heartbeat={SIGN_OF_LIFE}")
    }

    fn server(&mut self) -> &mut Server {
        self
    }

    fn gives_back_within(&self) -> Duration {
        // The sockets of a program that is killed are closed.
        Duration::ZERO
    }

    fn answers_settles(&self) -> bool {
        false
    }

    fn can(&self, _: Fault) -> bool {
        true
    }

    fn inflict(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Disconnect => self.eval(
                "rabbit_networking:close_connections(rabbit_networking:connections(), <<\"for a test\">>).",
            ),
            Fault::MemoryAlarm => self.eval("vm_memory_monitor:set_vm_memory_high_watermark(0)."),
            Fault::DiskAlarm => self.eval("rabbit_disk_monitor:set_disk_free_limit(1000000000000000)."),
            // As `rabbitmqctl` does for `stop_app`, `reset` and `start_app`; the first name is that of newer ones.
            Fault::Wipe => self.eval(
                "rabbit:stop(), try rabbit_db:reset() catch error:undef -> rabbit_mnesia:reset() end, rabbit:start().",
            ),
            _ => Err(unknown(fault)),
        }
        .map(drop)
    }

    fn relieve(&mut self, alarm: Fault) -> io::Result<()> {
        match alarm {
            Fault::MemoryAlarm => self.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.8)."),
            Fault::DiskAlarm => self.eval("rabbit_disk_monitor:set_disk_free_limit(1000000)."),
            _ => Err(unknown(alarm)),
        }
        .map(drop)
    }

    fn set_user(&mut self, name: &str, password: &str) -> io::Result<()> {
        const USERS: &str = "rabbit_auth_backend_internal";
        const BY: &str = "<<\"a test\">>";
        let (name, password) = (binary(name), binary(password));
        // Of an exception only the reason is told: its trace may have the password.
        self.eval(&format!(
            "try case {USERS}:lookup_user({name}) of \
                 {{ok, _}} -> \
                     {USERS}:change_password({name}, {password}, {BY}); \
                 {{error, not_found}} -> \
                     ok = {USERS}:add_user({name}, {password}, {BY}), \
                     All = <<\".*\">>, \
                     {USERS}:set_permissions({name}, <<\"/\">>, All, All, All, {BY}) \
             end catch _:Reason -> {{error, Reason}} end."
        ))
        .map(drop)
    }

    fn counts(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let counts = "{length(rabbit_networking:connections()), length(rabbit_channel:list())}.";
        let answer = self.eval(counts)?;
        let counts = answer.split_once(',');
        let (connections, channels) = counts.ok_or_else(|| silent_on("both counts", &answer))?;
        Ok(vec![
            ("connections at the server", number(connections)?),
            ("channels at the server", number(channels)?),
        ])
    }
}

impl Victim for Redis {
    fn name(&self) -> &str {
        "redis"
    }

    fn address(&self) -> String {
        Redis::address(self)
    }

    fn url(&self, address: &str) -> String {
        let own = Redis::url(self).replace(&Redis::address(self), address);
        format!("{own}?lease={SIGN_OF_LIFE}")
    }

    fn server(&mut self) -> &mut Server {
        self
    }

    fn gives_back_within(&self) -> Duration {
        // A lease, and the next sign of life of somebody else, who looks for those that are over.
        Duration::from_secs(SIGN_OF_LIFE) * 4 / 3
    }

    fn answers_settles(&self) -> bool {
        true
    }

    fn can(&self, fault: Fault) -> bool {
        fault != Fault::DiskAlarm
    }

    fn inflict(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Disconnect => self.ask(["CLIENT", "KILL", "TYPE", "normal"]),
            // It has more than that.
            Fault::MemoryAlarm => self.ask(["CONFIG", "SET", "maxmemory", "1"]),
            Fault::Wipe => self.ask(["FLUSHALL"]),
            _ => Err(unknown(fault)),
        }
        .map(drop)
    }

    fn relieve(&mut self, alarm: Fault) -> io::Result<()> {
        match alarm {
            Fault::MemoryAlarm => self.ask(["CONFIG", "SET", "maxmemory", "0"]).map(drop),
            _ => Err(unknown(alarm)),
        }
    }

    fn set_user(&mut self, name: &str, password: &str) -> io::Result<()> {
        let password = format!(">{password}");
        let user = [
            "ACL", "SETUSER", name, "reset", "on", &password, "~*", "&*", "+@all",
        ];
        self.ask(user).map(drop)
    }

    fn counts(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let info = self.ask(["INFO", "clients"])?;
        let connections = info
            .lines()
            .find_map(|line| line.strip_prefix("connected_clients:"))
            .ok_or_else(|| silent_on("connected_clients", &info))?;
        // One is ours.
        let connections = number(connections)?.saturating_sub(1);
        let sessions = number(&self.ask(["ZCARD", "_kombu.rs.sessions"])?)?;
        Ok(vec![
            ("connections at the server", connections),
            ("sessions at the server", sessions),
        ])
    }
}

impl Victim for Nats {
    fn name(&self) -> &str {
        "nats"
    }

    fn address(&self) -> String {
        Nats::address(self)
    }

    fn url(&self, address: &str) -> String {
        Nats::url(self).replace(&Nats::address(self), address)
    }

    fn server(&mut self) -> &mut Server {
        self
    }

    fn gives_back_within(&self) -> Duration {
        // It waits so long for whoever holds something, and whoever waits for that looks every second.
        Duration::from_secs(30 + 1)
    }

    fn answers_settles(&self) -> bool {
        // It does, and forgets those of the last second when it is killed.
        false
    }

    fn can(&self, fault: Fault) -> bool {
        match fault {
            Fault::Wipe => true,
            Fault::Disconnect | Fault::DiskAlarm => self.has_account(),
            // Short of memory, it refuses queues that aren't durable, and no others.
            _ => false,
        }
    }

    fn inflict(&mut self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Wipe => {
                let streams = self.ask("$JS.API.STREAM.NAMES", "{}")?;
                let names = streams["streams"].as_array().into_iter().flatten();
                let mut names: Vec<_> = names.filter_map(Value::as_str).collect();
                // Who finds a stream gone looks here what to declare again: nothing that comes back is to be deleted after it.
                names.sort_unstable_by_key(|name| *name == TOPOLOGY);
                for name in names {
                    self.ask(&format!("$JS.API.STREAM.DELETE.{name}"), "")?;
                }
                Ok(())
            }
            Fault::Disconnect => self.disconnect(),
            // Its streams have more than that.
            Fault::DiskAlarm => self.limit_room(Some(1)),
            _ => Err(unknown(fault)),
        }
    }

    fn relieve(&mut self, alarm: Fault) -> io::Result<()> {
        match alarm {
            Fault::DiskAlarm => self.limit_room(None),
            _ => Err(unknown(alarm)),
        }
    }

    fn set_user(&mut self, name: &str, password: &str) -> io::Result<()> {
        Nats::set_user(self, name, password)
    }

    fn counts(&self) -> io::Result<Vec<(&'static str, u64)>> {
        let all = self.monitored("/varz")?;
        let connections = all["connections"].as_u64();
        let connections = connections.ok_or_else(|| silent_on("connections", &all))?;
        let filter = json!({ "subjects_filter": "$KV.kombu_sessions.s.*" }).to_string();
        let bucket = self.ask("$JS.API.STREAM.INFO.KV_kombu_sessions", &filter)?;
        let state = &bucket["state"];
        let sessions = match (&state["subjects"], &state["messages"]) {
            (Value::Object(all), _) => all.len() as u64,
            // It leaves out what there is none of.
            (Value::Null, Value::Number(_)) => 0,
            _ => return Err(silent_on("sessions", &bucket)),
        };
        Ok(vec![
            ("connections at the server", connections),
            ("sessions at the server", sessions),
        ])
    }
}
