"""Push a checkpoint's folder to the Hub: `python scripts/push_to_hub.py --help`."""

import argparse
import sys
from pathlib import Path

from fcn_hub.checkpoint import CheckpointError, ConfigError
from fcn_hub.hub import HubError
from fcn_hub.images import ImageError
from fcn_hub.publish import publish


def main() -> None:
    options = vars(parse_arguments())
    try:
        commit = publish(options.pop("folder"), options.pop("repo_id"), **options)
    except (CheckpointError, ConfigError, HubError, ImageError) as error:
        sys.exit(f"error: {error}")
    print(commit.pr_url or commit)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Push a checkpoint to the Hub in one commit: configuration, weights, card, "
        "records and sample. Files that are there already are not sent again."
    )
    parser.add_argument("folder", type=Path, help="such as runs/mine/best")
    parser.add_argument("repo_id", help="where to, as owner/name; created where there is none")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--branch", help="push to this branch, created where there is none")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--tag", help="tag the commit, such as v1.0")
    parser.add_argument("--commit-message", default="Push model with fcn-hub")
    parser.add_argument(
        "--overwrite-card",
        action="store_true",
        help="replace a card that was edited on the Hub; otherwise its text is kept, and only the "
        "figures in its front matter are renewed",
    )
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="PICTURE",
        help="draw the card's sample.png from this picture, which you may publish",
    )
    parser.add_argument("--sample-credit", help="who made it and under which licence")
    parser.add_argument("--license", help="of the weights, as the Hub names it, such as cc-by-4.0")
    parser.add_argument(
        "--transformers",
        action="store_true",
        help="add what transformers.pipeline('image-segmentation') needs",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
