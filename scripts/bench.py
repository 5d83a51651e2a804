"""Every workload, every peer that is installed: times by interleaved rounds, checked, with a floor;
and whole commands, `jaxnet train` beside the scripts that users of the peers would write.

    python scripts/bench.py --out docs                 # the table, benchmarks.json, .png and .md
    python scripts/bench.py --workloads digits --peers fit_scan torch --rounds 5 --parts peers
    python scripts/bench.py --page docs/benchmarks.json     # the page and pictures again

It takes about an hour on two cores, most of it for whole processes (--processes 0 leaves them out).
Figures that are in the folder already, of the same machine, are kept unless they are measured
again, so that it may be made in parts.
`pip install '.[bench]'` brings the peers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks import commands, disk, machine, picture, report, rounds, scaling, whole
from benchmarks.levers import LEVERS
from benchmarks.peers import PEERS
from benchmarks.workloads import WORKLOADS, quick

PARTS = ("commands", "peers", "levers", "scaling", "disk")
JSON = "benchmarks.json"
QUICK_VALUES = {"batch": (4, 16), "width": (8, 16), "depth": (1, 2), "rows": (128, 256)}


def main() -> int:
    """Measure and write, or write the page of what was measured."""
    options = parse()
    if options.page:
        result = json.loads(options.page.read_text())
        write(result, options.page.parent)
        return 0
    result = run(options)
    print(report.table(result))
    write(result, options.out)
    entries = [e for w in result["workloads"] for e in w["participants"].values()]
    return int(any(entry["status"] in ("wrong", "failed") for entry in entries))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS])
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a participant's turn")
    parser.add_argument("--processes", type=int, default=3, help="whole processes of each")
    parser.add_argument("--other", default="", metavar="PYTHON", help="for what this one has not")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the benchmark")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    parser.add_argument("--page", type=Path, metavar="JSON", help="write its page, measure nothing")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict:
    """Measure all that was asked for; what is there after each workload is on the disk."""
    settings = rounds.Settings(
        options.rounds, options.seconds, options.processes, options.device, options.other
    )
    short = settings._replace(rounds=max(1, settings.rounds // 2), seconds=settings.seconds / 2)
    result = begin(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "commands" in options.parts:
            times = settings.processes
            result["starts"] = commands.measure(
                times, folder, say, other=options.other, quick=options.quick
            )
            save(result, options.out)
        if {"peers", "levers"} & {*options.parts}:
            steps(options, settings, short, folder, result)
        if "scaling" in options.parts:
            values = QUICK_VALUES if options.quick else scaling.VALUES
            result["scaling"] = scaling.curves(short, folder, say, values)
            save(result, options.out)
        if "disk" in options.parts:
            say("disk")
            times = settings.processes or 1
            result["disk"] = disk.measure(times, folder, say, quick=options.quick)
            save(result, options.out)
        errors = folder / "errors.txt"
        if any(
            e["status"] == "failed" for w in result["workloads"] for e in w["participants"].values()
        ):
            print(errors.read_text()[-5000:], file=sys.stderr)
    return result


def steps(
    options: argparse.Namespace,
    settings: rounds.Settings,
    short: rounds.Settings,
    folder: Path,
    result: dict,
) -> None:
    """Measure the workloads' peers, by the settings, and their levers, by the short ones."""
    for workload in [WORKLOADS[name] for name in options.workloads]:
        workload = quick(workload) if options.quick else workload
        say(workload.title)
        if "peers" in options.parts:
            found = rounds.measure(workload, options.peers, settings, folder, say)
            if settings.processes:
                whole.whole_processes(workload, found, settings, folder, say)
            put(result["workloads"], found)
        if "levers" in options.parts and not workload.members:
            say("  levers")
            found = rounds.measure(workload, [*LEVERS], short, folder, say)
            put(result["levers"], found | {"machine": result["machine"]})
        for path in folder.glob(f"{workload.name}*.npz"):
            path.unlink()
        save(result, options.out)


def begin(options: argparse.Namespace) -> dict:
    """The result so far: what is in the folder already, if it is of this machine and device; of
    another machine the levers, which say what was decided there.
    """
    levers = []
    command = "python " + shlex.join(["scripts/bench.py", *_without_paths(sys.argv[1:])])
    here, path = machine.describe(options.device, options.other), options.out / JSON
    if path.exists():
        result = json.loads(path.read_text())
        if result["machine"] == here and result["quick"] == options.quick:
            result["commands"].append(command)
            return result
        levers = [] if options.quick else result["levers"]
    return {
        "commands": [command], "machine": here, "quick": options.quick,
        "workloads": [], "levers": levers, "scaling": [], "starts": [], "disk": {},
    }  # fmt: skip


def put(measured: list[dict], found: dict) -> None:
    """Add a workload's figures, in the place of those that it had, and in the table's order."""
    name = found["workload"]["name"]
    kept = [other for other in measured if other["workload"]["name"] != name]
    order = [*WORKLOADS]
    measured[:] = sorted([*kept, found], key=lambda w: order.index(w["workload"]["name"]))


def save(result: dict, folder: Path) -> None:
    """Write the JSON, whole at every moment."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{JSON}.part"
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(folder / JSON)


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def write(result: dict, folder: Path) -> None:
    """The page and its pictures."""
    (folder / "benchmarks.md").write_text(report.page(result))
    if result["workloads"]:
        picture.ratios(result, folder / "benchmarks.png")
    if result.get("scaling"):
        picture.scaling(result, folder / "scaling.png")


def _without_paths(arguments: list[str]) -> list[str]:
    """The arguments without the folder, which is nobody else's, and with an example's python."""
    kept = list(arguments)
    if "--out" in kept:
        at = kept.index("--out")
        del kept[at : at + 2]
    if "--other" in kept:
        kept[kept.index("--other") + 1] = "other/bin/python"
    return kept


if __name__ == "__main__":
    sys.exit(main())
