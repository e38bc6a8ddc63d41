"""One private RabbitMQ node.

Debian's wrapper changes to the system's folders and to the user `rabbitmq`; the
server's own script is run instead, with every path of the node in its data folder.
The node has an epmd of its own, so that nodes of different stacks never meet and
stopping one cannot disturb another.
"""

import base64
import json
import os
import secrets
import shlex
import socket
import urllib.request

from .process import Process

PORTS = ("amqp", "distribution", "epmd", "management")
PACKAGE = "rabbitmq-server"
STARTUP_SECONDS = 120
_SBIN = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/"

# Absolute limits: relative ones refuse to start, or block publishers, on small machines.
_CONF = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 64MB
log.file.level = info
"""


class RabbitMQ:
    kind = "rabbitmq"

    def __init__(self, folder, index, ports, release, options):
        self.folder = folder
        self.index = index
        self.ports = ports
        self._release = release
        self._extra_conf = options["rabbitmq_conf"] or []
        self._node = Process(folder / "pid")
        self._epmd = Process(folder / "epmd.pid")

    def pid(self):
        return self._node.pid()

    @property
    def log(self):
        return self.folder / "log" / "output"

    def start(self):
        """Starts epmd and the node; `ready` tells when it serves."""
        self._write_files()
        env = self._environment()
        if self._epmd.pid() is None:
            epmd = [self._release.program("usr/bin/epmd"), "-port", self.ports["epmd"], "-address", "127.0.0.1"]
            self._epmd.start(self._release.command(epmd, self.folder), env, self.folder, self.folder / "log" / "epmd")
        server = self._release.command([self._release.program(_SBIN + "rabbitmq-server")], self.folder)
        self._node.start(server, env, self.folder, self.log)

    def ready(self):
        """The version, once both AMQP and the management API answer; else None."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports["amqp"]), 2) as link:
                link.sendall(b"AMQP\x00\x00\x09\x01")
                if link.recv(1) != b"\x01":
                    return None
            overview = self._overview()
        except (OSError, ValueError):
            return None
        return "RabbitMQ %s on Erlang %s" % (overview["rabbitmq_version"], overview["erlang_version"])

    def stop(self, grace_seconds=20):
        self._node.stop(grace_seconds)
        self._epmd.stop(grace_seconds)

    def kill(self):
        """kill -9 for the node; its epmd stays, as it would on a real machine."""
        self._node.kill()

    def variables(self):
        return {
            "GLEITZEIT_AMQP_URL": "amqp://guest:guest@127.0.0.1:%d/%%2f" % self.ports["amqp"],
            "GLEITZEIT_RABBITMQ_API": self._api(),
            "GLEITZEIT_STACK_RABBITMQCTL": str(self.folder / "rabbitmqctl"),
            "GLEITZEIT_STACK_RABBITMQ_PID_FILE": str(self._node.pid_file),
        }

    def _api(self):
        return "http://127.0.0.1:%d" % self.ports["management"]

    def _overview(self):
        request = urllib.request.Request(self._api() + "/api/overview")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        # A proxy of the environment must not stand between us and loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=2) as answer:
            return json.load(answer)

    def _environment(self):
        """Nothing of the caller's environment: a stray RABBITMQ_* must not reach the node."""
        data = self._release.inside(self.folder)
        schedulers = min(os.cpu_count() or 1, 4)
        quiet = "+S {0}:{0} +sbwt none +sbwtdcpu none +sbwtdio none".format(schedulers)
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": str(data / "home"),
            "ERL_EPMD_PORT": str(self.ports["epmd"]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "gleitzeit-%d@localhost" % self.index,
            "RABBITMQ_NODE_PORT": str(self.ports["amqp"]),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.ports["distribution"]),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(data / "conf" / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(data / "conf" / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "conf" / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(data / "data"),
            "RABBITMQ_LOG_BASE": str(data / "log"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(data / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(data / "conf" / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(data / "conf" / "schema"),
            "RABBITMQ_PID_FILE": str(data / "node.pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": quiet + " " + loopback,
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            # For every erl below: rabbitmqctl called while all is stopped would leave an epmd behind.
            "ERL_ZFLAGS": "-start_epmd false",
            # The script then becomes the node instead of watching over it: our pid is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write_files(self):
        for name in ("home", "conf", "log", "data"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        conf = _CONF.format(**self.ports) + "".join(line + "\n" for line in self._extra_conf)
        (self.folder / "conf" / "rabbitmq.conf").write_text(conf)
        (self.folder / "conf" / "enabled_plugins").write_text("[rabbitmq_management].\n")
        cookie = self.folder / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)
        self._write_rabbitmqctl()

    def _write_rabbitmqctl(self):
        """A command that runs rabbitmqctl against this node, whatever the caller's environment."""
        env = ["env", "-i", *("%s=%s" % pair for pair in self._environment().items())]
        ctl = self._release.command([self._release.program(_SBIN + "rabbitmqctl")], self.folder)
        sudo = '[ "$(id -u)" = 0 ] || exec sudo -n "$0" "$@"\n' if self._release.name == "next" else ""
        script = self.folder / "rabbitmqctl"
        script.write_text('#!/bin/sh\n%sexec %s "$@"\n' % (sudo, shlex.join(env + ctl)))
        script.chmod(0o755)
