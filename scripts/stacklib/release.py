"""Where the servers' programs come from, and how they are run.

`distro` runs what this system has installed. `next` runs programs of a newer Debian
from a root folder: every server in a mount namespace of its own, with `proc`, `/dev`
and its data folder mounted into the root and then chroot. The namespace ends with its
last process, so that no mount is ever left behind, not even after kill -9.
"""

from pathlib import Path

from . import Unavailable

# Arguments: root, data folder, then the command.
_ENTER = """
root=$1 data=$2; shift 2
mount -t proc proc "$root/proc" &&
mount --rbind /dev "$root/dev" &&
mount --bind "$data" "$root/srv" &&
exec chroot "$root" "$@"
"""


class Distro:
    name = "distro"
    root = Path("/")

    def inside(self, folder):
        """The path under which a server sees its data folder."""
        return folder

    def command(self, argv, folder):
        """`argv` as it must be started for a server with this data folder."""
        return [str(part) for part in argv]

    def program(self, pattern):
        return find_program(self.root, pattern)


class Next:
    name = "next"

    def __init__(self, root):
        self.root = root

    def inside(self, folder):
        return Path("/srv")

    def command(self, argv, folder):
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh"]
        return enter + [str(part) for part in (self.root, folder, *argv)]

    def program(self, pattern):
        return find_program(self.root, pattern)


def find_program(root, pattern):
    """The newest file that matches `pattern` below `root`, as a path inside the root."""
    found = sorted(root.glob(pattern))
    if not found:
        raise Unavailable("no /%s below %s" % (pattern, root))
    return Path("/") / found[-1].relative_to(root)
