use std::fmt;

/// Something that befalls a broker, or the network between it and its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The broker ends as by a crash, and isn't there until it is healed. It keeps what it had stored.
    Kill,
    /// The broker is asked to end, and started again with what it had.
    Restart,
    /// The same, without what it had.
    Erase,
    /// The broker stops: its connections stay, and it neither reads nor answers.
    Pause,
    /// All connections are closed.
    Cut,
    /// All connections are reset.
    Reset,
    /// What the server says comes to an end, and what clients say still arrives. They have to close within 10 s.
    HalfClose,
    /// What the server says next to whoever asks something is lost, and all connections are closed.
    LoseReply,
    /// The broker closes the connections of its clients, as an administrator has it do.
    Disconnect,
    /// Connections are closed, and new ones refused.
    Refuse,
    /// Everything that is sent disappears, in both directions; connections stay.
    Blackhole,
    /// Everything that is sent waits, and arrives in the end.
    Freeze,
    /// Connections are closed; new ones are accepted, and hear nothing.
    Silence,
    /// Everything comes later.
    Delay,
    /// The broker is short of memory, and takes no publishes.
    MemoryAlarm,
    /// The broker is short of room on its disk, and takes no publishes.
    DiskAlarm,
    /// The broker runs on, and everything that was declared and stored is gone.
    Wipe,
}

impl Fault {
    /// All of them.
    pub const ALL: &'static [Fault] = &[
        Fault::Kill,
        Fault::Restart,
        Fault::Erase,
        Fault::Pause,
        Fault::Cut,
        Fault::Reset,
        Fault::HalfClose,
        Fault::LoseReply,
        Fault::Disconnect,
        Fault::Refuse,
        Fault::Blackhole,
        Fault::Freeze,
        Fault::Silence,
        Fault::Delay,
        Fault::MemoryAlarm,
        Fault::DiskAlarm,
        Fault::Wipe,
    ];

    /// Whether it stays so until somebody heals it.
    pub fn lasts(self) -> bool {
        !matches!(
            self,
            Fault::Restart
                | Fault::Erase
                | Fault::Cut
                | Fault::Reset
                | Fault::HalfClose
                | Fault::LoseReply
                | Fault::Disconnect
                | Fault::Wipe
        )
    }

    /// Whether messages are gone with it.
    pub fn forgets(self) -> bool {
        matches!(self, Fault::Erase | Fault::Wipe)
    }

    /// Whether it takes no more than a process and a network.
    pub(super) fn is_of_any_broker(self) -> bool {
        !matches!(
            self,
            Fault::Disconnect | Fault::MemoryAlarm | Fault::DiskAlarm | Fault::Wipe
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "killed",
            Fault::Restart => "restarted",
            Fault::Erase => "restarted without data",
            Fault::Pause => "stopped",
            Fault::Cut => "cut",
            Fault::Reset => "reset",
            Fault::HalfClose => "half closed",
            Fault::LoseReply => "reply lost",
            Fault::Disconnect => "disconnected by the broker",
            Fault::Refuse => "refused",
            Fault::Blackhole => "blackholed",
            Fault::Freeze => "frozen",
            Fault::Silence => "accepting and silent",
            Fault::Delay => "delayed",
            Fault::MemoryAlarm => "memory alarm",
            Fault::DiskAlarm => "disk alarm",
            Fault::Wipe => "wiped",
        })
    }
}
