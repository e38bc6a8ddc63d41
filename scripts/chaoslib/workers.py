"""Worker processes, each with wires of its own, and the supervisor that starts them again."""

import os
import signal
import subprocess
import threading
import time

PROTOCOLS = ("echo/v1", "python/v1")
# An operator's supervisor waits a moment too.
RESTART_SECONDS = 0.5
DRAIN_SECONDS = 45
SERVERS_AWAY = 4


class Workers:
    def __init__(self, programs, servers, links, folder, journal, count, concurrency, settings):
        """Of several programs, that is of several versions, the workers take turns."""
        self._journal = journal
        self._deaths = []
        # By us, with kill -9: when, by pid.
        self.killed = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._all = [
            _Worker(number, programs[number % len(programs)], servers, links, folder, concurrency, settings)
            for number in range(1, count + 1)
        ]
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self):
        self._thread.start()

    def stop(self):
        """Drains all, and says so if one does not end well."""
        for worker in self._all:
            self.drain(worker.number, again=False)
        self._stop.set()
        self._thread.join()
        for worker in self._all:
            worker.end()

    def abandon(self):
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for worker in self._all:
            worker.end()

    def numbers(self):
        return [worker.number for worker in self._all]

    def running(self):
        return sum(1 for worker in self._all if worker.pid() is not None)

    def pid(self, number):
        return self._of(number).pid()

    def kill(self, number, stay_away):
        """kill -9, and away for some seconds. The pid, and when."""
        worker = self._of(number)
        with self._lock:
            pid = worker.pid()
            if pid is None:
                return None, time.time()
            worker.not_before = time.monotonic() + stay_away
            worker.killed = True
            os.kill(pid, signal.SIGKILL)
            self.killed[pid] = time.time()
            return pid, self.killed[pid]

    def signal(self, number, what):
        pid = self.pid(number)
        if pid is not None:
            os.kill(pid, what)
        return pid

    def drain(self, number, again=True):
        """SIGTERM, and waits for its end; answers how many seconds that took, None if it was not there."""
        worker = self._of(number)
        with self._lock:
            pid = worker.pid()
            worker.wanted = False
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
        begin = time.monotonic()
        while worker.pid() == pid and pid is not None:
            if time.monotonic() - begin > DRAIN_SECONDS:
                self._journal.problem("a worker does not drain", worker=number, pid=pid)
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.02)
        if pid is not None:
            code = worker.code()
            # A poisonous task may kill it in its drain; it may just have come up without servers.
            if code not in (0, -signal.SIGKILL, SERVERS_AWAY):
                self._journal.problem("a drained worker ends badly", worker=number, code=code)
        worker.wanted = again
        return None if pid is None else time.monotonic() - begin

    def deaths(self):
        """Ends by a signal that nobody of us sent: what poison does."""
        return list(self._deaths)

    def _of(self, number):
        return self._all[(number - 1) % len(self._all)]

    def _supervise(self):
        """Starts what is wanted. The only thread that starts workers: they die with it."""
        while not self._stop.wait(0.02):
            for worker in self._all:
                with self._lock:
                    self._look_after(worker)

    def _look_after(self, worker):
        code = worker.reap()
        if code is not None:
            if worker.wanted and not worker.killed:
                self._deaths += [code] if code == -signal.SIGKILL else []
                self._journal.note("a worker died", worker=worker.number, code=code)
                # A worker that comes up while its servers are away says so and ends, as every command does.
                if code not in (-signal.SIGKILL, SERVERS_AWAY):
                    self._journal.problem("a worker ended by itself", worker=worker.number, code=code)
            worker.killed = False
            worker.not_before = max(worker.not_before, time.monotonic() + RESTART_SECONDS)
        if worker.wanted and worker.pid() is None and time.monotonic() >= worker.not_before:
            pid = worker.begin()
            self._journal.note("a worker starts", worker=worker.number, pid=pid)


class _Worker:
    def __init__(self, number, program, servers, links, folder, concurrency, settings):
        self.number = number
        self.wanted = True
        self.killed = False
        self.not_before = 0.0
        self._process = None
        self._code = None
        amqp = links.open("%d.amqp" % number, servers.nodes())
        redis = links.open("%d.redis" % number, [servers.redis_address()])
        # Without setpriv's death signal a killed run would leave its workers behind.
        self._argv = ["setpriv", "--pdeathsig", "KILL", program, "worker", "--concurrency", str(concurrency)]
        for protocol in PROTOCOLS:
            self._argv += ["--protocol", protocol]
        self._env = environment(
            folder, servers.amqp_url("worker", ("127.0.0.1", amqp)), servers.redis_url("worker", ("127.0.0.1", redis)),
            settings,
        )
        self._log = folder / ("worker-%d.log" % number)

    def begin(self):
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self._process.pid

    def pid(self):
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def reap(self):
        """The exit code, once."""
        if self._process is None or self._process.poll() is None:
            return None
        self._code, self._process = self._process.returncode, None
        return self._code

    def code(self):
        until = time.monotonic() + 5
        while self._process is not None and time.monotonic() < until:
            time.sleep(0.01)
        return self._code

    def end(self):
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def settings_of(arguments):
    """What the run's options mean for every process of ours."""
    settings = {}
    if arguments.queues:
        settings["GLEITZEIT_QUEUES_TYPE"] = arguments.queues
    return settings


def environment(folder, amqp, redis, settings):
    """Nothing of the caller's own configuration reaches the run."""
    nowhere = folder / "nowhere"
    nowhere.mkdir(exist_ok=True)
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(nowhere),
        "XDG_CONFIG_HOME": str(nowhere),
        "GLEITZEIT_AMQP_URL": amqp,
        "GLEITZEIT_REDIS_URL": redis,
        "GLEITZEIT_LOG_LEVEL": "info",
        **settings,
    }
