"""What is done to whom. One function per kind of plan.KINDS; each returns when its fault is over."""

import signal
import threading
import time

import pika
import redis

from . import Broken, plan, witness

# Workers must be consuming again within this after the broker's port answers; longer is waited for, and told.
CONSUMING_WAIT_SECONDS = 30
# Before a kill: the longest wait for a worker to be there, and for it to be busy.
BUSY_WAIT_SECONDS = 10


class Faults:
    """Does the plan's faults one after the other, and keeps what was measured."""

    def __init__(self, faults, servers, workers, links, journal, executions):
        self.done = []
        # (pid, when) of each worker killed while all else was well.
        self.clean_kills = []
        # When the broker was killed.
        self.broker_kills = []
        # Seconds from the broker's port answering until every worker consumes, by restart.
        self.consuming = []
        self._faults = faults
        self._servers = servers
        self._workers = workers
        self._links = links
        self._journal = journal
        self._executions = executions
        self._stop = threading.Event()

    def run(self):
        for number, fault in enumerate(self._faults, 1):
            if self._stop.wait(fault.pause):
                return
            self._journal.tell("fault %d/%d begins: %s" % (number, len(self._faults), fault))
            begin = time.time()
            try:
                _KINDS[fault.kind](self, fault)
            except Broken as error:
                self._journal.problem("a fault could not be done", kind=fault.kind, error=error)
            self._journal.note("fault ends", number=number, kind=fault.kind, seconds=round(time.time() - begin, 2))
            self.done.append(fault)
            self._stop.wait(plan.calm_after(fault))

    def stop(self):
        self._stop.set()

    def last(self, fault):
        """Its time; a worker dies in its middle if the plan says so."""
        if fault.with_kill:
            self._stop.wait(fault.seconds / 2)
            pid, _ = self._kill(fault.worker or 1, 0.5)
            self._journal.note("a worker is killed meanwhile", worker=fault.worker, pid=pid)
            self._stop.wait(fault.seconds / 2)
        else:
            self._stop.wait(fault.seconds)

    # --- workers

    def _is_there(self, number):
        """Waits for this worker: it may have died of a task, and what is done to nobody proves nothing."""
        until = time.monotonic() + BUSY_WAIT_SECONDS
        while self._workers.pid(number) is None:
            if time.monotonic() > until:
                self._journal.problem("a fault is done to nobody", worker=number)
                return False
            if self._stop.wait(0.01):
                return False
        return True

    def _kill(self, number, stay_away):
        """kill -9 of a worker that is there. Its pid, and when; the pid is None if there is none."""
        pid, at = None, time.time()
        while pid is None and self._is_there(number):
            # It may have died just now.
            pid, at = self._workers.kill(number, stay_away)
        return pid, at

    def worker_kill(self, fault):
        """At a moment when it runs something that tells of itself, so that its recovery can be seen."""
        until = time.monotonic() + BUSY_WAIT_SECONDS
        while time.monotonic() < until and not self._stop.wait(0.1):
            running = witness.running(witness.executions(self._executions), self._workers.pid(fault.worker))
            if running:
                break
        pid, at = self._kill(fault.worker, fault.seconds)
        if pid is not None:
            self.clean_kills.append((pid, at))
            self._journal.note("killed", worker=fault.worker, pid=pid)

    def worker_kill_all(self, fault):
        for number in self._workers.numbers():
            self._is_there(number)
        for number in self._workers.numbers():
            pid, _ = self._kill(number, fault.seconds)
            self._journal.note("killed", worker=number, pid=pid)

    def worker_drain(self, fault):
        self._is_there(fault.worker)
        seconds = self._workers.drain(fault.worker)
        self._journal.note("drained", worker=fault.worker, seconds=seconds and round(seconds, 2))

    def worker_freeze(self, fault):
        self._is_there(fault.worker)
        pid = self._workers.signal(fault.worker, signal.SIGSTOP)
        self.last(fault)
        # Only this very process: another one may have its place by now.
        if pid is not None and self._workers.pid(fault.worker) == pid:
            self._workers.signal(fault.worker, signal.SIGCONT)

    # --- the broker

    def broker_stop(self, fault):
        node = self._servers.node(fault.node)
        self._servers.stop("rabbitmq", node)
        self.last(fault)
        self._restart_broker(node)

    def broker_kill(self, fault):
        node = self._servers.node(fault.node)
        self.broker_kills.append(time.time())
        self._servers.kill("rabbitmq", node)
        self.last(fault)
        self._restart_broker(node)

    def _restart_broker(self, node):
        answered, _ = self._servers.restart("rabbitmq", node)
        self._measure_consuming(answered)

    def broker_freeze(self, fault):
        node = self._servers.node(fault.node)
        self._servers.freeze("rabbitmq", node)
        try:
            self.last(fault)
        finally:
            self._servers.thaw("rabbitmq", node)

    def broker_disconnect(self, fault):
        node = self._servers.node(fault.node)
        self._servers.ctl("close_all_connections", "chaos", node=node)

    def alarm_memory(self, fault):
        node = self._servers.node(fault.node)
        self._servers.ctl("set_vm_memory_high_watermark", "absolute", "1", node=node)
        try:
            self.last(fault)
        finally:
            self._servers.ctl("set_vm_memory_high_watermark", "absolute", "1GB", node=node)

    def alarm_disk(self, fault):
        node = self._servers.node(fault.node)
        self._servers.ctl("set_disk_free_limit", "100000GB", node=node)
        try:
            self.last(fault)
        finally:
            self._servers.ctl("set_disk_free_limit", "64MB", node=node)

    def node_lost(self, fault):
        node = self._servers.node(fault.node)
        self._servers.lose(node)
        self._journal.note("lost for good", node=node)

    # --- Redis

    def redis_kill(self, fault):
        self._servers.kill("redis")
        self.last(fault)
        self._servers.restart("redis")

    def redis_restart(self, fault):
        self._servers.stop("redis")
        self.last(fault)
        self._servers.restart("redis")

    def redis_freeze(self, fault):
        self._servers.freeze("redis")
        try:
            self.last(fault)
        finally:
            self._servers.thaw("redis")

    def redis_full(self, fault):
        with self._redis() as client:
            client.config_set("maxmemory", 1)
            try:
                self.last(fault)
            finally:
                client.config_set("maxmemory", 0)

    def redis_disconnect(self, fault):
        with self._redis() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def redis_forget_scripts(self, fault):
        with self._redis() as client:
            client.script_flush()

    def _redis(self):
        return redis.Redis.from_url(self._servers.redis_url(), socket_timeout=10)

    # --- the network

    def wire(self, fault):
        mode, server = fault.kind.split("-")
        numbers = self._workers.numbers() if fault.worker is None else [fault.worker]
        names = ["%d.%s" % (number, server) for number in numbers]
        for name in names:
            self._links.set(name, mode)
        try:
            self.last(fault)
        finally:
            for name in names:
                self._links.set(name, "pass")

    # --- measuring

    def _measure_consuming(self, answered):
        """How long after the port answered every worker consumes again, looked at each 50 ms."""
        until = time.monotonic() + CONSUMING_WAIT_SECONDS
        while time.monotonic() < until and not self._stop.is_set():
            try:
                if self._all_consume():
                    seconds = round(time.time() - answered, 2)
                    self.consuming.append(seconds)
                    self._journal.note("consuming again", seconds=seconds)
                    return
            except Exception:  # pika's many ways to say that the broker is not quite there.
                time.sleep(0.05)
        if not self._stop.is_set():
            self.consuming.append(float(CONSUMING_WAIT_SECONDS))
            self._journal.problem("workers do not consume again", within_seconds=CONSUMING_WAIT_SECONDS)

    def _all_consume(self):
        for address in self._servers.nodes():
            parameters = pika.URLParameters(self._servers.amqp_url(address=address))
            parameters.socket_timeout = 2
            connection = pika.BlockingConnection(parameters)
            break
        try:
            channel = connection.channel()
            until = time.monotonic() + 5
            while time.monotonic() < until:
                there = channel.queue_declare("gleitzeit.tasks.echo.v1", passive=True).method.consumer_count
                if there >= self._workers.running() > 0:
                    return True
                time.sleep(0.05)
        finally:
            connection.close()
        return False


_KINDS = {
    "worker-kill": Faults.worker_kill,
    "worker-kill-all": Faults.worker_kill_all,
    "worker-drain": Faults.worker_drain,
    "worker-freeze": Faults.worker_freeze,
    "broker-stop": Faults.broker_stop,
    "broker-kill": Faults.broker_kill,
    "broker-freeze": Faults.broker_freeze,
    "broker-disconnect": Faults.broker_disconnect,
    "redis-kill": Faults.redis_kill,
    "redis-restart": Faults.redis_restart,
    "redis-freeze": Faults.redis_freeze,
    "redis-full": Faults.redis_full,
    "redis-disconnect": Faults.redis_disconnect,
    "redis-forget-scripts": Faults.redis_forget_scripts,
    "cut-amqp": Faults.wire,
    "cut-redis": Faults.wire,
    "silent-amqp": Faults.wire,
    "silent-redis": Faults.wire,
    "slow-amqp": Faults.wire,
    "slow-redis": Faults.wire,
    "alarm-memory": Faults.alarm_memory,
    "alarm-disk": Faults.alarm_disk,
    plan.FOR_GOOD: Faults.node_lost,
}
