use kombu_core::virt::{ReaderOptions, Room};
use kombu_core::{Error, ErrorKind, Name, Result};

/// The consumers of a queue, in the order in which they came.
#[derive(Default)]
pub(super) struct Readers {
    readers: Vec<Reader>,
    /// Only one of them gets messages.
    single_active: bool,
    /// That one.
    active: Option<u64>,
    /// They differ in priority, or only one is active: whoever takes has to be asked for.
    selective: bool,
}

struct Reader {
    number: u64,
    exclusive: bool,
    priority: i32,
    room: Room,
}

impl Readers {
    pub(super) fn new(single_active: bool) -> Self {
        Readers {
            readers: Vec::new(),
            single_active,
            active: None,
            selective: single_active,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.readers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    pub(super) fn add(&mut self, number: u64, options: ReaderOptions, queue: &Name) -> Result<()> {
        let refused = if self.readers.iter().any(|reader| reader.exclusive) {
            Some("somebody else consumes from it exclusively")
        } else if options.exclusive && !self.is_empty() {
            Some("an exclusive consumer has to be the only one, and there are others")
        } else if options.exclusive && self.single_active {
            Some("it has a single active consumer, which an exclusive one can't be")
        } else {
            None
        };
        if let Some(reason) = refused {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "queue `{queue}` can't be consumed: {reason}; wait until they are gone, or use another queue"
                ),
            ));
        }
        self.readers.push(Reader {
            number,
            exclusive: options.exclusive,
            priority: options.priority,
            room: options.room,
        });
        self.active.get_or_insert(number);
        self.note_differences();
        Ok(())
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.readers.retain(|reader| reader.number != number);
        if self.active == Some(number) {
            self.active = self.next_active();
        }
        self.note_differences();
    }

    /// Of the highest priority, the one that came first. Whoever comes later doesn't take over from it, whatever its
    /// priority.
    fn next_active(&self) -> Option<u64> {
        let first =
            self.readers
                .iter()
                .reduce(|first, next| match next.priority > first.priority {
                    true => next,
                    false => first,
                });
        first.map(|reader| reader.number)
    }

    fn note_differences(&mut self) {
        let differ = |pair: &[Reader]| pair[0].priority != pair[1].priority;
        self.selective = self.single_active || self.readers.windows(2).any(differ);
    }

    /// Whether it matters who takes.
    #[inline]
    pub(super) fn are_selective(&self) -> bool {
        self.selective
    }

    /// How many of `ready` messages this reader may take: those that nobody has room for who is served before it.
    pub(super) fn share(&self, number: u64, ready: usize) -> usize {
        let Some(reader) = self.readers.iter().find(|reader| reader.number == number) else {
            return 0;
        };
        if self.single_active {
            return if self.active == Some(number) {
                ready
            } else {
                0
            };
        }
        let before = self.readers.iter();
        let before = before.filter(|other| other.priority > reader.priority);
        ready.saturating_sub(room_of(before))
    }

    /// How many messages are as good as delivered: RabbitMQ would have sent them.
    pub(super) fn room(&self) -> usize {
        let readers = self.readers.iter();
        room_of(readers.filter(|reader| !self.single_active || self.active == Some(reader.number)))
    }
}

fn room_of<'a>(readers: impl Iterator<Item = &'a Reader>) -> usize {
    readers.fold(0, |room, reader| room.saturating_add(reader.room.left()))
}
