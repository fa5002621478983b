"""Tasks for a worker: celery --workdir examples/celery --app tasks worker [--broker URL]"""

from celery import Celery

# `rpc://` sends each result to the queue that the message of its task names.
app = Celery("tasks", backend="rpc://")


@app.task
def add(x, y):
    return x + y


@app.task
def divide(x, y):
    return x / y
