"""config.json: every field is checked and named, and a run of another version is one clear line."""

import json
import shutil
from pathlib import Path

import pytest
from run_helpers import write_run, write_table

import jaxnet
from jaxnet import runs
from jaxnet.cli import main
from jaxnet.runs.record import FORMAT, Record

OLD = Path(__file__).parent / "run_of_0.1.0"  # as that version left it, without Orbax's own files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a table and a run on it, which no test changes."""
    folder = tmp_path_factory.mktemp("record")
    write_table(folder / "table.csv")
    write_run(folder / "run", folder / "table.csv", "y")
    return folder / "run"


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the run's config.json in a folder of its own."""
    shutil.copy(written / "config.json", tmp_path)
    return tmp_path


def rewrite(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_record_is_loaded_as_it_was_saved(written, tmp_path):
    record = Record.load(written)
    assert record.config.hidden == (128,)  # a tuple, as in options that were typed
    record.save(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == (written / "config.json").read_bytes()
    assert Record.load(tmp_path).to_json() == record.to_json()


FIELDS = ("config", "task", "spec", "rows", "data", "encoding", "device", "versions", "history")
NESTED = [("config", "epochs"), ("config", "hidden"), ("spec", "sizes"), ("rows", "validation")]
NESTED += [("data", "sha256"), ("encoding", "target")]


@pytest.mark.parametrize("field", [*[(name,) for name in FIELDS], *NESTED], ids=".".join)
def test_a_field_that_is_missing_or_of_another_type_is_named(folder, field):
    *parents, name = field

    def delete(content):
        for parent in parents:
            content = content[parent]
        content.pop(name)
        return content

    content = (folder / "config.json").read_text()
    rewrite(folder, delete)
    with pytest.raises(ValueError, match=rf"config\.json: .*'{name}' is missing.*; was it edited"):
        Record.load(folder)
    (folder / "config.json").write_text(content)
    rewrite(folder, lambda content: delete(content).update({name: 1.5}))
    with pytest.raises(ValueError, match=r"config\.json: not the record of a run \(.*; was it ed"):
        Record.load(folder)


WRONG = {
    "epochs": (
        lambda d: d["config"].update(epochs=True),
        r"`config.epochs` must be a 64-bit integer or null, got True",
    ),
    "hidden": (
        lambda d: d["config"].update(hidden=["5"]),
        r"`config.hidden` must be a list, each a 64",
    ),
    "range": (lambda d: d["config"].update(validation=2.0), "`validation` must be a share between"),
    "unknown": (lambda d: d["config"].update(mapped="on"), "`config` has an unknown field 'mapped"),
    "rows": (
        lambda d: d["rows"].update(train=1.5),
        "`rows.train` must be a 64-bit integer, got 1.5",
    ),
    "sizes": (lambda d: d["spec"].update(sizes=[3, 0]), "`sizes` must be two or more integers"),
    "loss": (lambda d: d["spec"].update(loss="magic"), "`loss` must be one of"),
    "bytes": (
        lambda d: d["data"].update(bytes="9"),
        "`data.bytes` must be a 64-bit integer, got '9'",
    ),
    "history": (lambda d: d.update(history={}), "`history` must be a list, each an object, got {}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_cannot_be_is_named(folder, case):
    change, message = WRONG[case]
    rewrite(folder, change)
    with pytest.raises(ValueError, match=rf"config\.json: not the record of a run \({message}"):
        Record.load(folder)


@pytest.mark.parametrize(
    ("number", "writer"), [(FORMAT + 1, "0.9.0"), (None, "0.1.0"), (FORMAT - 1, "0.1.0")]
)
def test_another_format_is_refused_by_the_version_that_wrote_it(folder, number, writer):
    rewrite(folder, lambda content: content.update(format=number, versions={"jaxnet": writer}))
    message = f"this run was made by jaxnet {writer}, and jaxnet {jaxnet.__version__} cannot read"
    with pytest.raises(ValueError, match=message):
        Record.load(folder)


@pytest.mark.parametrize("versions", [None, {}, "0.1.0"])
def test_what_no_version_wrote_is_not_a_record(folder, versions):
    rewrite(folder, lambda content: (content.pop("format"), content.update(versions=versions)))
    with pytest.raises(ValueError, match="not the record of a run; was it edited"):
        Record.load(folder)


COMMANDS = {
    "resume": ("train", "--resume", "run"),
    "predict": ("predict", "run", "--data", "t.csv", "--out", "p.csv"),
    "evaluate": ("evaluate", "run"),
    "export": ("export", "run"),
    "show": ("show", "run"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_of_an_older_version_is_one_line_and_left_alone(tmp_path, monkeypatch, capfd, name):
    shutil.copytree(OLD, tmp_path / "run")
    (tmp_path / "t.csv").write_text("a,b\n0.1,0.2\n")
    monkeypatch.chdir(tmp_path)
    assert main([*COMMANDS[name], *["--no-cache"] * (name != "show")]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        f"jaxnet: run: this run was made by jaxnet 0.1.0, and jaxnet {jaxnet.__version__} cannot "
        "read it; use jaxnet 0.1.0, or train a new run\n"
    )
    files = {path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*")}
    assert files == {path.relative_to(OLD) for path in OLD.rglob("*")}


@pytest.mark.parametrize("function", [runs.load, runs.resume, runs.evaluate_validation])
def test_a_run_of_an_older_version_is_one_error_of_the_library(function):
    with pytest.raises(ValueError, match=r"run_of_0\.1\.0: this run was made by jaxnet 0\.1\.0"):
        function(OLD)


def test_a_folder_without_a_record_is_not_a_run(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(FileNotFoundError, match=r"this is not the folder of a run, it has no "):
            Record.load(folder)


def test_a_resume_that_changes_something_is_in_the_history_and_warned_of(written, caplog):
    record = Record.load(written)
    here = {"device": record.device, "versions": record.versions}
    assert record.resumed(record.config, 7, here) is record
    config = record.changed(written, {"epochs": (record.config.epochs or 0) + 5})
    other = here | {"device": record.device | {"processors": 3}}
    resumed = record.resumed(config, 7, other)
    assert resumed.history == ({"step": 7, "changed": {"epochs": config.epochs}, **other},)
    assert "and is 3: losses will agree to rounding" in caplog.text
    assert "cosine schedule of the learning rate now ends after epoch" in caplog.text
    assert resumed.identity() == record.identity()
