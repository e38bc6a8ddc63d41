"""A whole run: servers, workers, load and faults; then rest; then the comparison."""

import subprocess
import threading
import time

import redis

from . import Broken, ledger, letters, plan, report, witness
from .faults import Faults
from .journal import Journal
from .links import Links
from .producers import Producers
from .servers import Servers
from .witness import Ends
from .workers import Workers, environment, settings_of

# After the last fault and the last message: the longest a task may wait for its turn once more
# (a minute for one that is held, 40 s of delay, 30 s of a connection that is found dead) with room.
REST_SECONDS = 300
PROGRESS_SECONDS = 15
# For how long the broker may refuse to tell of its queues when all is at rest.
DEPTHS_SECONDS = 180


class Run:
    def __init__(self, arguments, chosen, folder, servers_folder):
        self.arguments = arguments
        self.plan = chosen
        self.folder = folder
        self.journal = Journal(folder / "journal")
        (folder / "counts").mkdir()
        nodes = 3 if arguments.cluster else 1
        self.servers = Servers(servers_folder, arguments.release, self.journal, nodes, arguments.least_privilege)
        self.settings = settings_of(arguments)
        if arguments.least_privilege:
            self.settings["GLEITZEIT_AMQP_DECLARE"] = "check"
        self.links = None
        self.workers = None
        self.producers = None
        self.faults = None
        self.ends = None

    def go(self):
        """Exit code 0 if the ledger is exact, else 1."""
        for line in self.plan.lines():
            print(line)
            self.journal.note(line)
        self._start()
        self._let_it_run()
        rested = self._rest()
        self.journal.note("rested", rested=rested)
        return self._compare()

    def end(self, purge):
        """Stops everything, however far it came."""
        for part in (self.faults, self.producers):
            if part is not None:
                part.stop()
        if self.workers is not None:
            self.workers.abandon()
        if self.ends is not None:
            self.ends.stop()
        if self.links is not None:
            self.links.close()
        if purge:
            self.servers.purge()

    def _start(self):
        arguments = self.arguments
        self.servers.start()
        self._declare()
        self.links = Links()
        self.ends = Ends(self.servers.redis_url(), self.journal)
        self.ends.start()
        programs = [one for one in (arguments.program, arguments.beside) if one]
        self.workers = Workers(
            programs, self.servers, self.links, self.folder, self.journal, arguments.workers,
            arguments.concurrency, self.settings,
        )
        self.faults = Faults(self.plan.faults, self.servers, self.workers, self.links, self.journal,
                             self.folder / "executions")
        self.producers = Producers(
            self.servers, arguments.program, self.folder, self.journal, self.plan.items, self.plan.seconds,
            self.settings,
        )

    def _declare(self):
        """As an operator does it, before anybody else comes."""
        operator = environment(self.folder, self.servers.amqp_url(), self.servers.redis_url(), settings_of(self.arguments))
        done = subprocess.run(
            [self.arguments.program, "topology", "apply"], env=operator, capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise Broken("gleitzeit topology apply: %s" % done.stderr[-1000:])
        self.servers.require_replicas()

    def _let_it_run(self):
        self.workers.start()
        self.producers.start()
        doing = threading.Thread(target=self._do_faults, daemon=True)
        doing.start()
        told = time.monotonic()
        while doing.is_alive() or self.producers.busy():
            time.sleep(0.1)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                self._progress()

    def _do_faults(self):
        try:
            self.faults.run()
        except Exception as error:
            self.journal.problem("the faults ended early", error=repr(error))

    def _progress(self):
        accepted = len(self.producers.accepted)
        self.journal.tell("so far", accepted="%d/%d" % (accepted, len(self.plan.items)), ends=self.ends.heard())

    def _rest(self):
        """Waits until all that was accepted has ended and no queue but those of the dead holds anything."""
        keys = [witness.result_key(item.id) for number, item in enumerate(self.plan.items)
                if item.id is not None and number in self.producers.accepted]
        until = time.monotonic() + REST_SECONDS
        told = 0
        names = []
        while time.monotonic() < until:
            try:
                keys = self._open(keys)
                depths = {} if keys else self._busy_queues()
                names = [] if keys or depths else self._open_names()
            except (redis.RedisError, OSError, Broken, subprocess.TimeoutExpired) as error:
                self.journal.note("cannot look", error=repr(error)[:200])
                time.sleep(1)
                continue
            if not keys and not depths and not names:
                self.journal.tell("at rest")
                return True
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                self.journal.tell("waiting for rest", open=len(keys or names), for_example=(keys or names)[:1],
                                  queues=depths)
            time.sleep(1)
        self.journal.problem("no rest", within_seconds=REST_SECONDS, open=len(keys or names),
                             for_example=(keys or names)[:5], queues=self._busy_queues())
        return False

    def _open(self, keys):
        with redis.Redis.from_url(self.servers.redis_url(), socket_timeout=10) as client:
            answer = []
            for at in range(0, len(keys), 1000):
                part = keys[at:at + 1000]
                pipeline = client.pipeline(transaction=False)
                for key in part:
                    pipeline.exists(key)
                there = dict(zip(part, pipeline.execute()))
                answer += [key for key in part if not there[key]]
                self.ends.look(client, [key for key in part if there[key]])
            return answer

    def _open_names(self):
        """What was accepted without an id, and has no end yet."""
        names = {item.body["name"] for number, item in enumerate(self.plan.items)
                 if item.kind == "anonymous" and number in self.producers.accepted}
        with redis.Redis.from_url(self.servers.redis_url(), socket_timeout=10) as client:
            found = witness.documents(client, witness.result_keys(client))
        return sorted(names - {document.get("name") for document, _ in found.values()})

    def _depths(self):
        """Of all queues; a cluster that has lost a node may need several tries to tell."""
        until = time.monotonic() + DEPTHS_SECONDS
        while True:
            try:
                return self.servers.depths()
            except (Broken, subprocess.TimeoutExpired) as error:
                if time.monotonic() > until:
                    raise
                self.journal.note("cannot look", error=repr(error)[:200])

    def _busy_queues(self):
        depths = self.servers.depths()
        return {
            name: depth for name, depth in depths.items()
            if depth and name.startswith("gleitzeit.") and (not name.startswith(letters.DEAD) or name == letters.INBOX)
        }

    def _compare(self):
        # What is told of last is still on its way.
        time.sleep(1)
        deaths = self.workers.deaths()
        self.workers.stop()
        self._stop_listening()
        found, count, repeated, lines = self._ledger()
        recoveries = witness.recoveries(lines, self.faults.clean_kills, found.given_up)
        kinds = {fault.kind for fault in self.plan.faults}
        problems = self.journal.problems() + list(report.judge(kinds, recoveries, self.faults.consuming))
        with redis.Redis.from_url(self.servers.redis_url()) as client:
            redis_version = client.info("server")["redis_version"]
        versions = "RabbitMQ %s, Redis %s" % (self.servers.ctl("version").strip(), redis_version)
        text = list(report.lines(found, self.plan, self.faults, recoveries, count, repeated, deaths, problems,
                                 self.folder, versions))
        text += report.log_summary(self.folder)
        (self.folder / "report").write_text("\n".join(text) + "\n")
        print("\n".join(text), flush=True)
        return 1 if problems or found.problems else 0

    def _stop_listening(self):
        self.ends.stop()

    def _ledger(self):
        """The ledger, the number of dead letters, how many of these are repeats, and the executions."""
        lines = witness.executions(self.folder / "executions")
        status = ledger.Status(self.arguments.program, self.servers, self.folder, self.settings)
        with redis.Redis.from_url(self.servers.redis_url(), socket_timeout=30) as client:
            found = ledger.compare(self.plan.items, self.producers, client, self.ends, lines,
                                   self.workers.killed, self.faults.broker_kills, status)
        all_letters = letters.read(self.servers, self._depths())
        kills = len(self.workers.killed)
        disturbances = len(self.faults.done) + len(self.workers.deaths())
        count, repeated = letters.compare(found, self.plan.items, all_letters, kills, disturbances)
        return found, count, repeated, lines
