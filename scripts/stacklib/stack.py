"""A stack: some RabbitMQ nodes and Redis servers in one folder.

    DIR/stack.json      what the stack consists of, and its ports
    DIR/env             the URLs, to be sourced
    DIR/rabbitmq-1/     conf, data, log, pid, rabbitmqctl
    DIR/redis-1/        conf, data, log, pid; replica-1, sentinel-1 and cluster-1 the same
    DIR/llama-1/        model, log, pid
"""

import contextlib
import fcntl
import json
import shlex
import shutil
import sys
import time

from . import Failed, debian, llama, newer, rabbitmq, redis, replicated
from .ports import Claims
from .release import Distro, Next

_KINDS = {
    "rabbitmq": (rabbitmq, rabbitmq.RabbitMQ),
    "redis": (redis, redis.Redis),
    "replica": (replicated, replicated.Replica),
    "sentinel": (replicated, replicated.Sentinel),
    "cluster": (replicated, replicated.ClusterNode),
    "llama": (llama, llama.Llama),
}

# What a stack is made of where nothing is said.
DEFAULT_COUNTS = {"rabbitmq": 1, "redis": 1, "replica": 0, "sentinel": 0, "cluster": 0, "llama": 0}


class Stack:
    def __init__(self, folder):
        self.folder = folder

    @property
    def _state_file(self):
        return self.folder / "stack.json"

    def exists(self):
        return self._state_file.exists()

    def release_name(self):
        return self._state()["release"] if self.exists() else None

    def has_llama(self):
        return self.exists() and bool(self._state()["counts"].get("llama"))

    @contextlib.contextmanager
    def locked(self):
        """One command at a time per stack."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def create(self, release_name, counts, options):
        """Decides what the stack consists of. Ports are chosen when servers start."""
        servers = [
            {"kind": kind, "index": index, "ports": {}}
            for kind, count in counts.items()
            for index in range(1, count + 1)
        ]
        self._save({"release": release_name, "counts": counts, "options": options, "servers": servers})

    def require_same(self, release_name, counts, options):
        """An existing stack keeps what it was made of: refuses anything else."""
        state = self._state()
        asked = {"release": release_name, **counts, **options}
        made_of = {"release": state["release"], **DEFAULT_COUNTS, **state["counts"], **state["options"]}
        differing = [name for name, value in asked.items() if value is not None and value != made_of[name]]
        if differing:
            raise Failed("%s exists with another %s; stop --purge it first" % (self.folder, ", ".join(differing)))

    def start(self):
        """Starts what is not running and waits until all of it serves."""
        state = self._state()
        release = _release(state)
        claims = Claims()
        for entry in state["servers"]:
            server = _server(self.folder, entry, release, state)
            if server.pid() is not None:
                continue
            server.stop()  # The epmd that a killed node has left.
            # The same ports again where possible, so that clients find their servers.
            if not entry["ports"] or not claims.hold(entry["ports"].values()):
                entry["ports"] = claims.take(_KINDS[entry["kind"]][0].PORTS)
        self._save(state)
        servers = self._servers(state)
        fresh = [server for server in servers if server.pid() is None]
        try:
            for server in fresh:
                server.start()
            self._await(servers)
            replicated.form_cluster([server for server in servers if server.kind == "cluster"])
        except BaseException:
            for server in fresh:
                server.stop()
            raise
        self._write_env(servers, state)

    def stop(self):
        """Stops every server that runs. A second stop finds nothing to do."""
        for server in self._servers(self._state()):
            server.stop()

    def purge(self):
        """Stops at once, since no data is to be saved, and deletes the folder."""
        for server in self._servers(self._state()):
            server.stop(grace_seconds=0)
            shutil.rmtree(server.folder, ignore_errors=True)
        for file in (self._state_file, self.env_file(), self.folder / "lock"):
            file.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def kill(self, kind, index):
        """kill -9, to see what a crash does."""
        for server in self._pick(kind, index):
            server.kill()

    def restart(self, kind, index):
        """On the same ports and data: after `kill`, or stopping it first."""
        picked = self._pick(kind, index)
        claims = Claims()
        for server in picked:
            server.stop()
            if not claims.hold(server.ports.values()):
                raise Failed("a port of %s is taken by something else: %s" % (_label(server), server.ports))
        for server in picked:
            server.start()
        self._await(picked)

    def status(self):
        """(name, pid or None, ports) of every server."""
        return [(_label(server), server.pid(), server.ports) for server in self._servers(self._state())]

    def env_file(self):
        return self.folder / "env"

    def _pick(self, kind, index):
        found = [
            server for server in self._servers(self._state())
            if server.kind == kind and index in (None, server.index)
        ]
        if not found:
            raise Failed("this stack has no such %s" % kind)
        return found

    def _servers(self, state):
        release = _release(state)
        return [_server(self.folder, entry, release, state) for entry in state["servers"]]

    def _await(self, servers):
        begin = time.monotonic()
        for server in servers:
            until = begin + _KINDS[server.kind][0].STARTUP_SECONDS
            while (version := server.ready()) is None:
                if server.pid() is None:
                    raise Failed("%s ended while starting:\n%s" % (_label(server), _tail(server.log)))
                if time.monotonic() > until:
                    raise Failed("%s does not answer:\n%s" % (_label(server), _tail(server.log)))
                time.sleep(0.1)
            seconds = time.monotonic() - begin
            print("%s: %s, ready after %.1f s" % (_label(server), version, seconds), file=sys.stderr)

    def _write_env(self, servers, state):
        """The first server of a kind has the plain name, further ones end in _2, _3, ..."""
        variables = {"GLEITZEIT_STACK_DIR": str(self.folder), "GLEITZEIT_STACK_RELEASE": state["release"]}
        for server in servers:
            suffix = "" if server.index == 1 else "_%d" % server.index
            for name, value in server.variables().items():
                variables[name + suffix] = value
        lines = ["export %s=%s\n" % (name, shlex.quote(value)) for name, value in variables.items()]
        self.env_file().write_text("".join(lines))

    def _state(self):
        if not self.exists():
            raise Failed("no stack in %s" % self.folder)
        return json.loads(self._state_file.read_text())

    def _save(self, state):
        self._state_file.write_text(json.dumps(state, indent=2) + "\n")


def _release(state):
    if state["release"] == "distro":
        return Distro()
    return Next(newer.root())


def _server(folder, entry, release, state):
    make = _KINDS[entry["kind"]][1]
    name = "%s-%d" % (entry["kind"], entry["index"])
    # Some servers must know others: a replica its master, a Sentinel both.
    peers = {}
    for one in state["servers"]:
        peers.setdefault(one["kind"], []).append(one["ports"])
    options = {**state["options"], "peers": peers}
    return make(folder / name, entry["index"], entry["ports"], release, options)


def _label(server):
    return "%s-%d" % (server.kind, server.index)


def _tail(log):
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    except OSError:
        return "(no log at %s)" % log


def install(release_name, with_llama):
    """Makes the servers' programs present: packages here, or a newer root."""
    packages = sorted({module.PACKAGE for kind, (module, _) in _KINDS.items() if kind != "llama"})
    if release_name == "distro":
        debian.require(packages)
    else:
        newer.build(packages)
    if with_llama:
        newer.build([llama.PACKAGE], llama.ROOT)
