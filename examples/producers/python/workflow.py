"""Submits a whole workflow as one message and prints its result document, with every task's in it."""

import sys
import uuid

from producer import open_channel, publish, show, wait_for_result

SQUARES = {
    "name": "Squares",
    "tasks": [
        {"id": "numbers", "method": "python/execute", "params": {"code": "list(range(1, 6))"}},
        {
            "id": "squares",
            "method": "python/execute",
            "dependencies": ["numbers"],
            "params": {"code": "[n * n for n in numbers]", "context": {"numbers": "${numbers.result}"}},
        },
        {
            "id": "sum",
            "method": "python/execute",
            "dependencies": ["squares"],
            "params": {"code": "sum(squares)", "context": {"squares": "${squares.result}"}},
        },
    ],
}


def main():
    id = str(uuid.uuid4())
    channel = open_channel()
    # The exchange sends everything to the one workflows queue, whatever the routing key.
    publish(channel, "gleitzeit.workflows", "", {"id": id, **SQUARES})
    channel.connection.close()
    return 0 if show(wait_for_result(id)) else 1


if __name__ == "__main__":
    sys.exit(main())
