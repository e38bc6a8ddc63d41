"""A root folder with the newest servers: Debian unstable, built once and kept.

Built beside its final place and renamed when whole, so that a folder that exists is
complete. Servers in it are started by `release.Next`.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import Failed, Unavailable, debian

SUITE = "sid"
_PROXY = ("acquire::http::proxy", "acquire::https::proxy", "acquire::http::proxy-auto-detect")


def root(name=None):
    """Where the root is, or will be; one of that name for what is not in the usual one."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    parts = [SUITE, platform.machine(), name]
    return Path(cache) / "gleitzeit" / "-".join(part for part in parts if part)


def build(packages, name=None):
    """Builds the root unless it exists, and says which versions it holds."""
    place = root(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(str(place) + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            built = time.strftime("%Y-%m-%d", time.localtime(place.stat().st_mtime))
            print("servers of Debian %s, fetched %s; delete %s for newer ones" % (SUITE, built, place), file=sys.stderr)
        else:
            debian.require(["debootstrap", "debian-archive-keyring"])
            _build(place, packages)
    # Without a name for localhost a node ends without a word.
    shutil.copyfile("/etc/hosts", place / "etc" / "hosts")
    print("  " + ", ".join(_versions(place, packages)), file=sys.stderr)


def _build(place, packages):
    mirror = _mirror()
    unfinished = place.with_name(place.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    print("building %s with the newest servers from %s (once, about a minute)" % (place, mirror), file=sys.stderr)
    # What is mounted on the way ends with the namespace, even if this is killed.
    private = ["unshare", "--mount", "--propagation", "private"]
    _run([*private, "debootstrap", "--variant=minbase", SUITE, str(unfinished), mirror])
    policy = unfinished / "usr" / "sbin" / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    (unfinished / "etc" / "apt" / "apt.conf.d" / "90proxy").write_text(_proxies())
    enter = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "install", "-y", "--no-install-recommends"]
    _run([*private, "sh", "-c", enter, str(unfinished), *install, *packages])
    shutil.rmtree(unfinished / "var" / "cache" / "apt" / "archives", ignore_errors=True)
    unfinished.rename(place)


def _mirror():
    """The machine's own mirror, from its apt configuration."""
    if not shutil.which("apt-get"):
        raise Unavailable("--release next needs a Debian system with debootstrap")
    targets = _targets()
    if not targets:
        raise Unavailable("--release next needs a Debian mirror, and apt-get indextargets names none of Debian's own")
    return targets[0]


def _targets():
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    only = ["Created-By: Packages", "Component: main", "Origin: Debian", "Label: Debian"]
    listed = subprocess.run(query + only, capture_output=True, text=True).stdout.split()
    if not listed and subprocess.run(["apt-get", "-q", "update"], stdout=subprocess.DEVNULL).returncode == 0:
        listed = subprocess.run(query + only, capture_output=True, text=True).stdout.split()
    return listed


def _proxies():
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    return "".join(line + "\n" for line in dump.splitlines() if line.lower().startswith(_PROXY))


def _versions(place, packages):
    query = ["dpkg-query", "--root", str(place), "-W", "-f", "${Package} ${Version}\n", *packages]
    return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()


def _run(command):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise Failed("%s failed:\n%s" % (command[0], done.stdout[-4000:]))
