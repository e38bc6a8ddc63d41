"""Debian packages: what is missing, and installing it without starting any service."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import Unavailable

POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# Written by scripts/stack for one installation: start no service.\nexit 101\n"


def missing(packages):
    """Those of `packages` that are not installed."""
    if not shutil.which("dpkg-query"):
        return list(packages)
    return [package for package in packages if not _installed(package)]


def require(packages):
    """Installs what is missing of `packages`, or says what to install."""
    wanted = missing(packages)
    if not wanted:
        return
    by_hand = "install it first: apt-get install --no-install-recommends %s" % " ".join(wanted)
    if not shutil.which("apt-get"):
        raise Unavailable("not a Debian system; needed are the programs of: %s" % " ".join(wanted))
    sudo = sudo_prefix()
    if sudo is None:
        raise Unavailable("missing, and neither root nor passwordless sudo; " + by_hand)
    if not install(sudo, wanted):
        raise Unavailable("apt-get could not install %s; %s" % (" ".join(wanted), by_hand))


def sudo_prefix():
    """What to put before a command of root: nothing, `sudo -n`, or None if not permitted."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def install(sudo, packages):
    """apt-get install; with a fresh list of packages when the present one does not do."""
    print("installing %s" % " ".join(packages), file=sys.stderr)
    with _no_service_starts(sudo):
        if _lists_present() and _apt(sudo, "install", "-y", "--no-install-recommends", *packages):
            return True
        return _apt(sudo, "update") and _apt(sudo, "install", "-y", "--no-install-recommends", *packages)


def _apt(sudo, *arguments):
    # Another apt may be at work on a machine that has just booted: wait for it.
    command = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    done = subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        print((done.stdout + done.stderr)[-4000:], file=sys.stderr)
    return done.returncode == 0


def _installed(package):
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


def _lists_present():
    return any(Path("/var/lib/apt/lists").glob("*_Packages*"))


@contextlib.contextmanager
def _no_service_starts(sudo):
    """Keeps maintainer scripts from starting services, and leaves the policy as it was."""
    if POLICY.exists():
        answer = subprocess.run([str(POLICY), "redis-server", "start"], capture_output=True).returncode
        if answer != 101:
            raise Unavailable("%s would let services start; install the packages by hand" % POLICY)
        yield
        return
    write = [*sudo, "sh", "-c", 'cat > "$1" && chmod 755 "$1"', "sh", str(POLICY)]
    subprocess.run(write, input=_POLICY_TEXT, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run([*sudo, "rm", "-f", str(POLICY)], check=True)
