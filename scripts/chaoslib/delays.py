"""Are delays on time? Retries with delays of all lengths, on a machine with nothing else to do.

A task fails once, and is tried again after the delay that it asks for. Its document tells when the first
attempt ended and when the second one started.
"""

import datetime
import json
import random
import statistics
import time

import redis

from . import Broken, load, witness
from .graphs import Expect
from .journal import Journal
from .links import Links
from .producers import Producers
from .servers import Servers
from .workers import Workers, settings_of

RETRIES = 1000
SHORTEST, LONGEST = 0.1, 60.0
# What docs/topology.md says of the cascade's steps, and what a message may take on its way.
RESOLUTION_SECONDS = 0.1
MEDIAN_LIMIT_SECONDS = RESOLUTION_SECONDS + 0.1
PUBLISHING_SECONDS = 30


class Run:
    def __init__(self, arguments, folder, servers_folder):
        self.arguments = arguments
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.servers = Servers(servers_folder, arguments.release, self.journal)
        self.links = self.workers = self.producers = None

    def go(self):
        rng = random.Random(self.arguments.seed)
        wanted = {"retry-%04d" % n: _delay(rng) for n in range(RETRIES)}
        self.servers.start()
        self.links = Links()
        program = self.arguments.program
        self.workers = Workers([program], self.servers, self.links, self.folder, self.journal, 1, 8, settings_of(self.arguments))
        self.workers.start()
        self._await_consumers()
        items = [_item(rng, id, delay) for id, delay in wanted.items()]
        items.sort(key=lambda item: item.at)
        self.producers = Producers(
            self.servers, program, self.folder, self.journal, items, PUBLISHING_SECONDS, settings_of(self.arguments)
        )
        self.producers.start()
        late = self._lateness(wanted)
        return _report(self.arguments.seed, late)

    def end(self, purge):
        for part in (self.producers,):
            if part is not None:
                part.stop()
        if self.workers is not None:
            self.workers.abandon()
        if self.links is not None:
            self.links.close()
        if purge:
            self.servers.purge()

    def _await_consumers(self):
        until = time.monotonic() + 30
        while "gleitzeit.tasks.echo.v1\t1" not in self.servers.ctl("-q", "list_queues", "name", "consumers"):
            if time.monotonic() > until:
                raise Broken("the worker does not consume")
            time.sleep(0.5)

    def _lateness(self, wanted):
        """Seconds late, by id; negative is early."""
        keys = {witness.result_key(id): id for id in wanted}
        until = time.monotonic() + PUBLISHING_SECONDS + LONGEST + 60
        with redis.Redis.from_url(self.servers.redis_url()) as client:
            while (found := client.exists(*keys)) < len(keys):
                if time.monotonic() > until:
                    raise Broken("%d retries have not ended" % (len(keys) - found))
                time.sleep(1)
            documents = witness.documents(client, list(keys))
        late = {}
        for key, (document, _) in documents.items():
            first = document["error"]["details"]["attempts"][0]
            waited = _time(document["started_at"]) - _time(first["ended_at"])
            late[keys[key]] = (wanted[keys[key]], waited - wanted[keys[key]])
            self.journal.note("waited", delay=wanted[keys[key]], late=round(late[keys[key]][1], 3),
                              due=_time(first["ended_at"]) + wanted[keys[key]])
        return late


def _delay(rng):
    """As many short ones as long ones: evenly in the logarithm."""
    return round(SHORTEST * (LONGEST / SHORTEST) ** rng.random(), 2)


def _item(rng, id, delay):
    retry = {"max_attempts": 2, "backoff": "fixed", "base_delay": delay, "jitter": False}
    body = {"id": id, "method": "error", "params": {"message": id}, "retry": retry}
    return load.Item(rng.random(), "retry", id, body, Expect(("failed",)))


def _time(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _report(seed, late):
    lateness = sorted(seconds for _, seconds in late.values())
    early = [id for id, (_, seconds) in late.items() if seconds < -0.0005]
    median = statistics.median(lateness)
    print("delays of seed %d: %d retries, %.1f to %.0f s" % (seed, len(late), SHORTEST, LONGEST))
    print("  late: median %.0f ms, 99 of 100 %.0f ms, longest %.0f ms; limit of the median %.0f ms" % (
        median * 1000, lateness[int(len(lateness) * 0.99)] * 1000, lateness[-1] * 1000, MEDIAN_LIMIT_SECONDS * 1000,
    ))
    for low, high in ((0.1, 1), (1, 10), (10, 61)):
        part = [seconds for delay, seconds in late.values() if low <= delay < high]
        if part:
            print("  from %g s on: %d, median %.0f ms" % (low, len(part), statistics.median(part) * 1000))
    print("  early: %d %s" % (len(early), json.dumps(early[:5]) if early else ""))
    return 0 if not early and median <= MEDIAN_LIMIT_SECONDS else 1
