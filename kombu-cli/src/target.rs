//! Where messages go.

use clap::Args;
use kombu::{Connection, Exchange, Producer};

use crate::failure::Result;

/// A queue, or an exchange with a key.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Target {
    /// To this queue
    #[arg(long, short, value_name = "QUEUE", conflicts_with_all = ["exchange", "key"])]
    pub(crate) queue: Option<String>,
    /// To this exchange
    #[arg(long, short, value_name = "EXCHANGE")]
    pub(crate) exchange: Option<String>,
    /// With this routing key
    #[arg(long, short, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

impl Target {
    /// What is published to, which has to be there. The kind of an exchange isn't asked for: it makes no difference here.
    pub(crate) async fn open(&self, connection: &Connection) -> Result<Producer> {
        if let Some(queue) = &self.queue {
            connection.queue_info(queue.as_str()).await?;
        }
        Ok(connection.producer(self.exchange()).await?)
    }

    pub(crate) fn exchange(&self) -> Exchange {
        match &self.exchange {
            Some(name) if !name.is_empty() => Exchange::topic(name.as_str()),
            _ => Exchange::default(),
        }
    }

    /// The queue that all of it goes to: the default exchange takes a key for a queue's name.
    pub(crate) fn only_queue(&self) -> Option<&str> {
        self.is_default_exchange().then(|| self.key()).flatten()
    }

    /// Whether each message goes to the queue that its own key names.
    pub(crate) fn is_by_own_key(&self) -> bool {
        self.is_default_exchange() && self.key().is_none()
    }

    fn is_default_exchange(&self) -> bool {
        self.exchange.as_deref().is_none_or(str::is_empty)
    }

    /// The routing key that takes the place of a message's own.
    pub(crate) fn key(&self) -> Option<&str> {
        self.queue.as_deref().or(self.key.as_deref())
    }
}
