"""Free loopback ports.

Ports are taken from below the kernel's range for outgoing connections. Within that
range a client that reconnects to a killed server can be given the very port it dials,
and then talks to itself; and any outgoing connection can hold the port that a
restarted server needs.

Between choosing a port and the server's bind, the choice is held by an abstract Unix
socket named after it. The kernel drops that claim when this process ends, however it ends.
"""

import errno
import random
import socket

from . import Unavailable

LOWEST = 15000


class Claims:
    """Ports that no other `scripts/stack` takes while this object lives."""

    def __init__(self):
        self._held = []

    def take(self, names):
        """One free port for each of `names`."""
        return {name: self._next() for name in names}

    def hold(self, ports):
        """Claims these very ports; False when one of them is taken."""
        return all(self._claim(port) and is_free(port) for port in ports)

    def _next(self):
        candidates = list(range(LOWEST, _first_outgoing_port()))
        random.SystemRandom().shuffle(candidates)
        for port in candidates:
            if self._claim(port) and is_free(port):
                return port
        raise Unavailable("no free loopback port between %d and %d" % (candidates[0], candidates[-1]))

    def _claim(self, port):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind("\0gleitzeit-port-%d" % port)
        except OSError:
            claim.close()
            return False
        self._held.append(claim)
        return True


def is_free(port):
    """Whether nothing listens on `port`; connections in TIME_WAIT do not count."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # No IPv6 here.
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                # IPv6 may be compiled in and yet have no ::1.
                if error.errno != errno.EADDRNOTAVAIL:
                    return False
    return True


def _first_outgoing_port():
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            first = int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32768
    # A machine that uses nearly every port for outgoing connections leaves no better choice.
    return first if first > LOWEST + 1000 else 32768
