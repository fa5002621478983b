"""The other side of the interop tests: Python kombu, as it comes.

    peer.py URL send                 publishes what each line of the input says, and prints a line for each
    peer.py URL receive QUEUE COUNT  prints what it receives
    peer.py URL answer QUEUE COUNT   answers requests with their doubled number
    peer.py URL ask QUEUE NUMBER     sends a request and prints the answer
    peer.py URL listen QUEUE         declares a queue and prints what it receives, until the input ends
    peer.py URL share QUEUE          sends back every third number that is new, and acks the others, until the input ends
    peer.py URL hold QUEUE           receives one message, and keeps it until it is killed
    peer.py URL sweep QUEUE          receives one message that another Python has held for longer than a second
    peer.py URL node MAILBOX KIND NAME  is a node of a mailbox, until the input ends
    peer.py URL order MAILBOX KIND NAMES  has nodes do what each line of the input says, and prints what they reply

Every line is JSON. A value that JSON doesn't have is an object with one key, the name of its type.
"""

import datetime
import decimal
import json
import sys
import threading

from urllib.parse import parse_qs

import kombu
import kombu.pidbox

ACCEPT = ["json", "yaml", "msgpack", "pickle", "application/data", "text/plain"]
UTC = datetime.timezone.utc


def build(value):
    """From what a line says to Python's value."""
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        return {
            "integer": int,
            "float": float,
            "decimal": decimal.Decimal,
            "bytes": bytes.fromhex,
            "time": lambda seconds: datetime.datetime.fromtimestamp(seconds, UTC),
            "array": lambda items: [build(item) for item in items],
            "table": lambda items: {name: build(item) for name, item in items.items()},
        }[kind](inner)
    return value


def describe(value):
    """And back."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return {"integer": value}
    if isinstance(value, float):
        return {"float": value}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, (bytes, memoryview)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, datetime.datetime):
        # py-amqp's times are in UTC and don't say so.
        return {"time": int(value.replace(tzinfo=UTC).timestamp())}
    if isinstance(value, list):
        return {"array": [describe(item) for item in value]}
    if isinstance(value, dict):
        return {"table": {name: describe(item) for name, item in value.items()}}
    raise TypeError(f"{value!r} is a {type(value)}")


def say(value):
    print(json.dumps(value), flush=True)


def connect(url):
    """Of the options in our URLs, kombu has the prefix of Redis's keys."""
    url, _, query = url.partition("?")
    prefix = parse_qs(query).get("prefix", [""])[0]
    options = {"global_keyprefix": prefix} if prefix else {}
    return kombu.Connection(url, transport_options=options)


def send(connection):
    with connection.Producer() as producer:
        for line in sys.stdin:
            said = json.loads(line)
            queue, exchange = said.get("queue"), said.get("exchange", "")
            declared = [declaration(queue)] if queue else []
            if isinstance(exchange, dict):
                exchange = kombu.Exchange(**exchange)
                declared.append(exchange)
            producer.publish(
                build(said["body"]),
                exchange=exchange,
                routing_key=said["routing_key"],
                headers=build(said.get("headers", {"table": {}})),
                declare=declared,
                **said.get("publish", {}),
            )
            say("sent")


def declaration(said):
    """A queue as kombu declares it, bound to an exchange if one is given."""
    exchange = said.pop("exchange", None)
    return kombu.Queue(exchange=kombu.Exchange(**exchange) if exchange else None, **said)


def receive(connection, queue, count):
    def receive_one(message):
        properties = dict(message.properties)
        # Over Redis, the message alone has them.
        for name in ("content_type", "content_encoding"):
            if getattr(message, name) is not None:
                properties[name] = getattr(message, name)
        # kombu has these under names of their own, and headers without what it took off.
        for known in ("application_headers", "delivery_info", "delivery_tag", "body_encoding"):
            properties.pop(known, None)
        say(
            {
                "exchange": message.delivery_info["exchange"],
                "routing_key": message.delivery_info["routing_key"],
                "redelivered": message.delivery_info.get("redelivered", False),
                "properties": properties,
                "headers": describe(message.headers)["table"],
                "body": describe(message.payload),
            }
        )
        message.ack()

    consume(connection, queue, count, receive_one)


def answer(connection, queue, count):
    producer = connection.Producer()

    def answer_one(request):
        producer.publish(
            request.payload * 2,
            routing_key=request.properties["reply_to"],
            correlation_id=request.properties["correlation_id"],
        )
        request.ack()

    consume(connection, queue, count, answer_one)


def ask(connection, queue, number):
    answers = kombu.Queue(exclusive=True)(connection.default_channel)
    answers.declare()
    connection.Producer().publish(
        int(number), routing_key=queue, reply_to=answers.name, correlation_id="7"
    )

    def receive_one(message):
        say([message.properties["correlation_id"], message.payload])
        message.ack()

    consume(connection, answers.name, 1, receive_one)


def listen(connection, queue):
    def hear(message):
        say([message.delivery_info["routing_key"], message.payload])
        message.ack()

    until_told(connection, declaration(json.loads(queue)), hear)


def share(connection, queue):
    def one(message):
        number = message.payload
        if number % 3 == 0 and not message.delivery_info.get("redelivered"):
            say(["back", number])
            message.requeue()
        else:
            say(["acking", number])
            message.ack()

    until_told(connection, kombu.Queue(queue, no_declare=True), one)


def hold(connection, queue):
    def one(message):
        say(["held", message.payload])
        threading.Event().wait()

    consume(connection, queue, 1, one)


def until_told(connection, queue, on_message):
    """Consumes until the input ends."""
    with connection.Consumer(queue, on_message=on_message, accept=ACCEPT) as consumer:
        consumer.qos(prefetch_count=10)
        drain_until_told(connection)


def drain_until_told(connection):
    """Handles what comes until the input ends. Says `ready` when the server knows."""
    is_over = threading.Event()

    def wait():
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=wait, daemon=True).start()
    is_ready = False
    while not is_over.is_set():
        try:
            connection.drain_events(timeout=0.5)
        except TimeoutError:
            pass
        if not is_ready:
            say("ready")
            is_ready = True


def node(connection, mailbox, kind, name):
    def add(state, x, y):
        return x + y

    def fail(state):
        raise ValueError("out of paper")

    mailbox = kombu.pidbox.Mailbox(mailbox, type=kind, connection=connection)
    handlers = {"add": add, "fail": fail}
    node = mailbox.Node(name, channel=connection.default_channel, handlers=handlers)
    node.listen()
    drain_until_told(connection)


def order(connection, mailbox, kind, names):
    mailbox = kombu.pidbox.Mailbox(mailbox, type=kind, connection=connection)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        say(mailbox.call(json.loads(names), method, arguments, timeout=10))


def sweep(connection, queue):
    connection.transport_options |= {
        "visibility_timeout": 1,
        "unacked_restore_throttle": 1,
    }
    seen = []

    def one(message):
        seen.append(message)
        say([message.payload, message.delivery_info.get("redelivered", False)])
        message.ack()

    queue = kombu.Queue(queue, no_declare=True)
    with connection.Consumer(queue, on_message=one, accept=ACCEPT):
        while not seen:
            try:
                # It looks for such messages only when it has waited for less than the second that Redis waits.
                connection.drain_events(timeout=0.4)
            except TimeoutError:
                pass


def consume(connection, queue, count, on_message):
    """Hands over as many messages of a queue, which is there already."""
    missing = int(count)

    def hand_over(message):
        nonlocal missing
        on_message(message)
        missing -= 1

    queue = kombu.Queue(queue, no_declare=True)
    # One at a time: while py-amqp publishes, it would hand over the next one.
    with connection.Consumer(
        queue, on_message=hand_over, accept=ACCEPT, prefetch_count=1
    ):
        while missing:
            connection.drain_events()


if __name__ == "__main__":
    url, command, *arguments = sys.argv[1:]
    commands = [send, receive, answer, ask, listen, share, hold, sweep, node, order]
    with connect(url) as connection:
        {one.__name__: one for one in commands}[command](connection, *arguments)
