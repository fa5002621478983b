use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::call::Responder;
use crate::client::{Delivery, Message};
use crate::name::Name;

use super::reaction::Style;

/// The delivery of a handler that settles by itself, until the handler has it.
pub(super) type Untaken = Arc<Mutex<Option<Delivery>>>;

/// A delivery on its way to a handler: what extractors look at.
pub struct Request {
    message: Message,
    queue: Name,
    attempt: u32,
    redelivered: bool,
    responder: Option<Responder>,
    takes_responder: bool,
    /// How the component answers.
    style: Option<Arc<dyn Style>>,
    delivery: Option<Untaken>,
}

impl Request {
    pub(super) fn of(delivery: &Delivery, responder: Option<Responder>) -> Self {
        Request {
            message: delivery.message(),
            queue: delivery.queue().clone(),
            attempt: delivery.attempt(),
            redelivered: delivery.redelivered(),
            responder,
            takes_responder: false,
            style: None,
            delivery: None,
        }
    }

    pub(super) fn styled(mut self, style: Option<&Arc<dyn Style>>) -> Self {
        self.style = style.cloned();
        self
    }

    /// How the component answers, if it has a way of its own.
    #[cfg(feature = "postage")]
    pub(crate) fn style(&self) -> Option<&Arc<dyn Style>> {
        self.style.as_ref()
    }

    pub(super) fn with_delivery(mut self, delivery: Untaken) -> Self {
        self.delivery = Some(delivery);
        self
    }

    /// The message, to be decoded or looked at.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The queue that it came from.
    pub fn queue(&self) -> &Name {
        &self.queue
    }

    /// Which counted try this is: 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether it was handed out before, to whomever.
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Takes over the answering, if the message asks for an answer: nothing is answered by the handler's return value
    /// then.
    pub fn take_responder(&mut self) -> Option<Responder> {
        self.takes_responder = self.responder.is_some();
        if let Some(responder) = &self.responder {
            responder.take_over();
        }
        self.responder.clone()
    }

    pub(super) fn take_delivery(&mut self) -> Option<Delivery> {
        self.delivery.as_ref()?.lock().take()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("queue", &self.queue)
            .field("attempt", &self.attempt)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}
