use rpds::HashTrieMapSync;

use crate::name::Name;

/// Whose an exclusive queue is, by the number of the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(HashTrieMapSync<Name, u64>);

impl Owners {
    pub(super) fn set(&mut self, queue: &Name, owner: Option<u64>) {
        match owner {
            Some(session) => self.0.insert_mut(queue.clone(), session),
            None => {
                self.0.remove_mut(queue);
            }
        }
    }

    pub(super) fn get(&self, queue: &str) -> Option<u64> {
        self.0.get(queue).copied()
    }

    pub(super) fn of(&self, session: u64) -> Vec<Name> {
        let owned = self.0.iter().filter(|(_, owner)| **owner == session);
        let mut queues: Vec<_> = owned.map(|(queue, _)| queue.clone()).collect();
        queues.sort_unstable();
        queues
    }
}
