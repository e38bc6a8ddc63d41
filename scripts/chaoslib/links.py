"""Our end of the proxy: one link per worker and server, named `NUMBER.amqp` and `NUMBER.redis`."""

import json
import subprocess
import sys
import threading
from pathlib import Path

from . import Broken


class Links:
    def __init__(self):
        # Ends with us: its input ends.
        self._proxy = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("proxy.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        self._lock = threading.Lock()

    def open(self, name, servers):
        """A port that leads to the first of these (host, port) that answers."""
        return self._ask({"open": name, "to": [list(server) for server in servers]})["port"]

    def set(self, name, mode):
        self._ask({"link": name, "mode": mode})

    def close(self):
        self._proxy.stdin.close()
        try:
            self._proxy.wait(5)
        except subprocess.TimeoutExpired:
            self._proxy.kill()
            self._proxy.wait()

    def _ask(self, command):
        with self._lock:
            try:
                self._proxy.stdin.write(json.dumps(command) + "\n")
                self._proxy.stdin.flush()
                answer = self._proxy.stdout.readline()
            except OSError as error:
                raise Broken("the proxy is gone: %s" % error) from None
        if not answer:
            raise Broken("the proxy ended with %s" % self._proxy.poll())
        return json.loads(answer)
