"""A file is whole or it is not there, in whatever order a machine stops."""

import os
from pathlib import Path

import pytest

from jaxnet import files


@pytest.fixture
def calls(monkeypatch):
    """The names of what is put on the disk and renamed, in order."""
    made, fsync, replace = [], os.fsync, os.replace

    def note_fsync(handle):
        made.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def note_replace(source, target):
        made.append(("rename", Path(target).name))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return made


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, calls):
    files.write(tmp_path / "a.txt", b"new")
    kinds = [kind for kind, _ in calls]
    assert kinds == ["fsync", "rename", "fsync"]
    assert calls[1:] == [("rename", "a.txt"), ("fsync", tmp_path.name)]
    assert "a.txt" in calls[0][1]
    assert calls[0][1] != "a.txt"
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def replace_half(path):
    with files.replacing(path) as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        replace_half(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a\.txt: could not be written"):
        files.write(tmp_path / "file" / "a.txt", b"")


@pytest.mark.parametrize("content", ["", "[1]", "{", '"text"', "[" * 10**5])
def test_json_that_is_no_object_is_refused_by_name(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.json: "):
        files.read_json(path)
    files.write_json(path, {"a": [1, None], "path": tmp_path})
    assert files.read_json(path) == {"a": [1, None], "path": str(tmp_path)}


def test_a_file_that_changes_meanwhile_is_noticed_also_behind_another_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a")
    read(path)
    with pytest.raises(ValueError, match=r"a\.csv: the file changed while it was read"):
        read(path, "longer")
    with pytest.raises(ValueError, match="the file changed"):
        read(path, "longer still", ValueError("a torn line"))
    with pytest.raises(ValueError, match="a torn line"):
        read(path, None, ValueError("a torn line"))


def read(path, write=None, error=None):
    with files.unchanged(path):
        if write:
            path.write_text(write)
        if error:
            raise error


def test_a_folder_is_held_against_a_second_writer(tmp_path):
    second = files.lock(tmp_path)
    with files.lock(tmp_path), pytest.raises(BlockingIOError, match="another process is writing"):
        second.__enter__()
    with files.lock(tmp_path):
        pass
