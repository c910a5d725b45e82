"""Empties the scratch folder between two programs, whatever the first one left there.

A program owns what it makes, and where the sandbox was started by an ordinary user the folder itself: it may take away
every right from it. It cannot make files that its own user may not delete (no immutable flags, no mounts, no other
owners), so a wipe that first restores the rights always succeeds. Nothing here recurses, follows a link or uses a path
longer than a name, so neither depth nor names matter. How many names there can be is limited by the file system
(TMP_INODES, hard links count as well).
"""

from __future__ import annotations

import errno
import os
import stat
import time

FOLDER_MODE = 0o1777
WIPE_S = 5.0  # a full folder takes some hundredths of this


def wipe(folder: str) -> None:
    """Makes `folder` as if new. Raises OSError where that is not possible within WIPE_S."""
    deadline = time.monotonic() + WIPE_S
    if stat.S_IMODE(os.stat(folder).st_mode) != FOLDER_MODE:
        os.chmod(folder, FOLDER_MODE)
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while names := os.listdir(here):
            for name in names:
                _remove_or_flatten(name, here)
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"could not empty {folder}")
        os.utime(here)  # else a program could leave a number to the next one
    finally:
        os.close(here)


def _remove_or_flatten(name: str, here: int) -> None:
    """Removes a file or an empty folder; lifts another folder's content one level up, so that depth never recurses."""
    if not _is_folder(name, here):
        os.unlink(name, dir_fd=here)
        return
    os.chmod(name, 0o700, dir_fd=here)
    inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    try:
        for inner in os.listdir(inside):
            if _is_folder(inner, inside):
                os.chmod(inner, 0o700, dir_fd=inside)  # moving a folder takes the right to write in it
            os.rename(inner, f".{os.urandom(12).hex()}", src_dir_fd=inside, dst_dir_fd=here)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=here)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
