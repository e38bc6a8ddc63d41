"""The private servers of a run, on top of stacklib, and what can be done to them."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

from stacklib import Failed, stack

from . import Broken, roles
from .cluster import Cluster

# `always`: what Redis answered is on disk. With `everysec` a write can be answered before it left the
# process, while an earlier fsync is under way; a kill -9 then takes it, and an exact ledger would not hold.
REDIS_CONF = ["appendfsync always"]
# Not the 30 minutes that would hide a delivery that nobody settles.
RABBITMQ_CONF = ["heartbeat = 10"]
CTL_SECONDS = 60


class Servers:
    def __init__(self, folder, release, journal, nodes=1, least_privilege=False):
        self._stack = stack.Stack(folder)
        self._release = release
        self._journal = journal
        self._nodes = nodes
        self._cluster = Cluster(folder, release, nodes, RABBITMQ_CONF) if nodes > 1 else None
        self._least_privilege = least_privilege
        self._gone = set()
        self._env = {}

    def start(self):
        stack.install(self._release, with_llama=False)
        redis_conf = REDIS_CONF + (roles.redis_conf() if self._least_privilege else [])
        options = {"redis_password": None, "rabbitmq_conf": RABBITMQ_CONF, "redis_conf": redis_conf}
        counts = {"rabbitmq": 0 if self._cluster else 1, "redis": 1}
        with self._stack.locked():
            self._stack.create(self._release, counts, options)
            self._quietly(self._stack.start)
        for line in self._stack.env_file().read_text().splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self._env[name] = value.strip("'")
        if self._cluster:
            self._quietly(self._cluster.start)
            for index, node in self._cluster.nodes.items():
                for name, value in node.variables().items():
                    self._env[name + ("" if index == 1 else "_%d" % index)] = value
        if self._least_privilege:
            roles.make_users(self.ctl)

    def purge(self):
        if self._cluster:
            self._cluster.purge()
        if self._stack.exists():
            with self._stack.locked():
                self._stack.purge()

    # --- addresses

    def nodes(self):
        """(host, port) of every broker node that is not lost for good."""
        return [_address(self._amqp(index)) for index in self._present()]

    def redis_address(self):
        return _address(self._env["GLEITZEIT_REDIS_URL"])

    def amqp_url(self, role=None, address=None):
        host, port = address or self.nodes()[0]
        return "amqp://%s@%s:%d/%%2f" % (self._login(role, "guest:guest"), host, port)

    def redis_url(self, role=None, address=None):
        host, port = address or self.redis_address()
        login = self._login(role, "")
        return "redis://%s%s:%d/0" % (login + "@" if login else "", host, port)

    def _login(self, role, otherwise):
        return roles.login(role) if self._least_privilege and role else otherwise

    def _amqp(self, index):
        return self._env["GLEITZEIT_AMQP_URL" + ("" if index == 1 else "_%d" % index)]

    def _present(self):
        return [index for index in range(1, self._nodes + 1) if index not in self._gone]

    def node(self, number):
        """A node that is there, counted round."""
        present = self._present()
        return present[(number - 1) % len(present)]

    # --- what can be done to them

    def ctl(self, *arguments, node=None):
        """rabbitmqctl's standard output."""
        index = node or self._present()[0]
        program = self._env["GLEITZEIT_STACK_RABBITMQCTL" + ("" if index == 1 else "_%d" % index)]
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CTL_SECONDS
        )
        if done.returncode != 0:
            raise Broken("rabbitmqctl %s: %s" % (" ".join(arguments), (done.stderr or done.stdout)[-500:]))
        return done.stdout

    def kill(self, kind, index=1):
        if self._clustered(kind):
            self._cluster.nodes[index].kill()
            return
        with self._stack.locked():
            self._quietly(self._stack.kill, kind, index)

    def lose(self, index):
        """Kills a node for good."""
        self.kill("rabbitmq", index)
        self._gone.add(index)

    def stop(self, kind, index=1):
        """Asks it to end, and waits until it has."""
        pid = self._pid(kind, index)
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 60
        while self._pid(kind, index, there=False) is not None:
            if time.monotonic() > until:
                raise Broken("%s %d does not end" % (kind, index))
            time.sleep(0.02)

    def restart(self, kind, index=1):
        """Starts it again with its data; answers when its port answered, and when it was ready."""
        probe = _Probe(self._port(kind, index), kind)
        if self._clustered(kind):
            self._quietly(self._cluster.restart, index)
            return probe.answered(), time.time()
        with self._stack.locked():
            self._quietly(self._stack.restart, kind, index)
        return probe.answered(), time.time()

    def freeze(self, kind, index=1):
        os.kill(self._pid(kind, index), signal.SIGSTOP)

    def thaw(self, kind, index=1):
        os.kill(self._pid(kind, index), signal.SIGCONT)

    def depths(self):
        """Messages of every queue, ready and held."""
        rows = self.ctl("-q", "list_queues", "name", "messages", "--no-table-headers").splitlines()
        pairs = [row.split("\t") for row in rows if "\t" in row]
        return {name: int(depth) for name, depth in pairs if depth.isdigit()}

    def require_replicas(self):
        """In a cluster every queue of ours must be on every node, else losing one would prove nothing."""
        if self._cluster is None:
            return
        for row in self.ctl("-q", "list_queues", "name", "members", "--no-table-headers").splitlines():
            name, _, members = row.partition("\t")
            if name.startswith("gleitzeit.") and members.count("@") != self._nodes:
                raise Broken("queue %s is on %s, not on %d nodes" % (name, members or "one node", self._nodes))

    def _clustered(self, kind):
        return self._cluster is not None and kind == "rabbitmq"

    def _servers(self):
        """By name: (pid or None, ports)."""
        found = {name: (pid, ports) for name, pid, ports in self._stack.status()}
        for index, node in self._cluster.nodes.items() if self._cluster else ():
            found["rabbitmq-%d" % index] = (node.pid(), node.ports)
        return found

    def _pid(self, kind, index, there=True):
        pid, _ = self._servers()["%s-%d" % (kind, index)]
        if pid is None and there:
            raise Broken("%s %d is not running" % (kind, index))
        return pid

    def _port(self, kind, index):
        _, ports = self._servers()["%s-%d" % (kind, index)]
        return ports["amqp" if kind == "rabbitmq" else "redis"]

    def _quietly(self, step, *arguments):
        """stacklib tells people of each start; here that belongs into the journal."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                step(*arguments)
        except Failed as error:
            raise Broken(str(error)) from None
        finally:
            for line in said.getvalue().splitlines():
                self._journal.note(line)


class _Probe:
    """Notes when a server first answers; must be made before it starts."""

    def __init__(self, port, kind):
        self._port = port
        self._hello = b"AMQP\x00\x00\x09\x01" if kind == "rabbitmq" else b"PING\r\n"
        self._at = None
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def answered(self):
        self._thread.join(120)
        return self._at

    def _look(self):
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self._port), 1) as link:
                    link.sendall(self._hello)
                    # A Redis that loads its data answers with an error until it has.
                    if link.recv(1) in (b"\x01", b"+"):
                        self._at = time.time()
                        return
            except OSError:
                pass
            time.sleep(0.02)


def _address(url):
    parts = urllib.parse.urlsplit(url)
    return parts.hostname, parts.port
