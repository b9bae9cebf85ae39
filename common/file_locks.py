"""Locks by which the living tell their files from those of the dead: the system takes them back at any kind of end."""

import errno
import sys

if sys.platform != "win32":
    import fcntl

_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}


def lock(fd: int) -> bool:
    """Lock an open file or folder against other openings of it; False when one holds it. True where locks don't
    exist."""
    if sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return True
