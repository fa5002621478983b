//! The elements of the ready lists: messages as Python's kombu writes them.
