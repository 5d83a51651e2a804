"""The result as text: the table on the screen, and the page, from the JSON alone."""

from __future__ import annotations

from typing import Any

from . import commands, disk
from .levers import LEVERS
from .peers import JAXNET, PEERS

Result = dict[str, Any]
EXPLAINED = """\
Every participant has a process of its own. In each round every one of them trains on for its turn,
one after the other in rotating order; a ratio is taken within a round to the reference (the plain
`jax.lax.scan`; for the sweep `jax.vmap` of it), and its median is shown with the least and the
most. Above 1 is slower than the reference. Before, each participant's losses and parameters after
the first steps are compared with a float64 NumPy run of the same steps; what fails is WRONG, and
its time is not shown.

- **us a step**: the median, compiled and warm; for the sweep a step of all its networks.
- **over the floor**: that time over the floor's: the matrix products of the step alone, each by the
  fastest of NumPy, XLA and PyTorch at exactly its shape, and one read and one write of parameters
  and optimizer state. The dual form (`gram`) makes smaller products and may lie below it.
- **first call**: making the network and its first step, compilation included, imports not; of
  `train` a run of one epoch, all files written, the picture among them.
- **memory**: the largest resident set of a whole process with an empty cache of programs, and with
  a filled one; of the timed process where no whole process was made.
- **whole process**, where one was made: a fresh process that imports, reads the data, trains and
  ends; with an empty cache of compiled programs, and with one filled by the same program.
- **error**: the largest, as a share of its limit: 16 times the error of NumPy in float32, at least
  2e-4 of how far the value moved, and what units at the kink of the ReLU may do.
"""
SCALING = """\
128-256-256-10, Adam, batches of 128 of 16,384 rows; one size changed at a time. jaxnet is
`fit_scan`. Where PyTorch is ahead, it is by its products: its are oneDNN's and MKL's, XLA's
YNNPACK's, and the processor decides which are faster."""
HEAD = (
    "participant", "us a step", "over the reference", "over the floor", "first call",
    "memory", "whole process, cold", "cached", "error",
)  # fmt: skip


def rows(found: Result) -> list[list[str]]:
    """HEAD, and a row of cells for each participant of a workload, without the absent ones and
    columns that nobody has.
    """
    floor = found["floor"]["us"]
    cells = [list(HEAD)]
    for name, entry in found["participants"].items():
        if entry["status"] == "ok":
            cells.append(_row(name, entry, floor))
        elif entry["status"] == "wrong":
            cells.append([name, "WRONG", *["-"] * 6, f"{entry['share']:.2g} ({entry['of']})"])
        elif entry["status"] != "absent":
            reason = entry["reason"] if entry["status"] == "inapplicable" else "failed"
            cells.append([name, *["-"] * 7, reason])
    shown = [i for i in range(len(HEAD)) if any(row[i] != "-" for row in cells[1:])]
    return [[row[i] for i in shown] for row in cells]


def _row(name: str, entry: Result, floor: float) -> list[str]:
    once = entry.get("once", {})
    ratio = "{:.2f} ({:.2f} to {:.2f})".format(*entry["ratio"]) if "ratio" in entry else "-"
    return [
        name,
        microseconds(entry["us"]),
        ratio,
        f"{entry['us'] / floor:.1f}",
        f"{entry['first_s']:.2f} s",
        _memory(entry),
        f"{once['cold']:.2f} s" if "cold" in once else "-",
        f"{once['warm']:.2f} s" if "warm" in once else "-",
        f"{entry['share']:.2g}",
    ]


def _memory(entry: Result) -> str:
    once = entry.get("once", {})
    found = [once[name] for name in ("cold_mb", "warm_mb") if name in once] or [entry["rss_mb"]]
    return ", ".join(f"{value:,.0f}" for value in found) + " MB"


def microseconds(value: float) -> str:
    """Three figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def absent(result: Result) -> list[str]:
    """A line for each participant whose packages are not installed."""
    found = {}
    for workload in result["workloads"]:
        for name, entry in workload["participants"].items():
            if entry["status"] == "absent":
                found[name] = f"{name}: left out, {entry['reason']} is not installed"
    return list(found.values())


def table(result: Result) -> str:
    """For the screen: columns in line."""
    lines = []
    for found in result["workloads"]:
        lines += ["", found["workload"]["title"], f"floor: {floor_line(found['floor'])}"]
        cells = rows(found)
        wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)] + [0]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)) for row in cells]
    return "\n".join([*lines, "", *absent(result)])


def floor_line(floor: Result) -> str:
    """What the floor consists of."""
    return (
        f"{microseconds(floor['us'])} us, of which {microseconds(floor['traffic_us'])} us move "
        f"{floor['traffic_mb']:.3g} MB of parameters and optimizer state; the products run at "
        f"{floor['gflops']:,.0f} GFLOP/s"
    )


def page(result: Result) -> str:
    """docs/benchmarks.md: a function of the JSON alone."""
    parts = [
        "# Benchmarks",
        _measured_on(result),
        "```\npip install '.[bench]'\n"
        + "".join(f"{c} --out docs\n" for c in _commands(result))
        + "```",
    ]
    if result.get("starts"):
        parts += ["## Whole commands", *commands.text(result["starts"])]
    if result["workloads"]:
        steps = "## Steps", EXPLAINED.rstrip(), "![Time over the reference](benchmarks.png)"
        parts += [*steps, *map(_section, result["workloads"])]
    if result.get("levers"):
        parts.append(_levers(result))
    if result.get("scaling"):
        parts += [
            "## Scaling",
            SCALING,
            "![Time per step against batch, width, depth and rows](scaling.png)",
        ]
    if result.get("disk"):
        parts += ["## Tables on disk", *disk.text(result["disk"])]
    parts += ["## Who takes part", _notes(result)]
    return "\n\n".join([*parts, *absent(result)]) + "\n"


def _commands(result: Result) -> list[str]:
    return list(dict.fromkeys(result["commands"]))


def _measured_on(result: Result) -> str:
    machine = result["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    device = "" if machine["device"] == "cpu" else f" GPU: {machine['device']}."
    memory = f"{machine['cores']} cores, {machine['memory_gb']} GB"
    other = machine["elsewhere"] and f" The other Python has jax {machine['elsewhere']}."
    return (
        f"Measured on {machine['processor']}, {memory}.{device} {machine['system']}; Python "
        f"{machine['python']}; {libraries}. float32, where no other is named.{other}"
    )


def _section(found: Result) -> str:
    head, *cells = ["| " + " | ".join(row) + " |" for row in rows(found)]
    lines = [
        f"### {found['workload']['name']}",
        "",
        f"{found['workload']['title']}. Floor: {floor_line(found['floor'])}.",
        "",
        head,
        "|---" * len(rows(found)[0]) + "|",
        *cells,
    ]
    steps = [e["once"]["steps"] for e in found["participants"].values() if "once" in e]
    whole = f"; a whole process makes {steps[0]:,} steps" if steps else ""
    lines += ["", f"Medians of {_rounds(found)} rounds{whole}."]
    if behind(found):
        lines += ["", *_products(found)]
    return "\n".join(lines)


def _rounds(found: Result) -> int:
    return max((len(e.get("seconds", ())) for e in found["participants"].values()), default=0)


def behind(found: Result) -> bool:
    """Whether a peer is faster than jaxnet's fastest."""
    ratios = {n: e["ratio"][0] for n, e in found["participants"].items() if "ratio" in e}
    ours = min((r for n, r in ratios.items() if n in JAXNET), default=0)
    return any(r < ours for n, r in ratios.items() if n not in JAXNET)


def _products(found: Result) -> list[str]:
    """The profile of a workload that a peer wins: each product of the step, alone, by backend."""
    floor = found["floor"]
    names = [*floor["products_us"]]
    lines = [
        "A peer is ahead here. The products of a step, each alone, in us:",
        "",
        "| product | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for i, p in enumerate(floor["products"]):
        turned = f", {p['transposed']} transposed" if p["transposed"] else ""
        cells = [microseconds(floor["products_us"][name][i]) for name in names]
        lines.append(
            f"| ({p['m']} x {p['k']}) ({p['k']} x {p['n']}){turned} | {' | '.join(cells)} |"
        )
    sums = [microseconds(sum(floor["products_us"][name])) for name in names]
    return [*lines, f"| all | {' | '.join(sums)} |"]


def _levers(result: Result) -> str:
    """What was tried to make the reference faster: a line for each, a column for each workload."""
    found, on = result["levers"], result["levers"][0]["machine"]
    about = f"{on['processor']}, {on['cores']} cores, jax {on['libraries']['jax']}"
    elsewhere = f" Measured on another machine: {about}." if on != result["machine"] else ""
    names = [w["workload"]["name"] for w in found]
    lines = [
        "## Levers",
        "",
        "Variants of the reference scan, each with one change; its time over the reference's."
        + elsewhere,
        "",
        "| lever | " + " | ".join(names) + " | |",
        "|---" * (len(names) + 2) + "|",
    ]
    for name, lever in LEVERS.items():
        entries = [w["participants"].get(name, {}) for w in found]
        cells = [f"{e['ratio'][0]:.2f}" if "ratio" in e else "-" for e in entries]
        lines.append(f"| {lever.note} | {' | '.join(cells)} | {lever.verdict} |")
    return "\n".join(lines)


def _notes(result: Result) -> str:
    known = PEERS | LEVERS
    names = {name for w in result["workloads"] for name in w["participants"]}
    return "\n".join(f"- **{name}**: {known[name].note}." for name in known if name in names)
