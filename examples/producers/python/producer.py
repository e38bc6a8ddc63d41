"""All that a producer needs: publish with a confirm, wait for the result document.

Debian: apt-get install python3-pika python3-redis. Elsewhere: the packages pika and redis.
"""

import json
import os
import sys
import time

import pika
import redis

# How long to wait for the broker, and for the result, in seconds.
TIME_LIMIT = 30

PREFIX = os.environ.get("GLEITZEIT_REDIS_PREFIX", "gleitzeit")


def open_channel():
    """A channel in confirm mode: basic_publish returns when the broker has the message, or raises."""
    parameters = pika.URLParameters(setting("GLEITZEIT_AMQP_URL"))
    parameters.socket_timeout = TIME_LIMIT
    # A broker that is short of memory or disk stops reading: then fail, instead of waiting for ever.
    parameters.blocked_connection_timeout = TIME_LIMIT
    channel = pika.BlockingConnection(parameters).channel()
    channel.confirm_delivery()
    return channel


def publish(channel, exchange, routing_key, body, **properties):
    """Returns once the broker has confirmed the message: persistent, and in a queue."""
    channel.basic_publish(
        exchange,
        routing_key,
        json.dumps(body),
        pika.BasicProperties(content_type="application/json", delivery_mode=2, **properties),
        mandatory=True,
    )


def wait_for_result(id):
    """The result document of a task on its own, or of a whole workflow."""
    deadline = time.monotonic() + TIME_LIMIT
    client = redis.Redis.from_url(setting("GLEITZEIT_REDIS_URL"), socket_timeout=TIME_LIMIT)
    subscription = client.pubsub()
    # Subscribe before looking: else an end between the two would go unnoticed. For a workflow the channel
    # tells of every task too.
    subscription.subscribe("%s:done:%s" % (PREFIX, id))
    while True:
        # The braces are part of the key: everything of one id is in one slot of a Redis cluster.
        document = client.get("%s:{%s}:result" % (PREFIX, id))
        if document is not None:
            return json.loads(document)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no result of %s within %s s" % (id, TIME_LIMIT))
        subscription.get_message(timeout=left)


def show(document):
    """Prints the document as one line; True if the work completed."""
    print(json.dumps(document, ensure_ascii=False), flush=True)
    return document["status"] == "completed"


def setting(name):
    if name not in os.environ:
        sys.exit("set %s" % name)
    return os.environ[name]
