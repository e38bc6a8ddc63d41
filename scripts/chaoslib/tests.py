"""Whether the ledger notices what no run without faults can show: `python3 -m unittest chaoslib.tests`, without servers.

Each test takes an outcome that is exact, harms it, and wants to be told of that, and of nothing else.
"""

import base64
import importlib
import json
import random
import signal
import sys
import tempfile
import time
import types
import unittest
from pathlib import Path
from unittest import mock

for missing in ("pika", "redis"):
    try:
        importlib.import_module(missing)
    except ImportError:
        # Nothing here talks to a server.
        sys.modules[missing] = types.ModuleType(missing)
        sys.modules[missing].RedisError = type("RedisError", (Exception,), {})

from . import faults, ledger, letters, load, plan, report, witness  # noqa: E402
from .producers import Producers  # noqa: E402
from .witness import Execution  # noqa: E402

SECONDS = 60


class Store(dict):
    """What of Redis the ledger reads."""

    def scan_iter(self, *_):
        return [key.encode() for key in self]

    def mget(self, keys):
        return [self.get(key) for key in keys]


class Outcome:
    """Everything ended as the plan says; cancelled is what had to be."""

    def __init__(self):
        self.items = load.draw(random.Random(7), 400, SECONDS)
        self.producers = Producers(None, None, Path("/nowhere"), None, self.items, SECONDS, {})
        self.store = Store()
        self.lines = {}
        self.killed = {}
        for number, item in enumerate(self.items):
            self.producers._body_of(item)
            self.producers.accepted[number] = time.time()
        self.in_time = ledger.places_cancelled_in_time(self.items, self.producers)
        for item in self.items:
            self._end(item)
        self.ends = witness.Ends("redis://nowhere", None)
        for key, text in self.store.items():
            self.ends.times[key] = 1
            self.ends.first[key] = witness.fingerprint(text)

    def of(self, kind):
        return [item for item in self.items if item.kind == kind]

    def put(self, key, document):
        """As it was from the beginning."""
        self.store[key] = json.dumps(document).encode()
        self.ends.first[key] = witness.fingerprint(self.store[key])

    def run(self, name, *rows):
        """Executions: (pid, start, end or None)."""
        self.lines[name] = [Execution(name, *row) for row in rows]

    def found(self):
        return ledger.compare(self.items, self.producers, self.store, self.ends, self.lines, self.killed, [],
                              lambda _: {"history": [1] * 9})

    def _end(self, item):
        if item.expect is None:
            return
        tasks = [self._document(name, "%s/%s" % (item.id, name), end) for name, end in item.expect.tasks.items()]
        for task in tasks:
            self.store[witness.result_key(item.id, task["id"])] = json.dumps(task).encode()
        name = item.body.get("name")
        document = self._document(item.id, item.id or name, item.expect, name=name, tasks=tasks)
        self.store[witness.result_key(item.id or "drawn-" + name)] = json.dumps(document).encode()

    def _document(self, id, place, expect, **more):
        if expect.witnessed or place.startswith(("anonymous", "poison")):
            self.lines[place] = [Execution(place, 1, 1.0, 2.0)] * (expect.failures + 1)
        state = "cancelled" if place in self.in_time else expect.states[0]
        error = {"name": expect.codes[0]} if state == "failed" else None
        result = {"response": expect.value} if state == "completed" else None
        return {"id": id, "status": state, "result": result, "error": error, **more}


class Whole(unittest.TestCase):
    def setUp(self):
        self.outcome = Outcome()

    def assert_told(self, *parts):
        """Each problem has one of these parts, and each part is told."""
        found = self.outcome.found().problems
        for part in parts:
            self.assertTrue(any(part in problem for problem in found), "%s not in %s" % (part, found))
        self.assertEqual([one for one in found if not any(part in one for part in parts)], [])

    def test_an_exact_outcome_is_exact(self):
        found = self.outcome.found()
        self.assertEqual(found.problems, [])
        self.assertGreater(found.cancelled_in_time, 2)
        self.assertEqual(found.ended["anonymous"], found.accepted["anonymous"])

    # --- what has no id

    def test_a_lost_end_of_what_has_no_id_is_noticed(self):
        name = self.outcome.of("anonymous")[0].body["name"]
        key = witness.result_key("drawn-" + name)
        del self.outcome.store[key], self.outcome.ends.times[key], self.outcome.ends.first[key]
        self.assert_told("no end: anonymous " + name)

    def test_a_failed_end_of_what_has_no_id_is_noticed(self):
        name = self.outcome.of("anonymous")[0].body["name"]
        self.outcome.put(witness.result_key("drawn-" + name), {"name": name, "status": "failed", "error": None})
        self.assert_told(name + " (drawn-" + name + ") is failed")

    def test_what_has_no_id_may_end_once_more_under_another(self):
        name = self.outcome.of("anonymous")[0].body["name"]
        key = witness.result_key("drawn-" + name)
        self.outcome.put(witness.result_key("again-" + name), json.loads(self.outcome.store[key]))
        self.outcome.ends.times[witness.result_key("again-" + name)] = 1
        self.assertEqual(self.outcome.found().problems, [])

    # --- cancels

    def test_cancels_that_were_dropped_are_noticed(self):
        single = self.outcome.of("cancelled in time")[0].id
        document = {"id": single, "status": "completed", "result": {"response": single}}
        self.outcome.put(witness.result_key(single), document)
        workflow = next(place for place in self.outcome.in_time if "/" in place)
        id, task = workflow.split("/")
        self.outcome.put(witness.result_key(id, task), {"id": task, "status": "completed", "result": {"response": id}})
        self.assert_told(single + " is completed, not cancelled", workflow + " is completed, not cancelled",
                         workflow + " is completed, and cancelled in its workflow")

    def test_a_cancel_that_was_confirmed_late_may_come_too_late(self):
        single = self.outcome.of("cancelled in time")[0].id
        number = next(number for number, item in enumerate(self.outcome.items)
                      if item.kind == "cancel command" and item.body["id"] == single)
        self.outcome.producers.accepted[number] += 45
        document = {"id": single, "status": "completed", "result": {"response": single}}
        self.outcome.put(witness.result_key(single), document)
        self.assertEqual(self.outcome.found().problems, [])

    def test_a_run_that_could_not_see_a_cancel_is_not_exact(self):
        for number in self.outcome.producers.accepted:
            self.outcome.producers.accepted[number] += 3600
        self.assert_told("no cancel was confirmed in time")

    # --- the witness of ends

    def test_a_deaf_witness_is_noticed(self):
        self.outcome.ends.times.clear()
        self.outcome.ends.first.clear()
        self.assert_told("the witness heard of 0 of %d ends only" % len(self.outcome.store))

    def test_a_witness_that_dies_is_noticed(self):
        with mock.patch.object(witness.Ends, "_hear", side_effect=KeyError("odd")):
            self.outcome.ends.start()
            self.outcome.ends.stop()
        self.assert_told("the witness of ends has died: KeyError('odd')")

    def test_a_change_of_what_was_not_announced_is_noticed(self):
        key = next(iter(self.outcome.store))
        del self.outcome.ends.times[key], self.outcome.ends.first[key]
        self.outcome.ends.look(self.outcome.store, [key])
        self.outcome.store[key] = self.outcome.store[key] + b" "
        self.assert_told(key + " has changed")

    def test_an_announced_end_that_is_not_there_is_noticed(self):
        self.outcome.ends.times["gleitzeit:{nobody}:result"] = 1
        self.assert_told("gleitzeit:{nobody}:result was there and is gone")

    # --- victims of our kills

    def given_up_with(self, *rows):
        id = self.outcome.of("appending")[0].id
        self.outcome.run(id, *rows)
        self.outcome.put(witness.result_key(id), {"status": "failed", "error": {"name": "WORKER_LOST"}})
        return id

    def test_a_task_whose_workers_we_killed_may_be_given_up(self):
        self.outcome.killed = {1: 101.0, 2: 201.0, 3: 301.0}
        id = self.given_up_with((1, 100.0, None), (2, 200.0, 200.5), (3, 300.0, None))
        found = self.outcome.found()
        self.assertEqual((found.problems, found.given_up), ([], [id]))

    def test_a_task_that_ended_long_before_we_killed_its_workers_may_not(self):
        self.outcome.killed = {1: 190.0, 2: 290.0, 3: 390.0}
        id = self.given_up_with((1, 100.0, 100.1), (2, 200.0, 200.1), (3, 300.0, 300.1))
        self.assert_told(id + " is failed, not completed")


class Letters(unittest.TestCase):
    def setUp(self):
        self.items = Outcome().of("garbage")
        self.found = ledger.Ledger()
        self.found.letters_due.update("lost-%d" % number for number in range(100))
        bodies = [base64.b64encode(item.body).decode() for item in self.items]
        self.letters = [("queue", {"id": id}) for id in self.found.letters_due]
        self.letters += [("queue", {"original": {"body_base64": body}}) for body in bodies]

    def problems(self, kills, disturbances):
        letters.compare(self.found, self.items, self.letters, kills, disturbances)
        return self.found.problems

    def test_a_few_repeats_are_what_faults_do(self):
        self.letters += self.letters[:4]
        self.assertEqual(self.problems(1, 4), [])

    def test_every_letter_twice_is_noticed(self):
        self.letters += self.letters
        self.assertIn("dead letters were written again, with 30 disturbances", self.problems(9, 30)[0])

    def test_one_letter_again_and_again_is_noticed(self):
        self.letters += self.letters[:1] * 5
        self.assertEqual(self.problems(2, 30), ["one death has 6 dead letters: lost-0"])


class Somebody:
    """Workers of which the only one comes up after some looks; what is done before is done to None."""

    def __init__(self, looks):
        self.looks = looks
        self.drained, self.killed, self.signals = [], [], []

    def pid(self, _):
        self.looks -= 1
        return 7 if self.looks < 0 else None

    def kill(self, number, _):
        self.killed.append(number if self.looks < 0 else None)
        return 7, 1.0

    def drain(self, number):
        self.drained.append(number if self.looks < 0 else None)

    def signal(self, _, what):
        self.signals.append(what if self.looks < 0 else None)
        return 7


class FaultsAndTimes(unittest.TestCase):
    def faults(self, looks):
        self.journal = mock.Mock()
        workers = Somebody(looks)
        file = Path(tempfile.gettempdir(), "no-such-executions")
        return workers, faults.Faults([], None, workers, None, self.journal, file)

    def test_a_worker_that_is_about_to_come_up_is_waited_for(self):
        for looks in (0, 5):
            workers, done = self.faults(looks)
            done.worker_drain(plan.Fault("worker-drain", 0, 0, 1, 1, False))
            self.assertEqual(workers.drained, [1])
            workers.looks = looks
            done.last(plan.Fault("broker-kill", 0, 0, 1, 1, True))
            self.assertEqual(workers.killed, [1])
            workers.looks = looks
            done.worker_freeze(plan.Fault("worker-freeze", 0, 0, 1, 1, False))
            self.assertEqual(workers.signals, [signal.SIGSTOP, signal.SIGCONT])
            self.journal.problem.assert_not_called()

    def test_a_fault_that_is_done_to_nobody_is_a_problem(self):
        with mock.patch.object(faults, "BUSY_WAIT_SECONDS", 0.05):
            workers, done = self.faults(10**6)
            done.worker_kill(plan.Fault("worker-kill", 0, 0, 1, 1, False))
        self.assertEqual((workers.killed, done.clean_kills), ([], []))
        self.journal.problem.assert_called_once_with("a fault is done to nobody", worker=1)

    def test_times_that_were_not_measured_are_wrong(self):
        self.assertEqual(len(list(report.judge({"worker-kill", "broker-stop"}, [[], []], []))), 2)
        self.assertEqual(list(report.judge({"worker-kill", "broker-kill"}, [[], [5.0]], [1.0])), [])
        self.assertEqual(list(report.judge({"cut-amqp"}, [], [])), [])


if __name__ == "__main__":
    unittest.main()
