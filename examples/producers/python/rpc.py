"""Asks and waits for the answer on the same connection: no Redis, no queue of our own.

RabbitMQ's direct reply-to carries the result document back. The answer is gone if this program is, so
use it where a lost answer can be asked for again; the result is in Redis too.
"""

import json
import sys
import time
import uuid

from producer import TIME_LIMIT, open_channel, publish, show

DIRECT = "amq.rabbitmq.reply-to"


def main():
    answers = {}

    def on_answer(_channel, _method, properties, body):
        answers[properties.correlation_id] = json.loads(body)

    channel = open_channel()
    # Consuming comes first: the broker refuses a direct reply-to without a consumer.
    channel.basic_consume(DIRECT, on_answer, auto_ack=True)
    question = str(uuid.uuid4())
    task = {"method": "tool.add", "params": {"a": 40, "b": 2}}
    publish(channel, "gleitzeit.tasks", "mcp.v1", task, reply_to=DIRECT, correlation_id=question)

    deadline = time.monotonic() + TIME_LIMIT
    while question not in answers:
        left = deadline - time.monotonic()
        if left <= 0:
            sys.exit("no answer within %s s" % TIME_LIMIT)
        channel.connection.process_data_events(time_limit=left)
    channel.connection.close()
    return 0 if show(answers[question]) else 1


if __name__ == "__main__":
    sys.exit(main())
