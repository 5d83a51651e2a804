import struct
import subprocess
import sys

import pytest

from jaxnet.runs import tensorboard

pytest.importorskip("tensorboardX")
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore
from tensorboardX.record_writer import masked_crc32c


def line(epoch, loss=None, **metrics):
    loss = 1 / epoch if loss is None else loss
    return {"step": 7 * epoch, "epoch": epoch, "train_loss": loss / 2, "val_loss": loss} | metrics


def write(folder, step, lines):
    with tensorboard.writer(folder, step) as add:
        for one in lines:
            add(one)


def events(folder):
    """All events, in TensorBoard's order: file after file by name, each record checked."""
    found = []
    for path in sorted((folder / tensorboard.EVENTS).iterdir()):
        content = path.read_bytes()
        while content:
            length, crc = struct.unpack("<QI", content[:12])
            data = content[12 : 12 + length]
            assert crc == masked_crc32c(content[:8])
            assert struct.unpack("<I", content[12 + length : 16 + length])[0] == masked_crc32c(data)
            found.append(Event.FromString(data))
            content = content[16 + length :]
    return found


def scalars(folder):
    """{tag: [(step, value)]} as TensorBoard shows it: a start drops all from its step on."""
    shown = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            for tag in shown:
                shown[tag] = [point for point in shown[tag] if point[0] < event.step]
        for value in event.summary.value:
            shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown


@pytest.mark.parametrize(("name", "tag"), tensorboard.TAGS.items())
def test_each_metric_is_a_scalar_at_its_step(tmp_path, name, tag):
    write(tmp_path, 0, [line(1) | {name: 0.25}, line(2) | {name: 0.125}])
    assert scalars(tmp_path)[tag] == [(7, 0.25), (14, 0.125)]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_left_out(tmp_path, value):
    write(tmp_path, 0, [line(1, val_r2=value, val_rmse=2.0, note="a text")])
    assert set(scalars(tmp_path)) == {"loss/train", "loss/validation", "rmse/validation"}


def test_each_line_is_on_the_disk_at_once(tmp_path):
    with tensorboard.writer(tmp_path) as add:
        for epoch in (1, 2, 3):
            add(line(epoch, loss=0.5))
            assert scalars(tmp_path)["loss/validation"][-1] == (7 * epoch, 0.5)


def test_a_resumed_run_has_no_doubled_points(tmp_path):
    write(tmp_path, 0, map(line, (1, 2, 3, 4)))
    for _ in range(2):  # within a second, and from the same step again
        write(tmp_path, 14, [line(epoch, loss=8.0) for epoch in (3, 4, 5)])
    steps = [(7, 1.0), (14, 0.5), (21, 8.0), (28, 8.0), (35, 8.0)]
    assert scalars(tmp_path)["loss/validation"] == steps
    write(tmp_path, 10, [])  # between two epochs
    assert scalars(tmp_path)["loss/validation"] == [(7, 1.0)]


def test_the_eleventh_file_comes_after_the_tenth(tmp_path):
    for step in range(12):
        write(tmp_path, 0, [{"step": 7, "train_loss": float(step)}])
    assert scalars(tmp_path) == {"loss/train": [(7, 11.0)]}


def test_an_error_in_the_training_keeps_what_was_written(tmp_path):
    def interrupted():
        yield line(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 0, interrupted())
    assert scalars(tmp_path)["loss/validation"] == [(7, 1.0)]


def test_without_the_package_it_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = r"^`tensorboard` needs the package tensorboardX: pip install 'jaxnet\[tensorboard\]'$"
    with pytest.raises(ValueError, match=message):
        tensorboard.require()
    with pytest.raises(ValueError, match=message), tensorboard.writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / tensorboard.EVENTS).write_text("")
    with pytest.raises(OSError, match="tensorboard"), tensorboard.writer(tmp_path):
        pass


def test_the_import_warns_of_nothing_and_brings_neither_jax_nor_tensorboardx():
    code = (
        "import sys; from jaxnet.runs import tensorboard; assert 'tensorboardX' not in sys.modules;"
        "tensorboard.require(); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
