"""Submits two tasks, the smallest one and one that says more, and prints their result documents."""

import sys
import uuid

from producer import open_channel, publish, show, wait_for_result


def main():
    channel = open_channel()

    # The smallest task. The id in the property message_id is how we find the result; without one the
    # first worker gives the task an id, which `gleitzeit list` shows.
    smallest = str(uuid.uuid4())
    task = {"method": "execute", "params": {"code": "print(6 * 7)"}}
    publish(channel, "gleitzeit.tasks", "python.v1", task, message_id=smallest)

    # More is said in the body. Publishing it twice does it once: the same id is the same task.
    larger = str(uuid.uuid4())
    task = {
        "v": 1,
        "id": larger,
        "name": "Sum of squares",
        "protocol": "python/v1",
        "method": "execute",
        "params": {"code": "sum(n * n for n in numbers)", "context": {"numbers": [1, 2, 3]}},
        "priority": "high",
        "timeout": 20,
        "retry": {"max_attempts": 3, "base_delay": 0.5},
        "result_ttl": 3600,
        "metadata": {"from": "examples/producers/python"},
    }
    publish(channel, "gleitzeit.tasks", "python.v1", task, priority=7)
    channel.connection.close()

    ended_well = [show(wait_for_result(id)) for id in (smallest, larger)]
    return 0 if all(ended_well) else 1


if __name__ == "__main__":
    sys.exit(main())
