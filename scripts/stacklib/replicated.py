"""Redis servers that know each other: replicas, Sentinels, the nodes of a Cluster."""

import socket
import time

from . import Failed
from .redis import PACKAGE, STARTUP_SECONDS, Redis

__all__ = ["PACKAGE", "PORTS", "STARTUP_SECONDS", "ClusterNode", "Replica", "Sentinel", "form_cluster"]

# The second one is the bus of a Cluster; others leave it alone.
PORTS = ("redis", "bus")

# What Sentinels call the first Redis server.
MASTER = "gleitzeit"

SLOTS = 16384


class Replica(Redis):
    """A replica of the first Redis server."""

    kind = "replica"

    def more_conf(self):
        lines = ["replicaof 127.0.0.1 %d" % self._peers["redis"][0]["redis"], "repl-diskless-sync-delay 0"]
        return lines + (["masterauth %s" % self._password] if self._password else [])

    def variables(self):
        return {}


class Sentinel(Redis):
    """One of those that watch over the first Redis server."""

    kind = "sentinel"
    arguments = ("--sentinel",)

    def start(self):
        conf = self.folder / "redis.conf"
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        inside = self._release.inside(self.folder)
        # A Sentinel keeps in this file what it has learned.
        if not conf.exists():
            quorum = len(self._peers["sentinel"]) // 2 + 1
            lines = [
                "bind 127.0.0.1",
                "port %d" % self.ports["redis"],
                "dir %s" % (inside / "data"),
                "sentinel monitor %s 127.0.0.1 %d %d" % (MASTER, self._peers["redis"][0]["redis"], quorum),
                "sentinel down-after-milliseconds %s 1000" % MASTER,
                "sentinel failover-timeout %s 5000" % MASTER,
            ]
            if self._password:
                lines.append("sentinel auth-pass %s %s" % (MASTER, self._password))
            conf.write_text("".join(line + "\n" for line in lines))
            conf.chmod(0o600)
        self._run(inside)

    def ready(self):
        """The version, once it knows the master and all of its own kind."""
        try:
            others = ask(self.ports["redis"], "SENTINEL", "SENTINELS", MASTER)
            replicas = ask(self.ports["redis"], "SENTINEL", "REPLICAS", MASTER)
            info = ask(self.ports["redis"], "INFO", "server")
        except (OSError, Failed):
            return None
        if len(others) < len(self._peers["sentinel"]) - 1 or len(replicas) < len(self._peers.get("replica", [])):
            return None
        version = [line for line in info.splitlines() if line.startswith("redis_version:")]
        return "Sentinel " + version[0].split(":")[1]

    def variables(self):
        if self.index > 1:
            return {}
        login = "default:%s@" % self._password if self._password else ""
        hosts = ",".join("127.0.0.1:%d" % ports["redis"] for ports in self._peers["sentinel"])
        return {"GLEITZEIT_TEST_SENTINEL_URL": "redis+sentinel://%s%s/%s" % (login, hosts, MASTER)}


class ClusterNode(Redis):
    """A node of the stack's Cluster."""

    kind = "cluster"

    def more_conf(self):
        lines = [
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            "cluster-node-timeout 2000",
            "cluster-port %d" % self.ports["bus"],
            "repl-diskless-sync-delay 0",
        ]
        return lines + (["masterauth %s" % self._password] if self._password else [])

    def ask(self, *words):
        return ask(self.ports["redis"], *words, password=self._password)

    def variables(self):
        if self.index > 1:
            return {}
        login = "default:%s@" % self._password if self._password else ""
        hosts = ",".join("127.0.0.1:%d" % ports["redis"] for ports in self._peers["cluster"])
        return {"GLEITZEIT_TEST_CLUSTER_URL": "redis+cluster://%s%s" % (login, hosts)}


def form_cluster(nodes):
    """Makes one Cluster of nodes that are none yet: the first half masters if there are six or more."""
    if not nodes or _is_formed(nodes):
        return
    masters = nodes[: len(nodes) // 2] if len(nodes) >= 6 else nodes
    if nodes[0].ask("CLUSTER", "INFO").find("cluster_slots_assigned:0") >= 0:
        for index, node in enumerate(masters):
            first, last = index * SLOTS // len(masters), (index + 1) * SLOTS // len(masters) - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.ports["redis"], node.ports["bus"])
        _until("the nodes to know each other", lambda: all(_knows(node) == len(nodes) for node in nodes))
        for index, node in enumerate(nodes[len(masters):]):
            node.ask("CLUSTER", "REPLICATE", masters[index % len(masters)].ask("CLUSTER", "MYID"))
    _until("the cluster to form", lambda: _is_formed(nodes))


def _is_formed(nodes):
    return all("cluster_state:ok" in node.ask("CLUSTER", "INFO") and _replicates(node) for node in nodes)


def _replicates(node):
    """A replica that has not synchronised yet cannot take over."""
    info = node.ask("INFO", "replication")
    return "role:master" in info or "master_link_status:up" in info


def _knows(node):
    return sum(" connected" in line for line in node.ask("CLUSTER", "NODES").splitlines())


def _until(what, done):
    until = time.monotonic() + STARTUP_SECONDS
    while not done():
        if time.monotonic() > until:
            raise Failed("waited %d s for %s" % (STARTUP_SECONDS, what))
        time.sleep(0.1)


def ask(port, *words, password=None):
    """One command to the server on a loopback port; its answer."""
    with socket.create_connection(("127.0.0.1", port), 2) as link:
        link.settimeout(5)
        answers = link.makefile("rb")
        if password:
            link.sendall(_command("AUTH", password))
            _answer(answers)
        link.sendall(_command(*words))
        return _answer(answers)


def _command(*words):
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _answer(stream):
    line = stream.readline().rstrip(b"\r\n").decode()
    kind, rest = line[:1], line[1:]
    if kind == "-":
        raise Failed("redis: %s" % rest)
    if kind == "$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == "*":
        return [_answer(stream) for _ in range(max(int(rest), 0))]
    return rest
