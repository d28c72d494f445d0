"""Create or update the web app's Space on the Hub: `python scripts/deploy_space.py --help`."""

import argparse
import os
import sys

from fcn_hub.deploy import plan_deployment
from fcn_hub.hub import HubError


def main() -> None:
    args = parse_arguments()
    try:
        plan = plan_deployment(
            args.space,
            args.models,
            hardware=args.hardware,
            variables=dict(args.variable),
            secrets={name: os.environ[name] for name in args.secret},
            private=args.private,
        )
        print(plan.describe())
        if args.send:
            print(plan.send())
        else:
            print("Nothing was sent. To send it, add --send.")
    except KeyError as error:
        sys.exit(f"error: --secret takes its value from the environment; set {error.args[0]}.")
    except HubError as error:
        sys.exit(f"error: {error}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Create or update a Gradio Space with the web app. Without --send it only "
        "shows what would be sent."
    )
    parser.add_argument("space", help="the Space, as owner/name")
    parser.add_argument(
        "models",
        nargs="+",
        help="models to offer, as owner/name or owner/name@revision; pinned to their commits",
    )
    parser.add_argument("--hardware", help="such as cpu-basic, zero-a10g or t4-small")
    parser.add_argument(
        "--variable",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a public environment variable of the Space; may be repeated",
    )
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="a secret of the Space, with the value that NAME has in this environment",
    )
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--send", action="store_true", help="send it")
    return parser.parse_args()


def assignment(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    main()
