//! One file for each command.

pub(crate) mod bind;
pub(crate) mod consume;
pub(crate) mod declare;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod publish;
pub(crate) mod purge;
pub(crate) mod queues;
