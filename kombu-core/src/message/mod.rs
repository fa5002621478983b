//! A message on its way: the content that users write, in the envelope that drivers carry.

mod content;
mod envelope;
mod pool;

pub use content::Content;
pub use envelope::{Envelope, PublishId};
