use std::sync::Arc;

use super::{BoxFuture, Connection};
use crate::error::Result;

/// Wraps every session of a connection, and may look at every attempt to make one.
///
/// A layer that changes one thing implements [`Connection`] for its wrapper and forwards the rest.
pub trait Layer: Send + Sync + 'static {
    /// Wraps a new session.
    fn wrap(&self, connection: Arc<dyn Connection>) -> Arc<dyn Connection>;

    /// Is asked before each attempt to connect; an error is the attempt's.
    fn before_connect(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
