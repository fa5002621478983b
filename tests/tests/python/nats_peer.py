"""A plain client of NATS, which knows of kombu what its documentation says of streams, subjects and headers.

Takes lines of JSON and prints one for each.
"""

import asyncio
import base64
import json
import sys

import nats


def of(message):
    seen = {
        "body": base64.b64encode(message.data).decode(),
        "headers": dict(message.headers or {}),
        "subject": message.subject,
    }
    # What comes from no stream has none.
    if message.reply:
        seen["deliveries"] = message.metadata.num_delivered
    return seen


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
        if task["do"] == "ask":
            answers = await client.subscribe("_INBOX.python")
            headers = {"Kombu-Reply-To": "_INBOX.python"} | task["headers"]
            body = base64.b64decode(task["body"])
            await stream.publish(subject, body, headers=headers)
            answer = of(await answers.next_msg(timeout=10))
            await answers.unsubscribe()
        elif task["do"] == "publish":
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
                case "answer":
                    inbox = message.headers["Kombu-Reply-To"]
                    number = message.headers["Kombu-Correlation-Id"]
                    headers = {"Content-Type": "application/json"}
                    headers |= {"Kombu-Correlation-Id": number} | task["headers"]
                    for body in task["bodies"]:
                        body = base64.b64decode(body)
                        await client.publish(inbox, body, headers=headers)
                    await message.ack_sync()
        print(json.dumps(answer), flush=True)
    await client.drain()


asyncio.run(main(sys.argv[1]))
