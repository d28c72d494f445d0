"""Training runs beside each other, by time: `python scripts/compare_runs.py RUN… --output FOLDER`.

Reads the folders of runs of `scripts/train.py`, finished or not, and writes runs.json, what the
curves are made of, and runs.png: loss and mean IU over the minutes of training.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fcn_hub.evaluation import running_mean
from fcn_hub.files import atomic_write, write_json


def main() -> None:
    args = parse_arguments()
    names = args.names or [folder.name for folder in args.runs]
    if len(set(names)) != len(args.runs):
        sys.exit(f"error: {len(args.runs)} runs need as many different --names, not {names}.")
    try:
        runs = {name: read(folder) for name, folder in zip(names, args.runs, strict=True)}
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: not the folder of a run that has been evaluated: {error}")
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "runs.json", runs)
    with atomic_write(args.output / "runs.png") as temporary:
        draw(runs).savefig(temporary, dpi=120, format="png")
    for name, run in runs.items():
        for each in run["evaluations"]:
            mean_iu = "none" if each["mean_iu"] is None else f"{each['mean_iu']:.3f}"
            print(f"{name}: {mean_iu} at step {each['step']}, {each['minutes']:.1f} min")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training runs beside each other, by time.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders", metavar="RUN")
    parser.add_argument("--names", nargs="+", help="what the legend calls them")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="a folder")
    return parser.parse_args()


def read(folder: Path) -> dict[str, Any]:
    """A run's command, hardware and curves."""
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    minutes, losses = zip(*((line["seconds"] / 60, line["loss"]) for line in lines), strict=True)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return {
        "command": record["command"],
        "hardware": record["hardware"],
        "minutes": [round(each, 2) for each in minutes],
        "loss": [round(each, 4) for each in running_mean(losses)],
        "evaluations": [
            {
                "step": each["step"],
                "minutes": round(minutes[each["step"] - 1], 2),
                "mean_iu": each["mean_iu"],
                "pixel_accuracy": each["pixel_accuracy"],
                "pictures": each["pictures"],
            }
            for each in record["evaluations"]
        ],
    }


def draw(runs: dict[str, dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for name, run in runs.items():
        (line,) = above.plot(run["minutes"], run["loss"], label=name)
        marks = run["evaluations"]
        places = [each["minutes"] for each in marks]
        below.plot(places, [each["mean_iu"] or 0 for each in marks], "o-", color=line.get_color())
    above.set_ylabel("training loss, running mean")
    above.set_ylim(bottom=0)
    above.legend()
    below.set(xlabel="minutes", ylabel="mean IU", ylim=(0, 1))
    below.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
