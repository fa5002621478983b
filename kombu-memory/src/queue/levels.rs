use std::collections::VecDeque;

use super::Entry;

/// The ready messages: by priority, and within one in order of position.
pub(super) struct Levels {
    /// The lowest priority first. A queue without priorities has one level.
    levels: Vec<VecDeque<Entry>>,
    len: usize,
    /// Of the bodies.
    bytes: u64,
}

impl Levels {
    pub(super) fn new(max_priority: u8) -> Self {
        let mut levels = Vec::new();
        levels.resize_with(usize::from(max_priority) + 1, VecDeque::new);
        Levels {
            levels,
            len: 0,
            bytes: 0,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The level of a message: what it asks for, as far as the queue has it.
    #[inline]
    fn of(&mut self, entry: &Entry) -> &mut VecDeque<Entry> {
        let last = self.levels.len() - 1;
        let level = match last {
            0 => 0,
            _ => usize::from(entry.envelope.priority().unwrap_or(0)).min(last),
        };
        &mut self.levels[level]
    }

    #[inline]
    pub(super) fn push_back(&mut self, entry: Entry) {
        self.len += 1;
        self.bytes += entry.envelope.body().len() as u64;
        self.of(&entry).push_back(entry);
    }

    /// Puts a message back where it was.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.len += 1;
        self.bytes += entry.envelope.body().len() as u64;
        let level = self.of(&entry);
        let index = match level.front() {
            Some(front) if front.position < entry.position => {
                level.partition_point(|other| other.position < entry.position)
            }
            _ => 0,
        };
        level.insert(index, entry);
    }

    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let mut levels = self.levels.iter_mut().rev();
        let entry = levels.find_map(VecDeque::pop_front)?;
        self.len -= 1;
        self.bytes -= entry.envelope.body().len() as u64;
        Some(entry)
    }

    /// Moves up to `max` messages from the front.
    #[inline]
    pub(super) fn take(&mut self, max: usize, taken: &mut Vec<Entry>) {
        let before = taken.len();
        for level in self.levels.iter_mut().rev() {
            let room = max - (taken.len() - before);
            if room == 0 {
                break;
            }
            let count = room.min(level.len());
            taken.extend(level.drain(..count));
        }
        let gone = &taken[before..];
        self.len -= gone.len();
        let bytes = gone.iter().map(|entry| entry.envelope.body().len() as u64);
        self.bytes -= bytes.sum::<u64>();
    }

    /// Takes the messages at the front of each level for which `is_gone` holds.
    pub(super) fn take_while(&mut self, is_gone: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut gone = Vec::new();
        for level in self.levels.iter_mut().rev() {
            while level.front().is_some_and(&is_gone) {
                let Some(entry) = level.pop_front() else {
                    break;
                };
                self.len -= 1;
                self.bytes -= entry.envelope.body().len() as u64;
                gone.push(entry);
            }
        }
        gone
    }

    /// All messages, as they would be served.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.levels.iter().rev().flatten()
    }

    /// The first message of each level.
    pub(super) fn fronts(&self) -> impl Iterator<Item = &Entry> {
        self.levels.iter().filter_map(VecDeque::front)
    }

    /// Takes all messages out.
    pub(super) fn clear(&mut self) -> Vec<Entry> {
        let mut all = Vec::with_capacity(self.len);
        self.take(self.len, &mut all);
        all
    }
}
