"""Three RabbitMQ nodes that are one cluster.

The nodes of a stack never meet: each has an epmd and a cookie of its own. Here they share both.
"""

import secrets
import shutil
import subprocess
import time

from stacklib import Failed, newer, rabbitmq
from stacklib.ports import Claims
from stacklib.process import Process
from stacklib.release import Distro, Next

from . import Broken


class Cluster:
    def __init__(self, folder, release, nodes, conf):
        self._folder = folder
        self._release = Distro() if release == "distro" else Next(newer.root())
        self._conf = conf
        self._epmd = Process(folder / "epmd.pid")
        self.nodes = {index: None for index in range(1, nodes + 1)}

    def start(self):
        """One node after the other, each into the cluster of the first."""
        claims, cookie = Claims(), secrets.token_hex(20)
        epmd = claims.take(["epmd"])
        for index in self.nodes:
            ports = {**claims.take([name for name in rabbitmq.PORTS if name != "epmd"]), **epmd}
            self.nodes[index] = _Node(self._folder, index, ports, self._release, self._conf, cookie, self._epmd)
            self.nodes[index].start()
            self._await(index)
        for index in list(self.nodes)[1:]:
            for words in (["stop_app"], ["reset"], ["join_cluster", "gleitzeit-1@localhost"], ["start_app"]):
                self._ctl(index, *words)

    def restart(self, index):
        self.nodes[index].start()
        self._await(index)

    def purge(self):
        for node in self.nodes.values():
            if node is not None:
                node.stop(grace_seconds=0)
                shutil.rmtree(node.folder, ignore_errors=True)
        self._epmd.stop(grace_seconds=0)

    def _await(self, index):
        node, until = self.nodes[index], time.monotonic() + rabbitmq.STARTUP_SECONDS
        while node.ready() is None:
            if node.pid() is None or time.monotonic() > until:
                raise Broken("node %d does not start: %s" % (index, node.log))
            time.sleep(0.1)

    def _ctl(self, index, *words):
        program = self.nodes[index].variables()["GLEITZEIT_STACK_RABBITMQCTL"]
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise Failed("rabbitmqctl %s: %s" % (" ".join(words), done.stderr[-1000:]))


class _Node(rabbitmq.RabbitMQ):
    def __init__(self, folder, index, ports, release, conf, cookie, epmd):
        super().__init__(folder / ("rabbitmq-%d" % index), index, ports, release, {"rabbitmq_conf": conf})
        self._epmd = epmd
        home = self.folder / "home"
        home.mkdir(parents=True)
        (home / ".erlang.cookie").write_text(cookie)
        (home / ".erlang.cookie").chmod(0o400)

    def stop(self, grace_seconds=20):
        """The node only: the others need the epmd."""
        self._node.stop(grace_seconds)


def kill_left(folder):
    """Ends what a run that was killed has left in `folder`."""
    for pid_file in [*folder.glob("rabbitmq-*/pid"), *folder.glob("epmd.pid")]:
        Process(pid_file).kill()
