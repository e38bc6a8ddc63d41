"""Processes that outlive the command which started them.

A pid alone is no proof: pids are used again. Beside `pid` stands `pid.started`, the
boot and the start time of the process. Only what matches all three is signalled.
"""

import os
import resource
import signal
import subprocess
import time

from . import Failed


class Process:
    """The process recorded in a pid file."""

    def __init__(self, pid_file):
        self.pid_file = pid_file
        self._started_file = pid_file.with_name(pid_file.name + ".started")

    def start(self, argv, env, cwd, log):
        """Starts `argv` apart from this terminal; output goes to `log`, input is empty."""
        with open(log, "ab") as output:
            child = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_raise_file_limit,
            )
        started = _identity(child.pid)
        if started is None:
            raise Failed("%s ended at once: see %s" % (argv[0], log))
        self._started_file.write_text(started)
        self.pid_file.write_text("%d\n" % child.pid)

    def pid(self):
        """The pid if this very process is still running, else None."""
        try:
            pid = int(self.pid_file.read_text())
            recorded = self._started_file.read_text()
        except (OSError, ValueError):
            return None
        return pid if _identity(pid) == recorded else None

    def stop(self, grace_seconds):
        """Ends the process, politely for `grace_seconds`. Nothing to end is no error."""
        self._signal(signal.SIGTERM)
        if not self._wait(grace_seconds):
            self.kill()
        self._forget()

    def kill(self):
        """Ends the process at once, as a crash would."""
        self._signal(signal.SIGKILL)
        if not self._wait(10):
            raise Failed("process %s survived SIGKILL for 10 s" % self.pid())
        self._forget()

    def _signal(self, number):
        pid = self.pid()
        if pid is None:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # It ended by itself in between.

    def _wait(self, seconds):
        until = time.monotonic() + seconds
        while self.pid() is not None:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def _forget(self):
        for path in (self.pid_file, self._started_file):
            path.unlink(missing_ok=True)


def _identity(pid):
    """Boot and start time of `pid`; None when it is gone or only waits to be reaped."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except OSError:
        return None
    if fields[0] in ("Z", "X"):
        return None
    return "%s %s\n" % (boot, fields[19])


def _raise_file_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
