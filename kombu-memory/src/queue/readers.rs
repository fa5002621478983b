use kombu_core::virt::ReaderOptions;
use kombu_core::{Error, ErrorKind, Name, Result};

/// The consumers of a queue, in the order in which they came.
#[derive(Default)]
pub(super) struct Readers {
    readers: Vec<Reader>,
    /// Only one of them gets messages.
    single_active: bool,
    /// They differ in priority, or only one is active: whoever takes has to be asked for.
    selective: bool,
}

struct Reader {
    number: u64,
    exclusive: bool,
    priority: i32,
    /// It has room for more, as far as is known.
    has_room: bool,
}

impl Readers {
    pub(super) fn new(single_active: bool) -> Self {
        Readers {
            readers: Vec::new(),
            single_active,
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
            has_room: true,
        });
        self.note_differences();
        Ok(())
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.readers.retain(|reader| reader.number != number);
        self.note_differences();
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

    /// Whether it is this reader's turn. A single get has no number and is always served.
    pub(super) fn admits(&self, number: u64) -> bool {
        let Some(reader) = self.readers.iter().find(|reader| reader.number == number) else {
            return true;
        };
        if self.single_active {
            return self
                .active()
                .is_none_or(|active| active.number == reader.number);
        }
        let mut others = self.readers.iter();
        !others.any(|other| other.priority > reader.priority && other.has_room)
    }

    /// The one that gets messages: of the highest priority, the one that came first.
    fn active(&self) -> Option<&Reader> {
        self.readers
            .iter()
            .reduce(|active, next| match next.priority > active.priority {
                true => next,
                false => active,
            })
    }

    /// Takes note of how much room a reader has.
    pub(super) fn set_room(&mut self, number: u64, has_room: bool) {
        let mut readers = self.readers.iter_mut();
        if let Some(reader) = readers.find(|reader| reader.number == number) {
            reader.has_room = has_room;
        }
    }

    /// Whether anybody takes a message now.
    pub(super) fn any_has_room(&self) -> bool {
        self.readers.iter().any(|reader| reader.has_room)
    }
}
