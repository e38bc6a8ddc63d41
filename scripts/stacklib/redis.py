"""One private Redis server."""

import socket

from .process import Process

PORTS = ("redis",)
PACKAGE = "redis-server"
STARTUP_SECONDS = 30

# AOF is what the promises rest on; eviction would take tasks away in silence.
_CONF = """\
bind 127.0.0.1
port {port}
dir {data}
daemonize no
logfile ""
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class Redis:
    kind = "redis"
    arguments = ()

    def __init__(self, folder, index, ports, release, options):
        self.folder = folder
        self.index = index
        self.ports = ports
        self._release = release
        self._password = options["redis_password"]
        self._extra_conf = options["redis_conf"] or []
        self._peers = options.get("peers", {})
        self._server = Process(folder / "pid")

    def pid(self):
        return self._server.pid()

    @property
    def log(self):
        return self.folder / "log"

    def start(self):
        """Starts the server; `ready` tells when it serves."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        inside = self._release.inside(self.folder)
        lines = _CONF.format(port=self.ports["redis"], data=inside / "data")
        if self._password:
            lines += "requirepass %s\n" % self._password
        lines += "".join(line + "\n" for line in self.more_conf())
        conf = self.folder / "redis.conf"
        conf.write_text(lines + "".join(line + "\n" for line in self._extra_conf))
        conf.chmod(0o600)
        self._run(inside)

    def more_conf(self):
        """Lines of redis.conf that this kind of server needs."""
        return []

    def _run(self, inside):
        argv = [self._release.program("usr/bin/redis-server"), inside / "redis.conf", *self.arguments]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        self._server.start(self._release.command(argv, self.folder), env, self.folder, self.log)

    def ready(self):
        """The version, once the server has loaded its data and answers; else None."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports["redis"]), 2) as link:
                if self._password:
                    link.sendall(b"AUTH %s\r\n" % self._password.encode())
                link.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
                answer = link.makefile("rb").read().decode()
        except OSError:
            return None
        if "+PONG" not in answer:
            return None
        version = [line for line in answer.splitlines() if line.startswith("redis_version:")]
        return "Redis " + version[0].split(":")[1] if version else None

    def stop(self, grace_seconds=10):
        self._server.stop(grace_seconds)

    def kill(self):
        """kill -9: writes that were answered survive it, only a power cut takes the last second's."""
        self._server.kill()

    def variables(self):
        login = "default:%s@" % self._password if self._password else ""
        return {
            "GLEITZEIT_REDIS_URL": "redis://%s127.0.0.1:%d/0" % (login, self.ports["redis"]),
            "GLEITZEIT_STACK_REDIS_PID_FILE": str(self._server.pid_file),
        }
