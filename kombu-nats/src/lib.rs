//! `nats://`: queues on NATS JetStream.
//!
//! - `nats://user:password@host:port`, or `nats://token@host:port`; what is missing is none, none, `localhost` and 4222. Where the
//!   password comes from a provider, a token is the password of nobody. Nkeys and files of credentials are options.
//! - `tls://` is the same, encrypted.
//! - `nats://host1:4222,host2:4222,host3:4222` is a cluster: a session is with one of them.
//! - `?prefix=NAME` before the name of every stream and subject, and more: see [`NatsOptions`].
//!
//! # What lies where
//!
//! With the default prefix, `kombu`:
//!
//! - A queue `jobs` is what is published to the subject `kombu.q.jobs.0`, and on a queue with priorities, `kombu.q.jobs.LEVEL`.
//!   A stream of its own, with the policy `workqueue`, keeps it; its durable consumer is `c0`, or `cLEVEL`. In names,
//!   everything but letters, digits, `-` and `_` is written `=` and two hexadecimal digits for each byte.
//! - Declarations are in the bucket `kombu_topology`, and who is there in `kombu_sessions`. Other programs may read them.
//! - What is delayed is in the stream `kombu-later`.
//!
//! # Other programs
//!
//! Any client of NATS can publish to a queue, and pull from its consumer. The body of the message is that of ours, and the
//! properties are headers, none of which is needed:
//!
//! | header | property |
//! |---|---|
//! | `Content-Type`, `Content-Encoding` | of the same name |
//! | `Kombu-Exchange`, `Kombu-Key` | exchange and routing key; without both, the default exchange and the queue |
//! | `Kombu-Priority`, `Kombu-Transient` | priority; there if the message isn't persistent |
//! | `Kombu-Expiration` | milliseconds that the message may wait |
//! | `Kombu-Message-Id`, `Kombu-Correlation-Id`, `Kombu-Reply-To`, `Kombu-Type`, `Kombu-Timestamp`, `Kombu-User-Id`, `Kombu-App-Id`, `Kombu-Cluster-Id` | of the same name |
//! | `Kombu-More` | JSON: what a header of NATS can't hold |
//! | any other of letters, digits, `-` and `_` | a header of the message, as text, and the last of several values; but those that begin with `Nats-`, `Kombu-`, `Content-`, `KV-`, `Status` or `Description` |
//!
//! The name of a queue's stream ends with an id; which one it is tells `$JS.API.STREAM.NAMES` with `{"subject":"kombu.q.jobs.*"}`. What is
//! pulled has to be acknowledged (`+ACK`) within 30 s, or said to be in work (`+WPI`); with `-NAK` it comes again, which counts as a failure.
//! `+TERM` makes no dead letter. Limits of a queue are kept by those who publish here: what other clients publish is dropped
//! when one of these publishes next, but for `RejectPublish` by number, which the stream knows. A message is delayed by this library only.
//!
//! Who waits here for a message looks for one every second. An empty message to `kombu.new.jobs`, sent behind the one for the queue,
//! wakes it at once; ours do so. At `kombu.q.jobs.0` nobody but the server listens, and nobody else should: where somebody does, a stream
//! that is gone is noticed late.
//!
//! # Answers
//!
//! Questions are messages in queues; the answers to a [`Caller`](kombu_core::Caller) lie in no stream, and go to an inbox: a subject
//! that begins with `_INBOX.`, which is the question's `Kombu-Reply-To`. Whoever answers publishes there, with the question's
//! `Kombu-Correlation-Id`; what is published here to the default exchange with such a key does, on whichever session. So any client
//! of NATS answers, and asks: with an inbox of its own in `Kombu-Reply-To`. No queue can be called like an inbox.
//!
//! # Permissions
//!
//! A user with permissions needs these, with the prefix that the URL says in place of `kombu`:
//!
//! | publish | what for |
//! |---|---|
//! | `_INBOX.>` | answers, and signs of life, which a session sends to itself |
//! | `$JS.API.>`, `$JS.ACK.>` | JetStream |
//! | `$KV.kombu_topology.>`, `$KV.kombu_sessions.>` | declarations, and who is there |
//! | `kombu.bell.*`, `kombu.held` | what sessions tell and ask each other |
//! | `kombu.new.*`, `kombu.delayed` | those who wait are woken |
//! | `kombu.q.>`, `kombu.later.*` | messages |
//!
//! And to subscribe to `_INBOX.>`, `kombu.bell.*`, `kombu.held`, `kombu.new.*` and `kombu.delayed`. With a domain, `$JS.API.>` and what
//! begins with `$KV` are `$JS.DOMAIN.API.>` where the server is of another domain, as a leaf node is; one of that domain goes by those above.
//!
//! Whoever lacks one of them is told which, as [`AccessRefused`](kombu_core::ErrorKind::AccessRefused): when it connects, or when it
//! publishes a message. Only without
//! publishing to `kombu.delayed` all works, and what is delayed may come a second late. A user may have
//! `kombu.q.jobs.*` in place of `kombu.q.>`, for each queue that it publishes to, or sends dead letters to. What is delayed is moved by
//! whichever session is there; one that may not publish to its queue leaves it to others.
//!
//! # Slow lines
//!
//! A session that hears nothing for 5 s is taken for lost, also while it sends: a line has to carry the largest message within
//! that time.
//!
//! # Headers
//!
//! Headers are lines of UTF-8, `Name: value`, without a carriage return within the value; names are ASCII, without space or colon.
//! A message that has others ends the session of whoever pulls it, which the client of NATS doesn't survive. When that has happened
//! twice within a minute, to whichever programs, the message is stored anew, at the end of its queue, with those headers that can
//! be read.
//!
//! `Nats-Msg-Id` says which publish it was, so that one that is repeated is stored once; it isn't the message id.

mod access;
mod answers;
mod api;
mod bell;
mod clock;
mod discounts;
mod error;
mod heard;
mod hold;
mod known;
mod later;
mod left;
mod limits;
mod line;
mod members;
mod message;
mod names;
mod news;
mod outlet;
mod permissions;
mod pulse;
mod purge;
mod push;
mod reader;
mod records;
mod replies;
mod returns;
mod session;
mod store;
mod sweep;
mod tally;
mod transport;
mod unreadable;

pub use kombu_core::driver::tls::rustls;
pub use transport::{Nats, NatsOptions, NatsWithTls, Secret, Storage};
