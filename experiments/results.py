"""The recorded runs of results.toml: as RESULTS.md with plots, and as the part of an experiment's --help.

`python -m experiments.results` writes the page and its plots anew.
"""

import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Run: TypeAlias = Mapping[str, Any]  # a table of results.toml
SOURCE = Path(__file__).with_suffix(".toml")
ROOT = SOURCE.resolve().parents[1]
PAGE, PLOTS = ROOT / "RESULTS.md", ROOT / "docs/images/results"
# Names of the fields, as they are printed.
FIELDS = {name: name for name in ("what", "command", "hardware", "time", "score", "note", "published")}
FIELDS["reach"] = "to reach it"
# Required and optional fields of each kind of table.
TABLES = {
    "run": ({"experiment", "title", *FIELDS} - {"note"}, {"note", "plot"}),
    "pod": ({"config", "trains", "program", "slice", "memory", "step", "run", "published"}, {"estimate"}),
}
PUBLISHED, PLAIN = "#777777", "#08519c"
HEADER = """# Results

Every recorded run: what was run with which command, on which hardware, how long it took, and its score beside
baselines, the published score, and what it would take to reach that here. Most runs are small on purpose: they show on
two CPU cores that training works, and say so where a baseline is better. Nothing here ran on an accelerator unless its
row says so.

This page and its plots are written by `python -m experiments.results` from `experiments/results.toml`, and `--help` of
an experiment prints the same. [Benchmarks](benchmarks/README.md) has speed and memory compared with other libraries.
"""

PODS = """
## The papers' settings, on a pod

Configs with the settings of the papers, for slices of TPU v5e. None of them ran: memory and time are those of
`jaxmodels estimate`, which compiles the training step for the slice. A step takes at least the time of its matrix
products at peak, or of its memory traffic; real ones take longer, and collectives are not counted.
"""


def read(kind: str = "run", source: Path = SOURCE) -> list[Run]:
    """Return the recorded runs, or with "pod" the estimates of the papers' settings.

    Raises:
      ValueError: A table lacks a field, or has an unknown one.
    """
    found = tomllib.loads(source.read_text(encoding="utf-8")).get(kind, [])
    required, optional = TABLES[kind]
    for run in found:
        if not required <= run.keys() <= required | optional:
            wrong = sorted(required - run.keys() | run.keys() - required - optional)
            name = run.get("title", run.get("config"))
            raise ValueError(f"{source.name}, {name!r}: missing or unknown: {', '.join(wrong)}")
    return found


def help_text(experiment: str) -> str:
    """Return the runs of an experiment as a part of its --help; "" if there are none."""
    blocks = []
    for run in read():
        if run["experiment"] == experiment:
            lines = [_wrapped(name, run[name]) for name in FIELDS if name in run]
            blocks.append("\n".join([f"  {run['title']}", *lines]))
    return "\n".join(["Measured:", *blocks]) if blocks else ""


def _wrapped(name: str, text: str) -> str:
    first = f"    {FIELDS[name]:13}"
    return textwrap.fill(text, 119, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)


def page(runs: Sequence[Run], pods: Sequence[Run]) -> str:
    """Return RESULTS.md."""
    table = "\n".join(["| run | score | published |", "|---|---|---|", *map(_row, runs)])
    return "\n\n".join([HEADER.strip(), table, *map(_section, runs), PODS.strip(), *_pod_parts(pods)]) + "\n"


def _pod_parts(pods: Sequence[Run]) -> list[str]:
    """Return the table of the estimates, and their commands."""
    columns = {"trains": "trains", "program": "compiled", "slice": "slice", "memory": "memory of a chip"}
    columns |= {"step": "a step, at least", "run": "the run, at least", "published": "published score"}
    rows = [["config", *columns.values()], ["---"] * (1 + len(columns))]
    for pod in pods:
        link = f"[{pod['config']}](experiments/configs/{pod['config']}.py)"
        rows.append([link, *(pod[name] for name in columns)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    commands = "\n".join(pod["estimate"] for pod in pods if "estimate" in pod)
    return [table, f"```bash\n{commands}\n```"]


def _row(run: Run) -> str:
    return f"| [{run['title']}](#{_anchor(run['title'])}) | {run['score']} | {run['published']} |"


def _section(run: Run) -> str:
    command = f"```bash\n{run['command']}\n```"
    items = "\n".join(_item(name, run[name]) for name in FIELDS if name in run and name != "command")
    parts = [f"## {run['title']}", command, items]
    if "plot" in run:
        parts.append(f"![{run['title']}: {run['plot']['unit']}]({plot_file(run).relative_to(ROOT).as_posix()})")
    return "\n\n".join(parts)


def _item(name: str, text: str) -> str:
    label = f"- **{FIELDS[name].capitalize()}:** "
    return textwrap.fill(label + text, 120, subsequent_indent="  ", break_on_hyphens=False)


def _anchor(title: str) -> str:
    """Return the anchor that a code host and the site give a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def plot_file(run: Run) -> Path:
    """Return the picture of a run."""
    return PLOTS / f"{_anchor(run['title'])}.svg"


def plot(run: Run, path: Path) -> None:
    """Draw the scores of a run and its baselines as horizontal bars; published ones are grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels, values = zip(*run["plot"]["bars"], strict=True)
    # The same file every time: text as text, and ids that depend on the picture only.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": run["title"]}):
        figure, axes = plt.subplots(figsize=(7, 0.7 + 0.34 * len(labels)), layout="constrained")
        colours = [PUBLISHED if "(published)" in label else PLAIN for label in labels]
        bars = axes.barh(labels, values, color=colours, height=0.6)
        axes.bar_label(bars, [f"{value:g}" for value in values], padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(values))
        axes.set_xlabel(run["plot"]["unit"])
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    """Write the page, and the plots."""
    runs = read()
    PLOTS.mkdir(parents=True, exist_ok=True)
    for run in runs:
        if "plot" in run:
            plot(run, plot_file(run))
    PAGE.write_text(page(runs, read("pod")), encoding="utf-8")


if __name__ == "__main__":
    main()
