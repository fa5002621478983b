use std::sync::Arc;

use rpds::HashTrieSetSync;

use crate::virt::table::BindingRecord;

/// Bindings in one place of an index: usually one, or all queues that listen to one key.
#[derive(Clone, Debug, Default)]
pub(super) enum Group {
    #[default]
    Empty,
    One(Arc<BindingRecord>),
    Many(HashTrieSetSync<Arc<BindingRecord>>),
}

impl Group {
    pub(super) fn insert(&mut self, record: Arc<BindingRecord>) {
        match self {
            Group::Empty => *self = Group::One(record),
            Group::One(first) if *first == record => {}
            Group::One(first) => {
                *self = Group::Many([first.clone(), record].into_iter().collect());
            }
            Group::Many(records) => records.insert_mut(record),
        }
    }

    pub(super) fn remove(&mut self, record: &BindingRecord) {
        let is_empty = match self {
            Group::Empty => true,
            Group::One(only) => **only == *record,
            Group::Many(records) => {
                records.remove_mut(record);
                records.is_empty()
            }
        };
        if is_empty {
            *self = Group::Empty;
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Group::Empty => 0,
            Group::One(_) => 1,
            Group::Many(records) => records.size(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Group::Empty)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &BindingRecord> {
        let (one, many) = match self {
            Group::Empty => (None, None),
            Group::One(only) => (Some(only), None),
            Group::Many(records) => (None, Some(records)),
        };
        let many = many.into_iter().flat_map(|records| records.iter());
        one.into_iter().chain(many).map(Arc::as_ref)
    }
}
