"""The porter's example of the README: the verdict, the cause, and the port mended."""

from test_readme import README, alike, blocks


def test_the_bug_is_named_and_the_mended_port_is_equal(capsys):
    code, shown = next(pair for pair in blocks(README, "python") if "import torch" in pair[0])
    exec(compile(code, "port", "exec"), {})
    assert alike(capsys.readouterr().out, shown)
    exec(
        compile(
            code.replace('x @ params["0.weight"] +', 'x @ params["0.weight"].T +'), "port", "exec"
        ),
        {},
    )
    assert capsys.readouterr().out.splitlines()[0].endswith(": equal, 4,496 numbers compared")
