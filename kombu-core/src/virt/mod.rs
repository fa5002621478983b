//! Exchanges, bindings and settling for brokers that only have queues.
//!
//! A backend implements [`QueueStore`]: keep records, push, take, finish. [`VirtualConnection`] makes a
//! [`driver::Connection`](crate::driver::Connection) of it, and the messaging model is written once, here:
//! which queues a message reaches, what a declaration conflicts with, how a window is shared over queues,
//! where a rejected message goes.
//!
//! # The contract of a store
//!
//! - The [`Table`] of declarations has a **version** that grows with every change, on whichever connection it
//!   is made. [`QueueStore::push`] names the version that it was routed with; if a newer one exists that was
//!   complete before the push began, the store stores nothing and answers [`Answer::Stale`].
//! - What one session calls takes effect in the order of the calls, whether the answers are waited for or not;
//!   the answers may come in any order.
//! - A push reaches **all** of its queues or none.
//! - A message is either in a queue or held by a reader; there is no moment when only a client has it.
//! - What a reader took stays with its session until it is finished, or the session ends; then it goes back
//!   to its original position.

mod connection;
mod copies;
mod dead_letter;
mod declarations;
mod dying;
mod lane;
mod matching;
mod owners;
mod publisher;
mod settler;
mod shared;
mod store;
mod subscription;
mod table;
mod window;

pub use connection::VirtualConnection;
pub use dead_letter::letter;
pub use store::{
    Answer, Applied, Batch, Dead, Death, Finish, QueueStore, Reader, ReaderOptions, Replies,
};
pub use table::{BindingRecord, Change, Routed, Table};
pub use window::Room;
