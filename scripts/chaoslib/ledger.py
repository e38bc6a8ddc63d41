"""Accepted against ended.

Everything that was accepted must have ended as it should, once; nothing else may be there.
"""

import json
import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime

from . import witness
from .workers import environment

# worker.crash_limit
CRASH_LIMIT = 3
# Around a kill of the broker.
KILL_SECONDS = 3
# For how long an end may be unrecorded: half of the longest outage in whose middle a worker is killed, with room.
UNRECORDED_SECONDS = 15
# For how long a command may wait for its turn: longer than a silent connection takes to be given up.
CANCEL_SECONDS = 60
# Of all ends, the witness must hear of so many; what Redis announces while it loses its connection is lost.
HEARD_SHARE = 0.9
RESULT = re.compile(r"^gleitzeit:\{(?P<id>[^}]*)\}:result(?::(?P<task>.*))?$")


@dataclass
class Ledger:
    # By kind of the load.
    planned: Counter = field(default_factory=Counter)
    accepted: Counter = field(default_factory=Counter)
    ended: Counter = field(default_factory=Counter)
    # By kind and state.
    states: Counter = field(default_factory=Counter)
    # Of tasks in workflows.
    inner: Counter = field(default_factory=Counter)
    executions: int = 0
    executed: int = 0
    # Tasks that ran more than once although they never fail on purpose.
    repeated: int = 0
    announced: int = 0
    # Tasks and workflows whose cancel must have had its effect.
    cancelled_in_time: int = 0
    problems: list = field(default_factory=list)
    # Tasks that were given up because we killed their workers too often.
    given_up: list = field(default_factory=list)
    # What must have a dead letter: by id, or WORKFLOW/TASK.
    letters_due: Counter = field(default_factory=Counter)
    # What the broker itself ended at the moment when it was killed: it may have taken the message for the letter
    # with it (docs/guarantees.md, "What a classic queue ends by itself").
    letters_unsure: set = field(default_factory=set)
    # What has completed, and may have a letter: its message may have come back to the queue after its end was recorded,
    # and there the broker ends it once more (docs/guarantees.md, "What is a dead letter").
    letters_beside: set = field(default_factory=set)

    def wrong(self, text, *arguments):
        self.problems.append(text % arguments)


def compare(items, producers, client, ends, lines, killed, broker_kills, status):
    """The ledger. `lines` are the executions, `killed` by pid the times when we killed workers,
    `broker_kills` the times when we killed the broker; `status` asks the
    command line for a history."""
    ledger = Ledger()
    victims = {id for id, rows in lines.items() if _is_victim(rows, killed)}
    for number, item in enumerate(items):
        ledger.planned[item.kind] += 1
        if number in producers.accepted:
            ledger.accepted[item.kind] += 1
        else:
            ledger.wrong("never accepted: %s %s", item.kind, item.id)
    known = {item.id: item for item in items if item.id is not None}
    documents = witness.documents(client, witness.result_keys(client))
    in_time = places_cancelled_in_time(items, producers)
    ledger.cancelled_in_time = sum("/" not in place for place in in_time)
    if not in_time:
        ledger.wrong("no cancel was confirmed in time: whether one is ever obeyed was not seen")
    for item in known.values():
        _compare_item(ledger, item, documents, producers.due, victims, broker_kills, in_time)
    _nothing_else(ledger, known, documents, {item.body["name"] for item in items if item.kind == "anonymous"})
    _anonymous(ledger, items, documents, victims)
    _once(ledger, ends, documents)
    _executions(ledger, items, documents, lines, status)
    return ledger


def _is_victim(rows, killed):
    """Whether `crash_limit` workers died with it, and we killed the last, with which it was alone: a poisonous
    task beside it may have killed the others, but not that one."""
    lost = [one for one in rows if one.ended is None or _is_unrecorded(one, killed)]
    return len(lost) >= CRASH_LIMIT and lost[-1].pid in killed


def _is_unrecorded(one, killed):
    """Whether it ended so shortly before we killed its worker that its end was perhaps not recorded."""
    return one.pid in killed and killed[one.pid] - one.ended < UNRECORDED_SECONDS


def places_cancelled_in_time(items, producers):
    """Ids, and WORKFLOW/TASK, that must be cancelled: the cancel was confirmed long before they were due."""
    confirmed = {item.body["id"]: producers.accepted[number] for number, item in enumerate(items)
                 if item.kind == "cancel command" and number in producers.accepted}
    places = set()
    for place, due in producers.due.items():
        id = place.split("/")[0]
        if id in confirmed and _seconds(due) - confirmed[id] > CANCEL_SECONDS:
            places |= {id, place}
    return places


def _compare_item(ledger, item, documents, due_times, victims, broker_kills, in_time):
    document, _ = documents.get(witness.result_key(item.id), (None, None))
    if document is None:
        ledger.wrong("no end: %s %s", item.kind, item.id)
        return
    ledger.ended[item.kind] += 1
    ledger.states[item.kind, document["status"]] += 1
    if item.id in victims and _is_given_up(document):
        ledger.given_up.append(item.id)
        ledger.letters_due[item.id] += 1
        return
    if not _is_as_expected(ledger, item.id, _with_cancel(item.expect, item.id, in_time), document):
        return
    if item.kind != "workflow":
        if item.kind == "own TTL" and document["status"] == "completed":
            ledger.letters_beside.add(item.id)
        if document["status"] in ("failed", "expired"):
            ledger.letters_due[item.id] += 1
            if item.kind == "own TTL" and _is_near(document["ended_at"], broker_kills):
                ledger.letters_unsure.add(item.id)
        _is_not_early(ledger, item.id, document, due_times)
        return
    tasks = {task["id"]: task for task in document["tasks"]}
    if set(tasks) != set(item.expect.tasks):
        ledger.wrong("%s has the tasks %s, not %s", item.id, sorted(tasks), sorted(item.expect.tasks))
    for name, expect in item.expect.tasks.items():
        place = "%s/%s" % (item.id, name)
        task, _ = documents.get(witness.result_key(item.id, name), (None, None))
        if task is None:
            ledger.wrong("no end: task %s", place)
            continue
        ledger.inner[task["status"]] += 1
        _is_as_expected(ledger, place, _with_cancel(expect, place, in_time), task)
        _is_not_early(ledger, place, task, due_times)
        if name in tasks and tasks[name]["status"] != task["status"]:
            ledger.wrong("%s is %s, and %s in its workflow", place, task["status"], tasks[name]["status"])
        error = task.get("error") or {}
        if task["status"] in ("failed", "expired") and error.get("name") != "TASK_DEPENDENCY_FAILED":
            ledger.letters_due[place] += 1


def _with_cancel(expect, place, in_time):
    return replace(expect, states=("cancelled",)) if place in in_time else expect


def _is_not_early(ledger, place, document, due_times):
    started, due = document.get("started_at"), due_times.get(place)
    # Both are RFC 3339 in UTC with milliseconds, so texts compare as times do.
    if started is not None and due is not None and started < due:
        ledger.wrong("%s started at %s, before its time %s", place, started, due)


def _is_near(ended_at, broker_kills):
    """Whether that was in the seconds around a kill of the broker."""
    return any(-KILL_SECONDS < _seconds(ended_at) - kill < KILL_SECONDS for kill in broker_kills)


def _seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _is_given_up(document):
    return document["status"] == "failed" and document["error"]["name"] == "WORKER_LOST"


def _is_as_expected(ledger, place, expect, document):
    state, error = document["status"], document.get("error")
    if state not in expect.states:
        ledger.wrong("%s is %s, not %s: %s", place, state, " or ".join(expect.states), _brief(error))
        return False
    if state != "completed":
        if error is not None and expect.codes and error["name"] not in expect.codes:
            ledger.wrong("%s is %s with %s", place, state, _brief(error))
            return False
        return True
    if expect.value is not None:
        result = document.get("result") or {}
        found = result["response"] if "response" in result else result.get("result")
        if found != expect.value:
            ledger.wrong("%s has the result %.200r, not %.200r", place, found, expect.value)
            return False
    return True


def _nothing_else(ledger, known, documents, names):
    for key, (document, _) in documents.items():
        match = RESULT.match(key)
        id, task = match.group("id"), match.group("task")
        item = known.get(id)
        if item is None:
            if task is not None or document.get("name") not in names:
                ledger.wrong("nobody asked for %s: %s", key, _brief(document))
        elif task is not None and task.split(".")[0] not in item.expect.tasks:
            ledger.wrong("workflow %s never had a task %s", id, task)


def _anonymous(ledger, items, documents, victims):
    """What has no id has an end at least, by its name: published again it is another task, with an id of its own."""
    by_name = defaultdict(list)
    for key, (document, _) in documents.items():
        by_name[document.get("name")].append((RESULT.match(key).group("id"), document))
    for item in items:
        if item.kind != "anonymous":
            continue
        name = item.body["name"]
        if not by_name[name]:
            ledger.wrong("no end: anonymous %s", name)
        for id, document in by_name[name]:
            ledger.ended["anonymous"] += 1
            ledger.states["anonymous", document["status"]] += 1
            if name in victims and _is_given_up(document):
                ledger.given_up.append(name)
                ledger.letters_due[id] += 1
            else:
                _is_as_expected(ledger, "%s (%s)" % (name, id), item.expect, document)


def _once(ledger, ends, documents):
    """An end is announced when it is recorded, so twice would be two ends; and it never changes."""
    ledger.announced = len(ends.times)
    if ends.failure is not None:
        ledger.wrong("the witness of ends has died: %s", ends.failure)
    heard = sum(key in ends.times for key in documents)
    if heard < HEARD_SHARE * len(documents):
        ledger.wrong("the witness heard of %d of %d ends only", heard, len(documents))
    for key, times in ends.times.items():
        if times > 1:
            ledger.wrong("%s was recorded %d times", key, times)
    for key in ends.times.keys() | ends.first.keys():
        if key not in documents:
            ledger.wrong("%s was there and is gone", key)
        elif documents[key][1] != ends.first.get(key, documents[key][1]):
            ledger.wrong("%s has changed after it was recorded", key)


def _executions(ledger, items, documents, lines, status):
    """Each was executed, and no execution is without a record: a second release would be one."""
    expected = _witnessed(items)
    for id in lines:
        if id not in expected:
            ledger.wrong("nobody asked for the execution of %s", id)
    for id, (key, failures) in expected.items():
        made = len(lines.get(id, ()))
        ledger.executions += made
        ledger.executed += made > 0
        if key is None:
            if made == 0:
                ledger.wrong("%s was never executed", id)
            continue
        document, _ = documents.get(key, (None, None))
        if document is not None and document["status"] == "completed" and made <= failures:
            ledger.wrong("%s completed, and was executed %d times, not %d", id, made, failures + 1)
        if made <= 1 + failures:
            continue
        ledger.repeated += 1
        record = status(id)
        if record is None:
            ledger.wrong("%s was executed %d times, and `status` does not know it", id, made)
        elif made > len(record["history"]):
            ledger.wrong("%s was executed %d times, and its history has %d attempts", id, made, len(record["history"]))


def _witnessed(items):
    """What tells of its executions: its result's key, None for what has no id, and its failures on purpose."""
    expected = {}
    for item in items:
        if item.kind == "anonymous":
            expected[item.body["name"]] = (None, 0)
        elif item.kind == "poison":
            expected[item.id] = (witness.result_key(item.id), 0)
        elif item.expect is not None and item.expect.witnessed:
            expected[item.id] = (witness.result_key(item.id), item.expect.failures)
        for name, end in item.expect.tasks.items() if item.expect is not None else ():
            if end.witnessed:
                expected["%s/%s" % (item.id, name)] = (witness.result_key(item.id, name), end.failures)
    return expected


class Status:
    """`gleitzeit status ID --json`."""

    def __init__(self, program, servers, folder, settings):
        self._program = program
        self._env = environment(folder, servers.amqp_url("client"), servers.redis_url("client"), settings)

    def __call__(self, place):
        done = subprocess.run(
            [self._program, "status", place, "--json"], env=self._env, capture_output=True, timeout=60
        )
        return json.loads(done.stdout) if done.returncode == 0 else None


def _brief(document):
    return json.dumps(document)[:300]
