//! What users hold: connection, producer, consumer, delivery, receipt.

mod body;
mod builder;
mod connection;
mod consumer;
mod delivery;
mod drain;
mod getting;
mod held;
mod indexed;
mod intercept;
mod open_consumer;
mod producer;
mod publish;
mod publishing;
mod queues;
mod recorded;
mod registry;
mod settling;
mod subscribed;
mod topology;
mod unconfirmed;

pub use body::Body;
pub use builder::ConnectionBuilder;
pub use connection::{Connection, QueueDeletion};
pub use consumer::Consumer;
pub use delivery::{Acker, Delivery, Message, UndecodablePolicy};
pub use drain::DrainReport;
pub use intercept::Interceptor;
pub use open_consumer::OpenConsumer;
pub use producer::{OpenProducer, Producer};
pub use publish::Publish;
pub use publishing::{Published, Publishing, Receipt, Sending};
pub use queues::Queues;
pub use registry::Registry;
pub use settling::Settling;
