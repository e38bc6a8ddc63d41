"""Does the ledger notice? Harms the outcome of a run without faults in every way that it must see."""

import json
import time

import pika
import redis

from . import ledger, letters, witness
from .run import Run as WholeRun


# More of one letter than crashes could have written.
COPIES = 10


class Run(WholeRun):
    """Exit code 0 if each harm was noticed, and nothing else."""

    def _compare(self):
        unharmed = super()._compare()
        expected = self._harm()
        time.sleep(1)
        self.ends.stop()
        found = self._ledger()[0].problems
        print("\nharmed on purpose:")
        missed = [what for what, part in expected.items() if not any(part in problem for problem in found)]
        others = [problem for problem in found if not any(part in problem for part in expected.values())]
        for what in expected:
            print("  %s: %s" % (what, "NOT noticed" if what in missed else "noticed"))
        for problem in others:
            print("  unexpected: " + problem)
        return 1 if unharmed or missed or others else 0

    def _stop_listening(self):
        """Not yet: one harm is an announcement."""

    def _harm(self):
        """What was done, and a part of what the ledger must say of it."""
        plain = [item.id for item in self.plan.items if item.kind == "plain" and item.via == "amqp"]
        told = next(item.id for item in self.plan.items if item.kind == "appending")
        failed, often = [item.id for item in self.plan.items if item.kind == "hopeless"][:2]
        nameless = next(item.body["name"] for item in self.plan.items if item.kind == "anonymous")
        in_time = sorted(ledger.places_cancelled_in_time(self.plan.items, self.producers))
        uncancelled = next(place for place in in_time if "/" not in place and not place.startswith("flow"))
        keys = [witness.result_key(id) for id in plain[:4]]
        with redis.Redis.from_url(self.servers.redis_url()) as client:
            client.delete(keys[0])
            _change(client, keys[1], b'"completed"', b'"failed"')
            _change(client, keys[2], plain[2].encode() + b'"}', b'another"}')
            client.publish("%s:done:%s" % (witness.PREFIX, plain[3]), keys[3])
            client.set(witness.result_key("stranger"), '{"status":"completed"}')
            _change(client, witness.result_key(uncancelled), b'"cancelled"', b'"completed"')
            found = witness.documents(client, witness.result_keys(client))
            for key in [key for key, (document, _) in found.items() if document.get("name") == nameless]:
                client.delete(key)
        with open(self.folder / "executions", "a") as lines:
            lines.write("%s 1 %.3f start\n" % (told, time.time()))
        self._move_a_letter(failed, often)
        return {
            "a result is gone": "no end: plain %s" % plain[0],
            "a task failed": "%s is failed" % plain[1],
            "a result is wrong": "%s has the result" % plain[2],
            "an end is recorded twice": "%s was recorded 2 times" % keys[3],
            "a task that nobody asked for": "nobody asked for %s" % witness.result_key("stranger"),
            "an execution without a record": "%s was executed 2 times" % told,
            "a dead letter is gone": "no dead letter of %s" % failed,
            "a dead letter too many": "nobody expects a dead letter of stranger",
            "one death has many dead letters": "one death has %d dead letters: %s" % (COPIES + 1, often),
            "dead letters are repeated without a reason": "dead letters were written again",
            "a cancel is lost": "%s is completed, not cancelled" % uncancelled,
            "the end of what has no id is gone": "no end: anonymous %s" % nameless,
            "those are the results that are gone": "was there and is gone",
            "results change": "has changed after it was recorded",
        }

    def _move_a_letter(self, id, often):
        connection = pika.BlockingConnection(pika.URLParameters(self.servers.amqp_url()))
        channel = connection.channel()
        for queue in sorted(self.servers.depths()):
            if not queue.startswith(letters.DEAD):
                continue
            while (got := channel.basic_get(queue))[0] is not None:
                if json.loads(got[2]).get("id") == id:
                    channel.basic_ack(got[0].delivery_tag)
        channel.basic_publish("", "gleitzeit.dead.echo.v1", json.dumps({"id": "stranger"}))
        for _ in range(COPIES):
            channel.basic_publish("", "gleitzeit.dead.echo.v1", json.dumps({"id": often}))
        connection.close()


def _change(client, key, old, new):
    client.set(key, client.get(key).replace(old, new))
