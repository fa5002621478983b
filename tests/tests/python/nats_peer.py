"""A plain client of NATS, which knows of kombu what its documentation says of streams, subjects and headers.

Takes lines of JSON and prints one for each.
"""

import asyncio
import base64
import json
import sys

import nats


def of(message):
    return {
        "body": base64.b64encode(message.data).decode(),
        "headers": dict(message.headers or {}),
        "subject": message.subject,
        "deliveries": message.metadata.num_delivered,
    }


async def main(url):
    client = await nats.connect(url)
    stream = client.jetstream()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        task = json.loads(line)
        subject = task["subject"]
        if task["do"] == "publish":
            body = base64.b64decode(task["body"])
            answer = await stream.publish(subject, body, headers=task["headers"])
            answer = {"duplicate": bool(answer.duplicate)}
        else:
            name = await stream.find_stream_name_by_subject(subject)
            puller = await stream.pull_subscribe_bind(task["consumer"], name)
            (message,) = await puller.fetch(1, timeout=10)
            answer = of(message)
            match task["do"]:
                case "ack":
                    await message.ack_sync()
                case "nak":
                    await message.nak()
        print(json.dumps(answer), flush=True)
    await client.drain()


asyncio.run(main(sys.argv[1]))
