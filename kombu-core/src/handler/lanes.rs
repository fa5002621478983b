use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::client::Delivery;
use crate::message::Content;
use crate::name::Name;

use super::HandlerError;

/// What deliveries have in common that are handled one after the other.
pub(super) type OrderKey = Arc<dyn Fn(&Content) -> Option<Name> + Send + Sync>;

/// Has deliveries with the same key handled one at a time, in the order in which they came. They are bounded by the
/// consumer's window.
pub(super) struct Lanes {
    key: Option<OrderKey>,
    busy: HashMap<Name, VecDeque<Delivery>>,
}

impl Lanes {
    pub(super) fn new(key: Option<OrderKey>) -> Self {
        Lanes {
            key,
            busy: HashMap::new(),
        }
    }

    /// What a delivery has in common with others.
    pub(super) fn key(&self, delivery: &Delivery) -> Result<Option<Name>, HandlerError> {
        match &self.key {
            Some(key) => HandlerError::catch(|| key(delivery)),
            None => Ok(None),
        }
    }

    /// The delivery, to be handled now, and its key; `None` if one before it is being handled.
    pub(super) fn admit(
        &mut self,
        key: Option<Name>,
        delivery: Delivery,
    ) -> Option<(Option<Name>, Delivery)> {
        let Some(key) = key else {
            return Some((None, delivery));
        };
        match self.busy.get_mut(&key) {
            Some(waiting) => {
                waiting.push_back(delivery);
                None
            }
            None => {
                self.busy.insert(key.clone(), VecDeque::new());
                Some((Some(key), delivery))
            }
        }
    }

    /// The next delivery of a lane, one of which was handled.
    pub(super) fn next(&mut self, key: Name) -> Option<(Option<Name>, Delivery)> {
        let next = self.busy.get_mut(&key)?.pop_front();
        match next {
            Some(delivery) => Some((Some(key), delivery)),
            None => {
                self.busy.remove(&key);
                None
            }
        }
    }

    /// Gives back what nobody has begun with.
    pub(super) fn release(&mut self) {
        for (_, waiting) in self.busy.drain() {
            for delivery in waiting {
                // A session that is lost has given it back already.
                drop(delivery.release());
            }
        }
    }
}
