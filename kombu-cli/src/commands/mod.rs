//! One file for each command.

pub(crate) mod bench;
pub(crate) mod bind;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod consume;
pub(crate) mod dead;
pub(crate) mod declare;
pub(crate) mod delete;
pub(crate) mod doctor;
pub(crate) mod get;
pub(crate) mod moving;
pub(crate) mod publish;
pub(crate) mod purge;
pub(crate) mod queues;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod topology;
