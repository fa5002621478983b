"""Python's kombu on Redis: prints how many seconds it takes to publish, and to consume and acknowledge, so many messages."""

import sys
import time

from kombu import Connection, Consumer, Exchange, Queue

url, count = sys.argv[1], int(sys.argv[2])
queue = Queue("peer", Exchange("peer", type="direct"), routing_key="peer")
body = {"number": 7, "text": "x" * 70}

with Connection(url) as connection:
    with connection.channel() as channel:
        producer = connection.Producer(channel)
        producer.publish(body, exchange=queue.exchange, routing_key="peer", declare=[queue])
        start = time.perf_counter()
        for _ in range(count):
            producer.publish(body, exchange=queue.exchange, routing_key="peer")
        published = time.perf_counter() - start

    taken = 0

    def on_message(message):
        global taken
        message.decode()
        message.ack()
        taken += 1

    with connection.channel() as channel:
        channel.basic_qos(0, 1000, False)
        with Consumer(channel, [queue], on_message=on_message):
            start = time.perf_counter()
            while taken <= count:
                connection.drain_events(timeout=10)
            consumed = time.perf_counter() - start

print(published, consumed)
