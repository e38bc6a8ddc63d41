"""One private server of language models: llama.cpp's, of Debian unstable, with a tiny random model.

This system may have no such package, so it always runs from a newer root of its own. The first server talks, the
second makes vectors: llama.cpp's server does one or the other.
"""

import json
import urllib.error
import urllib.request

from . import newer, tiny_model
from .process import Process
from .release import Next

PORTS = ("llama",)
PACKAGE = "llama.cpp-tools"
ROOT = "llama"
STARTUP_SECONDS = 60


class Llama:
    kind = "llama"

    def __init__(self, folder, index, ports, release, options):
        self.folder = folder
        self.index = index
        self.ports = ports
        self._release = Next(newer.root(ROOT))
        self._server = Process(folder / "pid")

    def pid(self):
        return self._server.pid()

    @property
    def log(self):
        return self.folder / "log"

    def start(self):
        """Makes the model and starts the server; `ready` tells when it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tiny_model.write(self.folder / "tiny.gguf")
        model = self._release.inside(self.folder) / "tiny.gguf"
        argv = [self._release.program("usr/bin/llama-server"), "--model", model, "--host", "127.0.0.1"]
        argv += ["--port", self.ports["llama"], "--threads", 1, "--ctx-size", 1024, "--parallel", 2]
        argv += ["--alias", "tiny-embed", "--embeddings", "--pooling", "mean"] if self.index == 2 else ["--alias", "tiny"]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        self._server.start(self._release.command(argv, self.folder), env, self.folder, self.log)

    def ready(self):
        """The version, once the server has loaded its model and answers; else None."""
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/props" % self.ports["llama"], timeout=2) as answer:
                return "llama-server " + json.load(answer).get("build_info", "of an unknown build")
        except (OSError, ValueError, urllib.error.HTTPError):
            return None

    def stop(self, grace_seconds=5):
        self._server.stop(grace_seconds)

    def kill(self):
        """kill -9"""
        self._server.kill()

    def variables(self):
        return {"GLEITZEIT_TEST_LLAMA_URL": "http://127.0.0.1:%d" % self.ports["llama"]}
