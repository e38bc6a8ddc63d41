"""Who publishes: foreign producers with confirms, and people at the command line.

A message counts as accepted when the broker has confirmed it, or when the command ended with 0. Until
then it is published again under the same id, which docs/wire-format.md says is safe.
"""

import datetime
import json
import subprocess
import threading
import time
import urllib.parse

import pika

from .graphs import FOLDER
from .workers import environment

FOREIGN = 4
COMMAND_LINES = 1
COMMAND_SECONDS = 60


class Producers:
    def __init__(self, servers, program, folder, journal, items, seconds, settings):
        self.accepted = {}
        self.tries = 0
        # By id, or WORKFLOW/TASK: the time before which it must not start.
        self.due = {}
        self.items = items
        self._servers = servers
        self._program = program
        self._folder = folder
        self._journal = journal
        self._seconds = seconds
        self._settings = settings
        self._stop = threading.Event()
        self._begin = None
        foreign = [number for number, item in enumerate(items) if item.via == "amqp"]
        typed = [number for number, item in enumerate(items) if item.via == "cli"]
        self._threads = [
            threading.Thread(target=self._produce, args=(foreign[one::FOREIGN], self._foreign), daemon=True)
            for one in range(FOREIGN)
        ]
        self._threads += [
            threading.Thread(target=self._produce, args=(typed[one::COMMAND_LINES], self._command_line), daemon=True)
            for one in range(COMMAND_LINES)
        ]

    def start(self):
        self._begin = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def busy(self):
        return any(thread.is_alive() for thread in self._threads)

    def _produce(self, numbers, make):
        publish = make()
        for number in numbers:
            item = self.items[number]
            wait = self._begin + item.at * self._seconds - time.monotonic()
            if self._stop.wait(max(0, wait)):
                return
            body = self._body_of(item)
            for _ in range(item.copies):
                pause = 0.1
                while not publish(item, body):
                    if self._stop.wait(pause):
                        return
                    pause = min(2, pause * 2)
            self.accepted[number] = time.time()
        publish(None, None)

    def _body_of(self, item):
        if isinstance(item.body, bytes):
            return item.body
        body = dict(item.body)
        # What of it has a time.
        place, part = item.id, body
        if item.kind == "workflow":
            *others, last = body["tasks"]
            part = dict(last)
            body["tasks"] = [*others, part]
            place = "%s/%s" % (item.id, part["id"])
        now = datetime.datetime.now(datetime.timezone.utc)
        for name, after in (("not_before", item.not_before), ("expires_at", item.expires)):
            if after:
                due = now + datetime.timedelta(seconds=after)
                part[name] = due.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        if item.not_before:
            self.due[place] = part["not_before"]
        return json.dumps(body).replace(FOLDER, str(self._folder)).encode()

    def _foreign(self):
        """A function that publishes once with a confirm; False: it is not known whether it is there."""
        state = {"connection": None, "channel": None}

        def close():
            connection, state["connection"] = state["connection"], None
            try:
                if connection is not None:
                    connection.close()
            except Exception:  # A connection that is broken anyhow; pika has no common class for that.
                pass

        def publish(item, body):
            if item is None:
                close()
                return True
            self.tries += 1
            try:
                if state["connection"] is None:
                    state["connection"], state["channel"] = self._connect()
                properties = pika.BasicProperties(
                    content_type="application/json", delivery_mode=2, **item.properties
                )
                state["channel"].basic_publish(item.exchange, item.key, body, properties, mandatory=True)
                return True
            except Exception as error:  # As above; what matters is that there is no confirm.
                self._journal.note("not confirmed", kind=item.kind, id=item.id, error=repr(error)[:200])
                close()
                return False

        return publish

    def _connect(self):
        connection = None
        for address in self._servers.nodes():
            try:
                parameters = pika.URLParameters(self._servers.amqp_url("producer", address))
                parameters.socket_timeout = parameters.stack_timeout = 5
                parameters.blocked_connection_timeout = 30
                parameters.heartbeat = 10
                connection = pika.BlockingConnection(parameters)
                break
            except Exception as error:
                failure = error
        if connection is None:
            raise failure
        channel = connection.channel()
        channel.confirm_delivery()
        return connection, channel

    def _command_line(self):
        def publish(item, body):
            if item is None:
                return True
            self.tries += 1
            argv, text = self._command_of(item, body)
            try:
                done = subprocess.run(
                    [self._program, *argv], env=self._environment(), input=text, capture_output=True,
                    timeout=COMMAND_SECONDS, cwd=self._folder,
                )
            except subprocess.TimeoutExpired:
                self._journal.problem("a command takes longer than a minute", argv=" ".join(argv))
                return False
            if done.returncode == 0:
                return True
            self._journal.note("not accepted", id=item.id, code=done.returncode, said=done.stderr[-300:].decode())
            # Its time may come while it is tried; then it is asked for without one.
            is_late = "--at" in argv and _has_come(argv[-1])
            if done.returncode not in (1, 4) and not is_late:
                self._journal.problem("a command fails in an odd way", argv=" ".join(argv), code=done.returncode,
                                      said=done.stderr[-300:].decode())
            return False

        return publish

    def _command_of(self, item, body):
        if item.kind == "workflow":
            file = self._folder / "submitted.json"
            # The file format has its own words for priorities, the message's are the same but for numbers.
            file.write_bytes(body)
            return ["submit", str(file), "--id", item.id], None
        task = json.loads(body)
        argv = ["call", "echo/v1", task["method"], "--params", json.dumps(task["params"])]
        argv += ["--id", item.id, "--no-wait"]
        if item.not_before and not _has_come(task["not_before"]):
            argv += ["--at", task["not_before"]]
        return argv, None

    def _environment(self):
        nodes = self._servers.nodes()
        # Whoever types the command knows which node is there.
        for address in nodes:
            if _listens(address):
                nodes = [address]
                break
        return environment(
            self._folder, self._servers.amqp_url("client", nodes[0]), self._servers.redis_url("client"), self._settings
        )


def _listens(address):
    import socket

    try:
        socket.create_connection(address, 1).close()
        return True
    except OSError:
        return False


def _has_come(due):
    return datetime.datetime.fromisoformat(due.replace("Z", "+00:00")) <= datetime.datetime.now(datetime.timezone.utc)
