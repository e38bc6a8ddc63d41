"""What is published, when, by whom, and how it must end."""

import hashlib
import json
from dataclasses import dataclass, field

from . import graphs
from .graphs import Expect

ECHO, PYTHON = "echo.v1", "python.v1"
TASKS, WORKFLOWS = "gleitzeit.tasks", "gleitzeit.workflows"


@dataclass(frozen=True)
class Item:
    """One message of the load."""

    # From the start of the load to its end, 0 to 1.
    at: float
    kind: str
    # None: it has none, or none that could be read.
    id: object
    body: object
    expect: object = None
    exchange: str = TASKS
    key: str = ECHO
    properties: dict = field(default_factory=dict)
    # "amqp": a foreign producer; "cli": the command line.
    via: str = "amqp"
    # Seconds from the first publish; of a workflow, for its last task.
    not_before: float = 0.0
    expires: float = 0.0
    # How often a careless producer publishes it.
    copies: int = 1
    tasks: int = 1


# Whenever a worker is killed, some of these must be running.
SLOW_EVERY_SECONDS = 0.7
# What is cancelled in time is due so long after it is published: ledger.CANCEL_SECONDS, and room for the cancel to be
# confirmed. In the first half of the load, so that nobody waits for it alone.
IN_TIME_SECONDS = (80, 90)
IN_TIME_UNTIL = 0.5


def draw(rng, tasks, seconds):
    """Items with `tasks` tasks in all over `seconds`, ordered by time."""
    maker = _Maker(rng, graphs.Bodies())
    # The workers die of these, so a fixed few.
    for _ in range(max(1, tasks // 5000)):
        maker.single("poison")
    for _ in range(min(tasks // 10, int(seconds / SLOW_EVERY_SECONDS))):
        maker.single("slow")
    for _ in range(max(2, tasks // 1000)):
        maker.single("cancelled in time")
        maker.workflow_in_time()
        maker.single("anonymous")
    left = tasks - maker.tasks
    graphs_left = int(left * 0.45)
    for _ in range(tasks // 5000):
        graphs_left -= maker.workflow(graphs.wide)
    while graphs_left > 0:
        graphs_left -= maker.workflow()
    while maker.tasks < tasks:
        maker.single(rng.choices(list(_SINGLES), [often for often, _ in _SINGLES.values()])[0])
    return sorted(maker.items, key=lambda item: item.at)


class _Maker:
    def __init__(self, rng, bodies):
        self.rng = rng
        self.bodies = bodies
        self.items = []
        self.tasks = 0
        # Half of the load comes evenly, half in bursts that leave a backlog for the faults.
        self._bursts = [rng.random() for _ in range(12)]

    def at(self):
        if self.rng.random() < 0.5:
            return self.rng.random()
        return min(1.0, self.rng.choice(self._bursts) + self.rng.random() * 0.01)

    def new_id(self, kind):
        return "%s-%05d" % (kind, len(self.items))

    def add(self, item):
        self.items.append(item)
        self.tasks += item.tasks

    def workflow(self, shape=None):
        id = self.new_id("flow")
        document, expect, tasks = graphs.draw(self.rng, id, self.bodies, shape)
        via = "cli" if self.rng.random() < 0.15 else "amqp"
        at = self.at()
        if self.rng.random() < 0.03:
            expect = _cancellable(expect)
            self.cancel(id, at)
        self.add(Item(at, "workflow", id, document, expect, WORKFLOWS, "", via=via, tasks=tasks))
        return tasks

    def workflow_in_time(self):
        id, at = self.new_id("flow"), self.rng.random() * IN_TIME_UNTIL
        document, expect, tasks = graphs.draw(self.rng, id, self.bodies, graphs.held)
        wait = self.rng.uniform(*IN_TIME_SECONDS)
        self.add(Item(at, "workflow", id, document, _cancellable(expect), WORKFLOWS, "", not_before=wait, tasks=tasks))
        self.cancel(id, at)

    def cancel(self, id, at):
        soon = min(1.0, at + self.rng.random() * 0.01)
        command = {"type": "cancel", "id": id}
        self.add(Item(soon, "cancel command", None, command, exchange=WORKFLOWS, key="", tasks=0))

    def single(self, kind):
        fixed = {"poison": _poison, "slow": _slow, "cancelled in time": _cancelled_in_time}
        make = fixed.get(kind) or _SINGLES[kind][1]
        make(self, self.new_id(kind.replace(" ", "-")))


def _cancellable(expect):
    """What may end as it would, or be cancelled first."""
    tasks = {name: _cancellable(end) for name, end in expect.tasks.items()}
    states = tuple(dict.fromkeys([*expect.states, "cancelled"]))
    codes = (*expect.codes, "TASK_CANCELLED", "WORKFLOW_CANCELLED")
    return Expect(states, codes, expect.value, expect.witnessed, expect.failures, tasks)


def _ping(id):
    return {"id": id, "method": "ping", "params": {"message": id}}


def _plain(make, id):
    priority = make.rng.choice([None, None, 0, 1, 4, 7, 9])
    properties = {} if priority is None else {"priority": priority}
    copies = 2 if make.rng.random() < 0.05 else 1
    via = "cli" if make.rng.random() < 0.02 else "amqp"
    make.add(Item(make.at(), "plain", id, _ping(id), Expect(value=id), properties=properties, copies=copies, via=via))


def _delayed(make, id):
    via = "cli" if make.rng.random() < 0.03 else "amqp"
    wait = round(make.rng.uniform(0.1, 40), 2)
    make.add(Item(make.at(), "delayed", id, _ping(id), Expect(value=id), not_before=wait, via=via))


def _append(make, id):
    body = {"id": id, "method": "execute", "params": make.bodies.append(id, id)}
    make.add(Item(make.at(), "appending", id, body, Expect(value=id, witnessed=True), key=PYTHON))


def _slow(make, id):
    """Long enough to be running when its worker is killed or frozen."""
    params = make.bodies.append(id, id, seconds=round(make.rng.uniform(2, 6), 1))
    body = {"id": id, "method": "execute", "params": params}
    make.add(Item(make.rng.random(), "slow", id, body, Expect(value=id, witnessed=True), key=PYTHON))


def _flaky(make, id):
    failures = make.rng.randint(1, 4)
    retry = {"max_attempts": 10, "base_delay": make.rng.choice([0, 0.1, 0.5, 2]), "max_delay": 5}
    body = {"id": id, "method": "execute", "params": make.bodies.flaky(id, failures), "retry": retry}
    make.add(Item(make.at(), "retrying", id, body, Expect(value=id, witnessed=True, failures=failures), key=PYTHON))


def _hopeless(make, id):
    retry = {"max_attempts": make.rng.randint(1, 4), "base_delay": 0.2, "max_delay": 2}
    body = {"id": id, "method": "error", "params": {"message": id}, "retry": retry}
    make.add(Item(make.at(), "hopeless", id, body, Expect(("failed",), ("TASK_EXECUTION_FAILED",))))


def _cancelled(make, id):
    at = make.at()
    make.add(Item(at, "cancelled", id, _ping(id), _cancellable(Expect(value=id)), not_before=make.rng.uniform(0, 15)))
    make.cancel(id, at)


def _cancelled_in_time(make, id):
    """Long before it is due: the ledger wants no other end, where the cancel was confirmed early enough."""
    at, wait = make.rng.random() * IN_TIME_UNTIL, make.rng.uniform(*IN_TIME_SECONDS)
    make.add(Item(at, "cancelled in time", id, _ping(id), _cancellable(Expect(value=id)), not_before=wait))
    make.cancel(id, at)


def _expiring(make, id):
    expect = Expect(("completed", "expired"), ("TASK_EXPIRED",), value=id)
    make.add(Item(make.at(), "expiring", id, _ping(id), expect, expires=make.rng.uniform(0.2, 10)))


def _own_ttl(make, id):
    expect = Expect(("completed", "expired"), ("TASK_EXPIRED",), value=id)
    make.add(Item(make.at(), "own TTL", id, _ping(id), expect, properties={"expiration": "200"}))


def _unroutable(make, id):
    expect = Expect(("failed",), ("PROTOCOL_NOT_FOUND",))
    make.add(Item(make.at(), "unroutable", id, {"id": id, "method": "x"}, expect, key="nobody.v1"))


def _invalid(make, id):
    body = {"id": id, "method": "ping", "timeout": -1}
    make.add(Item(make.at(), "invalid", id, body, Expect(("failed",), ("TASK_VALIDATION_FAILED",))))


def _circular(make, id):
    tasks = [{"id": "a", "method": "echo/ping", "dependencies": ["b"]}]
    tasks.append({"id": "b", "method": "echo/ping", "dependencies": ["a"]})
    expect = Expect(("failed",), ("WORKFLOW_CIRCULAR_DEPENDENCY", "WORKFLOW_VALIDATION_FAILED"))
    make.add(Item(make.at(), "circular", id, {"id": id, "tasks": tasks}, expect, WORKFLOWS, ""))


def _garbage(make, id):
    exchange, key = make.rng.choice([(TASKS, ECHO), (TASKS, PYTHON), (WORKFLOWS, "")])
    make.add(Item(make.at(), "garbage", None, b"\xff{%s" % id.encode(), exchange=exchange, key=key))


def _anonymous(make, id):
    """Without an id: it gets one by the first worker, so it is looked for by its name."""
    body = {"name": id, "method": "execute", "params": make.bodies.append(id, id)}
    make.add(Item(make.at(), "anonymous", None, body, Expect(value=id), key=PYTHON))


def _poison(make, id):
    body = {"id": id, "method": "execute", "params": make.bodies.poison(id)}
    make.add(Item(make.at(), "poison", id, body, Expect(("failed",), ("WORKER_LOST",)), key=PYTHON))


_SINGLES = {
    "plain": (480, _plain),
    "delayed": (170, _delayed),
    "append": (100, _append),
    "flaky": (60, _flaky),
    "hopeless": (50, _hopeless),
    "cancelled": (40, _cancelled),
    "expiring": (20, _expiring),
    "own ttl": (8, _own_ttl),
    "unroutable": (8, _unroutable),
    "invalid": (6, _invalid),
    "circular": (4, _circular),
    "garbage": (8, _garbage),
    "anonymous": (8, _anonymous),
}


def digest_of(items):
    """What two plans of one seed have in common."""
    whole = hashlib.sha256()
    for item in items:
        body = item.body if isinstance(item.body, bytes) else json.dumps(item.body, sort_keys=True).encode()
        whole.update(repr((item.at, item.kind, item.via, item.not_before, item.copies)).encode() + body)
    return whole.hexdigest()[:12]
