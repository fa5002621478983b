"""Tasks for a Celery worker on the Redis that TASKS_URL names. As a program, it sends two and prints their results."""

import json
import os
from urllib.parse import parse_qs

from celery import Celery

url, _, query = os.environ["TASKS_URL"].partition("?")
app = Celery("tasks", broker=url, backend="rpc://")
app.conf.broker_transport_options = {"global_keyprefix": parse_qs(query)["prefix"][0]}
app.conf.broker_connection_retry_on_startup = True


@app.task(name="tasks.add")
def add(x, y):
    return x + y


@app.task(name="tasks.divide")
def divide(x, y):
    return x / y


if __name__ == "__main__":
    results = [add.delay(2, 3), divide.delay(1, 0)]
    for result in results:
        value = result.get(timeout=60, propagate=False)
        print(json.dumps(value if isinstance(value, int) else repr(value)), flush=True)
