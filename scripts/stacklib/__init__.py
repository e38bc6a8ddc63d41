"""The parts of `scripts/stack`: private RabbitMQ nodes and Redis servers on loopback.

    ports      which ports are free, and stay ours until a server has bound them
    process    starting, finding again and ending a process by pid, safely
    release    where the servers' programs come from: this system, or a newer root
    debian     installing packages, building that newer root
    rabbitmq   one node with an epmd of its own
    redis      one server
    llama      one server of language models, with the model that tiny_model writes
    stack      a set of servers in one folder, and its `env` file
"""


class Unavailable(Exception):
    """Something that this machine lacks; the message says what to install or to do."""


class Failed(Exception):
    """A server that did not do what it should; the message says which and why."""
