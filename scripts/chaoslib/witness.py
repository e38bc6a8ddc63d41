"""Two outside witnesses: lines that tasks write about their executions, and ends that Redis announces."""

import hashlib
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import redis

PREFIX = "gleitzeit"


@dataclass(frozen=True)
class Execution:
    id: str
    # The worker that ran it.
    pid: int
    started: float
    # None: it did not come to its end.
    ended: object


def executions(file):
    """By id: its executions, in the order of their starts."""
    found = defaultdict(list)
    open_ones = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        id, pid, at, what = line.split(" ")
        if what == "start":
            found[id].append([int(pid), float(at), None])
            open_ones[id, int(pid)] = found[id][-1]
        elif (id, int(pid)) in open_ones:
            open_ones[id, int(pid)][2] = float(at)
    return {id: [Execution(id, *one) for one in rows] for id, rows in found.items()}


def running(executions, pid):
    """What this worker runs now, but for what it has only just begun."""
    now = time.time()
    return [one.id for rows in executions.values() for one in rows
            if one.pid == pid and one.ended is None and now - 20 < one.started < now - 0.2]


def recoveries(executions, clean_kills, given_up):
    """Seconds from each kill until what ran there was running elsewhere: one list per kill. What was given up then
    ran nowhere else."""
    answer = []
    for pid, at in clean_kills:
        waits = []
        for id, rows in executions.items():
            for number, one in enumerate(rows):
                if id in given_up and number == len(rows) - 1:
                    continue
                # What started at the very end may have ended unrecorded: then it runs again too, or not.
                if one.pid == pid and one.ended is None and one.started < at:
                    later = [next_one.started - at for next_one in rows[number + 1:]]
                    waits.append(min(later) if later else None)
        answer.append(waits)
    return answer


class Ends:
    """Hears of every result, and remembers what it was when it was first read."""

    def __init__(self, url, journal):
        self.times = defaultdict(int)
        self.first = {}
        # Why it stopped to listen before it was told to.
        self.failure = None
        self._url = url
        self._journal = journal
        self._stop = threading.Event()
        self._fresh = []
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)

    def start(self):
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join(10)

    def heard(self):
        return len(self.times)

    def look(self, client, keys):
        """Reads what it has not read yet: an announcement may be lost, as when Redis dies."""
        keys = [key for key in keys if key not in self.first]
        for key, (_, mark) in documents(client, keys).items():
            self.first.setdefault(key, mark)

    def _listen(self):
        while not self._stop.is_set():
            try:
                self._hear()
            except (redis.RedisError, OSError) as error:
                self._journal.note("the witness hears nothing", error=repr(error)[:100])
                self._stop.wait(0.2)
            except Exception as error:  # Else the thread would end without a word, and all ends look unannounced.
                self.failure = repr(error)[:200]
                return

    def _hear(self):
        client = redis.Redis.from_url(self._url, socket_timeout=5)
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.psubscribe(PREFIX + ":done:*")
        looked = time.monotonic()
        while not self._stop.is_set():
            message = heard.get_message(timeout=0.2)
            if message is not None:
                key = message["data"].decode()
                self.times[key] += 1
                if key not in self.first:
                    self._fresh.append(key)
            if self._fresh and (len(self._fresh) > 200 or time.monotonic() - looked > 0.5):
                looked = time.monotonic()
                keys, documents = self._fresh[:500], client.mget(self._fresh[:500])
                del self._fresh[: len(keys)]
                for key, document in zip(keys, documents):
                    if document is not None:
                        self.first.setdefault(key, fingerprint(document))


def fingerprint(document):
    return hashlib.sha256(document).digest()[:12]


def result_key(id, task=None):
    return "%s:{%s}:result%s" % (PREFIX, id, "" if task is None else ":" + task)


def result_keys(client):
    return [key.decode() for key in client.scan_iter(PREFIX + ":{*}:result*", 5000)]


def documents(client, keys):
    """The JSON of many result keys, and their bytes' fingerprint; absent ones are left out."""
    found = {}
    for at in range(0, len(keys), 500):
        part = keys[at:at + 500]
        for key, text in zip(part, client.mget(part)):
            if text is not None:
                found[key] = (json.loads(text), fingerprint(text))
    return found
