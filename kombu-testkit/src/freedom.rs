//! What a transport may do otherwise than the others, because its broker does.

use std::fmt;

/// One of the declared freedoms of `docs/semantics.md`: a closed list. A case that meets one asks whether the broker
/// [may](crate::Broker::may), and stays strict everywhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Freedom {
    /// A release counts as a delivery on queues that count them.
    CountReleases,
    /// A retry is a copy at the end of the queue, whose time to live begins anew.
    RetryByCopy,
    /// What was fetched and never handed out counts as redelivered.
    MarkFetched,
    /// A paused consumer isn't one to the broker.
    ForgetPaused,
    /// Older entries of `x-death` stand in any order behind the latest.
    ShuffleDeaths,
    /// A queue that refuses what comes when it is full counts what is unsettled.
    CountInFlight,
    /// A headers binding tells a whole number from the same one with a point.
    TellNumbersApart,
    /// A dead letter keeps its header `CC`, though its queue has a key for it.
    KeepFurtherKeys,
    /// A release returns to its position among what its own session gave back, and not among what others did.
    OrderOwnReleases,
    /// A message behind one whose time is over may count as redelivered, though nobody had it.
    MarkBehindExpired,
    /// A message whose time is over, and that is too much for its queue, dies of either.
    DieOfEither,
}

impl Freedom {
    /// All of them.
    pub const ALL: &'static [Freedom] = &[
        Freedom::CountReleases,
        Freedom::RetryByCopy,
        Freedom::MarkFetched,
        Freedom::ForgetPaused,
        Freedom::ShuffleDeaths,
        Freedom::CountInFlight,
        Freedom::TellNumbersApart,
        Freedom::KeepFurtherKeys,
        Freedom::OrderOwnReleases,
        Freedom::MarkBehindExpired,
        Freedom::DieOfEither,
    ];
}

impl fmt::Display for Freedom {
    /// How its row in `docs/semantics.md` begins.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Freedom::CountReleases => "a release counts as a delivery",
            Freedom::RetryByCopy => "`retry` on classic queues",
            Freedom::MarkFetched => "what a consumer had fetched and not handed out",
            Freedom::ForgetPaused => "a paused consumer is none",
            Freedom::ShuffleDeaths => "the older entries of `x-death`",
            Freedom::CountInFlight => "`Overflow::RejectPublish` counts",
            Freedom::TellNumbersApart => "a headers binding on RabbitMQ 4 tells",
            Freedom::KeepFurtherKeys => "a dead letter whose queue has a key for it keeps",
            Freedom::OrderOwnReleases => "a release returns to its position among what one",
            Freedom::MarkBehindExpired => "a message behind one whose time is over",
            Freedom::DieOfEither => "a message whose time is over, and that is too much",
        })
    }
}
