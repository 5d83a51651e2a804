"""A file is whole or it is not there, in whatever order a machine stops."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet
from jaxnet import files

SOURCE = str(Path(jaxnet.__file__).parent.parent)


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


def write_late(path):
    with files.replacing(path, new=True) as part:
        part.write_bytes(b"second")
        path.write_bytes(b"first")


def test_a_file_that_appears_meanwhile_stays_where_it_must_be_new(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(FileExistsError, match=r"a\.txt"):
        write_late(path)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_is_made_once_also_without_hard_links(tmp_path, monkeypatch, links):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.txt"
    for content in (b"first", b"second"):
        with contextlib.suppress(FileExistsError), files.replacing(path, new=True) as part:
            part.write_bytes(content)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_share_no_part_and_one_of_them_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as first:
        first.write_bytes(b"1" * 9)
        with files.replacing(path) as second:
            assert first != second
            second.write_bytes(b"2")
        assert path.read_bytes() == b"2"
    assert path.read_bytes() == b"1" * 9
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_dead_writer_left_is_removed_and_links_are_left_alone(tmp_path):
    path, outside = tmp_path / "[a].txt", tmp_path / "outside"
    outside.write_bytes(b"mine")
    code = "import os, sys\nfrom jaxnet import files\nwith files.replacing(sys.argv[1]) as part:\n"
    code += "    part.write_bytes(b'half')\n    os._exit(1)\n"
    subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ | {"PYTHONPATH": SOURCE})
    (part,) = tmp_path.glob(".*.part")
    (link := tmp_path / ".[a].txt.0.part").symlink_to(outside)
    (other := tmp_path / ".b.txt.0.part").write_bytes(b"of another file")
    files.write(path, b"whole")
    assert not part.exists()
    assert {p.name for p in tmp_path.iterdir()} == {path.name, link.name, other.name, "outside"}
    assert outside.read_bytes() == b"mine"


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    for name in ("a" * 255, "ä" * 127, "b" * 250 + ".txt"):
        files.write(tmp_path / name, b"1")
    assert len(os.listdir(tmp_path)) == 3


def test_all_new_folders_are_returned_deepest_first(tmp_path):
    assert files.make_folder(tmp_path / "a/b") == [tmp_path / "a/b", tmp_path / "a"]
    assert files.make_folder(tmp_path / "a/b") == []


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, what in {"": "a folder", "pipe": "a pipe", "link": "a device"}.items():
        with pytest.raises(ValueError, match=f"must be a file, got {what}"):
            files.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        files.read(tmp_path / "none")


def test_a_file_of_more_than_a_share_of_the_memory_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "memory", lambda: 400)
    (tmp_path / "a").write_bytes(bytes(100))
    assert files.read(tmp_path / "a") == bytes(100)
    with pytest.raises(ValueError, match="must take at most 50 bytes of memory, 1/8 of it, got 1"):
        files.read(tmp_path / "a", 8)
