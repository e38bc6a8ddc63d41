"""Load and faults, all of it decided by one seed before anything starts."""

import random
from dataclasses import dataclass

from . import load

# Kind: (shortest, longest duration in seconds, whom it is done to).
# Durations are chosen around what the product waits for: sessions live 5 s, heartbeats of connections
# take 20 s to miss, a drain has 30 s.
KINDS = {
    "worker-kill": (0.2, 2, "worker"),
    "worker-kill-all": (0.2, 1, "all"),
    "worker-drain": (0, 1, "worker"),
    "worker-freeze": (10, 14, "worker"),
    "broker-stop": (1, 6, "server"),
    "broker-kill": (0.5, 5, "server"),
    "broker-freeze": (4, 25, "server"),
    "broker-disconnect": (0, 0, "server"),
    "redis-kill": (0.2, 5, "server"),
    "redis-restart": (0.2, 3, "server"),
    "redis-freeze": (3, 12, "server"),
    "redis-full": (3, 8, "server"),
    "redis-disconnect": (0, 0, "server"),
    "redis-forget-scripts": (0, 0, "server"),
    "cut-amqp": (2, 8, "link"),
    "cut-redis": (2, 8, "link"),
    "silent-amqp": (22, 30, "link"),
    "silent-redis": (8, 16, "link"),
    "slow-amqp": (6, 12, "link"),
    "slow-redis": (6, 12, "link"),
    "alarm-memory": (4, 10, "server"),
    "alarm-disk": (4, 10, "server"),
}
# What is measured comes more often.
_AGAIN = ("worker-kill", "worker-kill", "broker-kill")
# Only with a cluster, once: what is lost for good cannot be lost again.
FOR_GOOD = "node-lost"

# After a kill: as long as others may take until they take over, so that it can be measured.
_CALM = {"worker-kill": 9.0, "worker-kill-all": 9.0}
# Whole servers away: now and then a worker dies meanwhile.
_WITH_A_KILL = ("broker-stop", "broker-kill", "broker-freeze", "redis-kill", "redis-freeze", "alarm-memory")


@dataclass(frozen=True)
class Fault:
    kind: str
    seconds: float
    # The pause before it.
    pause: float
    # The number of a worker, counted round; None: all of them.
    worker: object
    # Of the cluster's nodes, counted round.
    node: int
    # Whether a worker is killed in its middle.
    with_kill: bool

    def __str__(self):
        whom = KINDS.get(self.kind, (0, 0, "server"))[2]
        target = ""
        if whom in ("worker", "link"):
            target = " of all workers" if self.worker is None else " of worker %d" % self.worker
        return "%s%s, %.1f s%s" % (self.kind, target, self.seconds, ", and a worker dies" if self.with_kill else "")


@dataclass(frozen=True)
class Plan:
    seed: int
    items: list
    faults: list
    # How long load and faults last.
    seconds: float

    @property
    def tasks(self):
        return sum(item.tasks for item in self.items)

    def lines(self):
        kinds = {}
        for item in self.items:
            kinds[item.kind] = kinds.get(item.kind, 0) + 1
        yield "plan of seed %d: %d tasks in %d messages over %d s, %d faults, digest %s" % (
            self.seed, self.tasks, len(self.items), self.seconds, len(self.faults), load.digest_of(self.items),
        )
        yield "  load: " + ", ".join("%d %s" % (kinds[kind], kind) for kind in sorted(kinds))
        for number, fault in enumerate(self.faults, 1):
            yield "  fault %2d: after %.1f s: %s" % (number, fault.pause, fault)


def make(seed, tasks, faults, kinds, workers, nodes, minutes=None):
    """The same arguments give the same plan."""
    rng = random.Random("faults %d" % seed)
    chosen = [_fault(rng, kind, workers, nodes) for kind in _order(rng, faults, kinds, nodes)]
    busy = sum(_span(fault) for fault in chosen)
    if minutes is not None and chosen:
        # The same faults, nearer together or further apart.
        pauses = sum(fault.pause for fault in chosen)
        factor = max(0.2, (minutes * 60 - (busy - pauses)) / pauses)
        chosen = [_paused(fault, fault.pause * factor) for fault in chosen]
        busy = sum(_span(fault) for fault in chosen)
    seconds = busy + 5 if chosen else 60 * (minutes or 0.5)
    items = load.draw(random.Random("load %d" % seed), tasks, seconds)
    return Plan(seed, items, chosen, seconds)


def _span(fault):
    # What restarting a server or a drain takes comes on top, and is not known beforehand.
    extra = 5 if fault.kind in ("broker-stop", "broker-kill", "worker-drain") else 0.5
    return fault.pause + fault.seconds + extra + _CALM.get(fault.kind, 0)


def calm_after(fault):
    return _CALM.get(fault.kind, 0)


def _order(rng, count, kinds, nodes):
    """Every kind before any comes in another round, in an order of its own each time."""
    order = []
    while len(order) < count:
        again = [*kinds, *(kind for kind in _AGAIN if kind in kinds and len(kinds) > 1)]
        rng.shuffle(again)
        order += again
    order = order[:count]
    if nodes > 1 and order:
        order[len(order) // 2] = FOR_GOOD
    return order


def _fault(rng, kind, workers, nodes):
    # Always the same number of draws: a change of one kind does not shift all that follow.
    luck = [rng.random() for _ in range(6)]
    shortest, longest, whom = KINDS.get(kind, (0, 0, "server"))
    worker = int(luck[1] * workers) + 1
    if whom == "all" or (whom == "link" and luck[2] < 0.3):
        worker = None
    return Fault(
        kind=kind,
        seconds=round(shortest + luck[0] * (longest - shortest), 1),
        pause=round(3 + 7 * luck[3], 1),
        worker=worker,
        node=int(luck[4] * nodes) + 1,
        with_kill=kind in _WITH_A_KILL and luck[5] < 0.35,
    )


def _paused(fault, pause):
    return Fault(fault.kind, fault.seconds, round(pause, 1), fault.worker, fault.node, fault.with_kill)
