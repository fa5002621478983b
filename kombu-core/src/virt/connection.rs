use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::OnceCell;

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{
    self, BoxFuture, BrokerInfo, Caller, Capabilities, DeleteQueue, Destination, ExchangeKinds,
    Notices, Outcome, PastQueues, Publisher, QueueInfo, RawDelivery, Received, Settle,
    SubscribeOptions, Subscription,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::declarations;
use super::dying;
use super::publisher::VirtualPublisher;
use super::settler::VirtualSettler;
use super::shared::{Shared, session_ended};
use super::store::{Applied, Death, QueueStore};
use super::subscription::{VirtualSubscription, tag};
use super::table::{Change, Table};
use super::window::Window;

/// How often a queue is declared at most that others delete meanwhile.
const DECLARED: usize = 3;

/// A [`driver::Connection`] made of a [`QueueStore`].
pub struct VirtualConnection<S: QueueStore> {
    shared: Arc<Shared<S>>,
    /// Whether the session has ended in the store, too.
    closed: OnceCell<()>,
}

impl<S: QueueStore> VirtualConnection<S> {
    /// Opens a connection on a store: loads its declarations.
    ///
    /// Call it within a tokio runtime; work that outlives its caller runs there.
    pub async fn open(store: S) -> Result<Arc<dyn driver::Connection>> {
        Self::open_with(store, Arc::default()).await
    }

    /// The same for a connection that knows these exchange kinds, which [`Target::exchange_kinds`](driver::Target::exchange_kinds) has.
    pub async fn open_with(
        store: S,
        kinds: Arc<ExchangeKinds>,
    ) -> Result<Arc<dyn driver::Connection>> {
        let table = store.load().await?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|problem| {
            Error::new(
                ErrorKind::Config,
                "kombu needs a tokio runtime; connect within `#[tokio::main]` or `Runtime::block_on`",
            )
            .with_source(problem)
        })?;
        let shared = Arc::new(Shared::new(store, table, kinds, runtime));
        dying::watch(&shared);
        Ok(Arc::new(VirtualConnection {
            shared,
            closed: OnceCell::new(),
        }))
    }

    /// Lets `plan` look at the newest table and makes the changes that it asks for, until nobody else
    /// changed the table in between. Answers how many messages went with deleted queues.
    async fn change(&self, plan: impl Fn(&Table) -> Result<Vec<Change>> + Send) -> Result<u64> {
        self.shared.check_open()?;
        dying::bury(&self.shared).await;
        // In turns: at once, all but one would be refused, and load the table again.
        let _turn = self.shared.changing.lock().await;
        loop {
            self.shared.refresh().await?;
            let (base, changes) = {
                let table = self.shared.table.read();
                (table.version(), plan(&table)?)
            };
            if changes.is_empty() {
                return Ok(0);
            }
            if let Applied::Done { version, messages } =
                self.shared.store.apply(base, &changes).await?
            {
                let mut table = self.shared.table.write();
                if table.version() == base {
                    for change in &changes {
                        table.apply(change);
                    }
                    table.set_version(version);
                }
                return Ok(messages);
            }
        }
    }

    async fn queue(&self, name: &Name) -> Result<(S::Queue, Arc<Queue>)> {
        self.shared.check_open()?;
        dying::bury(&self.shared).await;
        self.shared.find_queue(name).await
    }
}

#[async_trait]
impl<S: QueueStore> driver::Connection for VirtualConnection<S> {
    fn capabilities(&self) -> Capabilities {
        self.shared.store.capabilities()
    }

    async fn declare_exchange(&self, exchange: &Exchange, mode: DeclareMode) -> Result<()> {
        if mode == DeclareMode::Ensure {
            declarations::check_kind(exchange, &self.shared.kinds)?;
        }
        if mode == DeclareMode::Verify {
            self.shared.check_open()?;
            self.shared.refresh().await?;
            let name = exchange.name().clone();
            self.shared.find(&Destination::Exchange(name)).await?;
        }
        self.change(|table| declarations::exchange(table, exchange, mode))
            .await
            .map(drop)
    }

    async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<()> {
        self.change(|table| declarations::delete_exchange(table, name, if_unused))
            .await
            .map(drop)
    }

    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo> {
        if mode == DeclareMode::Verify {
            self.shared.check_open()?;
            self.shared.refresh().await?;
            let name = queue.name().clone();
            self.shared.find(&Destination::Queue(name)).await?;
        }
        let session = self.shared.store.session();
        let mut tries = 0;
        loop {
            self.change(|table| declarations::queue(table, queue, mode, session))
                .await?;
            tries += 1;
            match self.queue_info(queue.name()).await {
                // Somebody deleted it before it was counted: this declaration comes after that.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && mode == DeclareMode::Ensure
                        && tries < DECLARED => {}
                counted => return counted,
            }
        }
    }

    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64> {
        let session = self.shared.store.session();
        self.change(|table| declarations::delete_queue(table, name, options, session))
            .await
    }

    async fn purge_queue(&self, name: &Name) -> Result<u64> {
        let (queue, _) = self.queue(name).await?;
        self.shared.store.purge(&queue).await
    }

    async fn bind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        let record = declarations::record(destination, binding);
        let session = self.shared.store.session();
        self.change(|table| declarations::bind(table, &record, session))
            .await
            .map(drop)
    }

    async fn unbind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        let record = declarations::record(destination, binding);
        let session = self.shared.store.session();
        self.change(|table| declarations::unbind(table, &record, session))
            .await
            .map(drop)
    }

    async fn queue_info(&self, name: &Name) -> Result<QueueInfo> {
        let (queue, _) = self.queue(name).await?;
        self.shared.store.info(&queue).await
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>> {
        self.shared.check_open()?;
        Ok(Arc::new(VirtualPublisher::new(self.shared.clone())))
    }

    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>> {
        self.shared.check_open()?;
        dying::bury(&self.shared).await;
        let window = self.shared.window(options.window);
        let mut subscription = VirtualSubscription::new(self.shared.clone(), window, *options);
        for name in queues {
            subscription.add(name).await?;
        }
        Ok(Box::new(subscription))
    }

    async fn open_caller(&self, name: &Name) -> Result<Caller> {
        self.shared.check_open()?;
        let Some((reply_to, replies)) = self.shared.store.open_replies(name).await? else {
            return Caller::with_queue(self, name).await;
        };
        let replies = replies.enumerate().map(|(number, envelope)| {
            Ok(Received::Delivery(RawDelivery {
                envelope,
                id: number as u64,
                failures: 0,
                queue: 0,
                redelivered: false,
                waited: Duration::ZERO,
            }))
        });
        Ok(Caller {
            publisher: self.open_publisher().await?,
            reply_to,
            replies: Box::new(PastQueues::new(replies)),
        })
    }

    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>> {
        let (queue, declaration) = self.queue(queue).await?;
        loop {
            let Some((delivery, holder)) = self.shared.store.take_one(&queue).await? else {
                return Ok(None);
            };
            // Not in the list of windows: nobody waits at this one.
            let settler = VirtualSettler::new(self.shared.clone(), Arc::new(Window::new(0)));
            settler.add(declaration.clone(), holder);
            if settler.hold(&delivery) {
                settler.give_up(&delivery, Death::DeliveryLimit);
                continue;
            }
            if no_ack {
                settler.settle(tag(&delivery), Outcome::Ack).queued?;
            }
            return Ok(Some((delivery, Arc::new(settler))));
        }
    }

    async fn broker_info(&self) -> Result<BrokerInfo> {
        self.shared.check_open()?;
        self.shared.store.broker_info().await
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        let (here, there) = (self.shared.ended(), self.shared.store.closed());
        Box::pin(async move {
            tokio::select! {
                // What was ended here ends there too, but not the other way round.
                biased;
                () = here => session_ended(),
                error = there => error,
            }
        })
    }

    fn notices(&self) -> Notices {
        self.shared.store.notices()
    }

    async fn ping(&self) -> Result<()> {
        let version = self.shared.table.read().version();
        self.shared.store.ping(version).await
    }

    async fn close(&self) -> Result<()> {
        self.shared.end();
        // Whoever comes second waits for the same end, and goes on with it if the first one gives up.
        let closed = self.closed.get_or_try_init(|| async {
            self.shared.flush().await;
            self.shared.store.close().await
        });
        closed.await.copied()
    }
}

impl<S: QueueStore> std::fmt::Debug for VirtualConnection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualConnection").finish_non_exhaustive()
    }
}
