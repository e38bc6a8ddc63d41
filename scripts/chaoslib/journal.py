"""What happened when: one JSON object a line, and the same for people."""

import json
import threading
import time


class Journal:
    def __init__(self, path):
        self._file = open(path, "a", buffering=1)
        self._lock = threading.Lock()
        self._start = time.time()
        self._problems = []

    def tell(self, what, **facts):
        """Notes it, and shows it."""
        self.note(what, **facts)
        text = " ".join("%s=%s" % pair for pair in facts.items())
        print("%7.1f s  %s  %s" % (time.time() - self._start, what, text), flush=True)

    def note(self, what, **facts):
        """Notes it in the file only."""
        now = time.time()
        line = {"at": round(now, 3), "s": round(now - self._start, 3), "what": what, **facts}
        with self._lock:
            self._file.write(json.dumps(line, default=str) + "\n")

    def problem(self, what, **facts):
        """Something that must not be: the run goes on, and fails at its end."""
        self.tell("PROBLEM " + what, **facts)
        text = " ".join("%s=%s" % pair for pair in facts.items())
        with self._lock:
            self._problems.append("%s %s" % (what, text))

    def problems(self):
        with self._lock:
            return list(self._problems)
