"""What a disk would hold if the power failed, from the calls that a program makes."""

import hashlib
import os
from pathlib import Path

import pytest


class Disk:
    """Follows fsync, rename, link and removal below a folder.

    content: the digest of each file's bytes, names: the names in each folder, by inode, as last put
    on the disk. Whatever was not put there counts as lost.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch):
        self.root, self.content = root, {}
        self.names = {root.stat().st_ino: set(os.listdir(root))}
        self.checkpoints_removed = 0
        for name, before in {
            "fsync": self.after_fsync,
            "replace": self.before_naming,
            "rename": self.before_naming,
            "link": self.before_naming,
        }.items():
            patch.setattr(os, name, self.wrapped(getattr(os, name), before))

    def wrapped(self, call, note):
        def called(*args, **options):
            note(*args)
            return call(*args, **options)

        return called

    def after_fsync(self, handle):  # of what it would put there
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.is_dir():
            self.names[path.stat().st_ino] = set(os.listdir(path))
        else:
            self.content[path.stat().st_ino] = digest(path)

    def before_naming(self, source, target):
        """A name may reach the disk at once: what gets it must be there already."""
        source, target = Path(source).absolute(), Path(target).absolute()
        if not source.is_relative_to(self.root):
            return
        for path in [source, *source.rglob("*")] if source.is_dir() else [source]:
            assert self.holds(path), f"{path} becomes {target.name} before it is on the disk"
        if source.parent.name == "checkpoints" and source.name.isdecimal():
            self.checkpoints_removed += 1
            newer = [name for name in self.known(source.parent) if name.isdecimal()]
            assert max(map(int, newer)) > int(source.name), f"{source} goes before a newer is there"

    def known(self, folder):
        return self.names.get(folder.stat().st_ino, set())

    def holds(self, path):
        if path.is_dir():
            return self.known(path) >= set(os.listdir(path))
        return self.content.get(path.stat().st_ino) == digest(path)

    def check(self, *paths):
        """All that lies in these files and folders is on the disk, under its name."""
        for top in paths:
            inside = [path for path in top.rglob("*") if path.name != ".lock"]
            for path in [top, *inside]:
                assert path.name in self.known(path.parent), f"the name {path} is not on the disk"
                assert path.is_dir() or self.holds(path), f"the content of {path} is not"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
