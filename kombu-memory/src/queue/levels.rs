use std::collections::VecDeque;

use super::Entry;

/// The ready messages: by priority, and within one in order of position.
pub(super) struct Levels {
    /// The lowest priority first. A queue without priorities has one level.
    levels: Vec<VecDeque<Entry>>,
    len: usize,
    /// Of the bodies; `None` where nobody asks. Whoever takes would have to look at each of them.
    bytes: Option<u64>,
}

impl Levels {
    pub(super) fn new(max_priority: u8, counts_bytes: bool) -> Self {
        let mut levels = Vec::new();
        levels.resize_with(usize::from(max_priority) + 1, VecDeque::new);
        Levels {
            levels,
            len: 0,
            bytes: counts_bytes.then_some(0),
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn count_in(&mut self, entry: &Entry) {
        self.len += 1;
        if let Some(bytes) = &mut self.bytes {
            *bytes += entry.envelope.body().len() as u64;
        }
    }

    #[inline]
    fn count_out(&mut self, gone: &[Entry]) {
        self.len -= gone.len();
        if let Some(bytes) = &mut self.bytes {
            let of = gone.iter().map(|entry| entry.envelope.body().len() as u64);
            *bytes -= of.sum::<u64>();
        }
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
        self.count_in(&entry);
        self.of(&entry).push_back(entry);
    }

    /// Puts a message back where it was.
    pub(super) fn put_back(&mut self, entry: Entry) {
        self.count_in(&entry);
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
        self.count_out(std::slice::from_ref(&entry));
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
        self.count_out(&taken[before..]);
    }

    /// Takes messages from the front as long as `is_gone` holds.
    pub(super) fn take_while(&mut self, is_gone: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut gone = Vec::new();
        while self.front().is_some_and(&is_gone) {
            gone.extend(self.pop_front());
        }
        gone
    }

    /// The message that is served next.
    pub(super) fn front(&self) -> Option<&Entry> {
        self.levels.iter().rev().find_map(VecDeque::front)
    }

    /// Takes the message out that is served after `count` others.
    pub(super) fn take_after(&mut self, count: usize) -> Option<Entry> {
        let mut index = count;
        let mut levels = self.levels.iter_mut().rev();
        let level = levels.find(|level| {
            let is_here = index < level.len();
            if !is_here {
                index -= level.len();
            }
            is_here
        })?;
        let entry = level.remove(index)?;
        self.count_out(std::slice::from_ref(&entry));
        Some(entry)
    }

    /// The bytes of those that are served after `count` others.
    pub(super) fn bytes_after(&self, count: usize) -> u64 {
        let bytes = self.bytes.unwrap_or(0);
        match count {
            0 => bytes,
            _ if count >= self.len => 0,
            _ => {
                let size = |entry: &Entry| entry.envelope.body().len() as u64;
                let after = self.len - count;
                // From whichever side is nearer.
                if after < count {
                    let last = self.levels.iter().flat_map(|level| level.iter().rev());
                    return last.take(after).map(size).sum();
                }
                let served = self.iter().take(count).map(size);
                bytes.saturating_sub(served.sum())
            }
        }
    }

    /// All messages, in the order in which they are served.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.levels.iter_mut().rev().flatten()
    }

    /// All messages, as they would be served.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.levels.iter().rev().flatten()
    }

    /// Takes all messages out.
    pub(super) fn clear(&mut self) -> Vec<Entry> {
        let mut all = Vec::with_capacity(self.len);
        self.take(self.len, &mut all);
        all
    }
}
