use std::sync::Arc;

use async_trait::async_trait;

use super::{
    BoxFuture, BrokerInfo, Caller, Capabilities, Connection, DeleteQueue, Destination, Notices,
    Publisher, QueueInfo, RawDelivery, Settle, SubscribeOptions, Subscription,
};
use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

/// Lies around every session of a connection, and looks at every attempt to make one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use kombu::driver::{BoxFuture, Connection, Layer, Operation, SessionLayer};
///
/// #[derive(Clone, Default)]
/// struct Count(Arc<AtomicUsize>);
///
/// impl Layer for Count {
///     fn session(&self, _: &dyn Connection) -> Arc<dyn SessionLayer> {
///         Arc::new(self.clone())
///     }
/// }
///
/// impl SessionLayer for Count {
///     fn control<'a>(
///         &'a self,
///         _: Operation<'a>,
///         next: BoxFuture<'a, kombu::Result<()>>,
///     ) -> BoxFuture<'a, kombu::Result<()>> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         next
///     }
/// }
///
/// let count = Count::default();
/// let connection = kombu::Connection::builder(kombu::registry())
///     .url("memory://")
///     .layer(count.clone())
///     .await?;
/// connection.declare_queue(&kombu::Queue::new("jobs")).await?;
/// assert_eq!(count.0.load(Ordering::Relaxed), 1);
/// # Ok(())
/// # }
/// ```
pub trait Layer: Send + Sync + 'static {
    /// A session begins: what lies around it.
    fn session(&self, session: &dyn Connection) -> Arc<dyn SessionLayer>;

    /// Is asked before each attempt to connect; an error is the attempt's.
    fn before_connect(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What lies around one session, at three points: what is published, what is received and settled, and
/// everything else. Each passes through unless it is overridden.
pub trait SessionLayer: Send + Sync + 'static {
    /// Around every operation that is neither a publish nor a settle. `next` carries it out; an error without having
    /// awaited it refuses the operation.
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        let _ = operation;
        next
    }

    /// Around what is published.
    fn publisher(&self, next: Arc<dyn Publisher>) -> Arc<dyn Publisher> {
        next
    }

    /// Around what is received, and settled.
    fn subscription(&self, next: Box<dyn Subscription>) -> Box<dyn Subscription> {
        next
    }

    /// Around the settling of a single get.
    fn settler(&self, next: Arc<dyn Settle>) -> Arc<dyn Settle> {
        next
    }

    /// Resolves if this layer ends the session, with the reason. By default it never does.
    fn closed(&self) -> BoxFuture<'static, Error> {
        Box::pin(std::future::pending())
    }

    /// Around what the broker tells by itself.
    fn notices(&self, next: Notices) -> Notices {
        next
    }
}

/// An operation of a [`Connection`], for layers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // each is the method of the same name, with its arguments
pub enum Operation<'a> {
    DeclareExchange(&'a Exchange, DeclareMode),
    DeleteExchange(&'a Name),
    DeclareQueue(&'a Queue, DeclareMode),
    DeleteQueue(&'a Name),
    PurgeQueue(&'a Name),
    Bind(&'a Destination, &'a Binding),
    Unbind(&'a Destination, &'a Binding),
    QueueInfo(&'a Name),
    BrokerInfo,
    OpenPublisher,
    OpenSubscription(&'a [Name], &'a SubscribeOptions),
    OpenCaller(&'a Name),
    Get(&'a Name),
    Ping,
}

/// A session with a layer around it.
pub(crate) struct Layered {
    inner: Arc<dyn Connection>,
    layer: Arc<dyn SessionLayer>,
}

impl Layered {
    pub(crate) fn new(layer: &dyn Layer, inner: Arc<dyn Connection>) -> Self {
        Layered {
            layer: layer.session(&*inner),
            inner,
        }
    }

    async fn control<T: Send>(
        &self,
        operation: Operation<'_>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let mut answer = None;
        let next = async {
            answer = Some(work.await?);
            Ok(())
        };
        self.layer.control(operation, Box::pin(next)).await?;
        answer.ok_or_else(|| {
            Error::new(
                ErrorKind::Protocol,
                format!("a layer answered {operation:?} without carrying it out or refusing it"),
            )
        })
    }
}

#[async_trait]
impl Connection for Layered {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn declare_exchange(&self, exchange: &Exchange, mode: DeclareMode) -> Result<()> {
        let operation = Operation::DeclareExchange(exchange, mode);
        let work = self.inner.declare_exchange(exchange, mode);
        self.control(operation, work).await
    }

    async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<()> {
        let work = self.inner.delete_exchange(name, if_unused);
        self.control(Operation::DeleteExchange(name), work).await
    }

    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo> {
        let work = self.inner.declare_queue(queue, mode);
        self.control(Operation::DeclareQueue(queue, mode), work)
            .await
    }

    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64> {
        let work = self.inner.delete_queue(name, options);
        self.control(Operation::DeleteQueue(name), work).await
    }

    async fn purge_queue(&self, name: &Name) -> Result<u64> {
        let work = self.inner.purge_queue(name);
        self.control(Operation::PurgeQueue(name), work).await
    }

    async fn bind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        let work = self.inner.bind(destination, binding);
        self.control(Operation::Bind(destination, binding), work)
            .await
    }

    async fn unbind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        let work = self.inner.unbind(destination, binding);
        self.control(Operation::Unbind(destination, binding), work)
            .await
    }

    async fn queue_info(&self, name: &Name) -> Result<QueueInfo> {
        let work = self.inner.queue_info(name);
        self.control(Operation::QueueInfo(name), work).await
    }

    async fn broker_info(&self) -> Result<BrokerInfo> {
        let work = self.inner.broker_info();
        self.control(Operation::BrokerInfo, work).await
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>> {
        let work = self.inner.open_publisher();
        let publisher = self.control(Operation::OpenPublisher, work).await?;
        Ok(self.layer.publisher(publisher))
    }

    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>> {
        let operation = Operation::OpenSubscription(queues, options);
        let work = self.inner.open_subscription(queues, options);
        let subscription = self.control(operation, work).await?;
        Ok(self.layer.subscription(subscription))
    }

    async fn open_caller(&self, name: &Name) -> Result<Caller> {
        let work = self.inner.open_caller(name);
        let caller = self.control(Operation::OpenCaller(name), work).await?;
        Ok(Caller {
            publisher: self.layer.publisher(caller.publisher),
            reply_to: caller.reply_to,
            replies: self.layer.subscription(caller.replies),
        })
    }

    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>> {
        let work = self.inner.get(queue, no_ack);
        let taken = self.control(Operation::Get(queue), work).await?;
        Ok(taken.map(|(delivery, settler)| (delivery, self.layer.settler(settler))))
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        let (here, inner) = (self.layer.closed(), self.inner.closed());
        Box::pin(async move {
            tokio::select! {
                biased;
                error = here => error,
                error = inner => error,
            }
        })
    }

    fn notices(&self) -> Notices {
        self.layer.notices(self.inner.notices())
    }

    async fn ping(&self) -> Result<()> {
        self.control(Operation::Ping, self.inner.ping()).await
    }

    fn abandon(&self) {
        self.inner.abandon();
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
