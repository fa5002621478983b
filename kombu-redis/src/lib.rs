//! `redis://`: queues on a Redis server, shared with Python's kombu and Celery.

mod element;
