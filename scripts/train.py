"""Train a network: `python scripts/train.py --help`; docs/training.md shows how."""

import logging
import shlex
import sys


def main() -> None:
    try:
        from fcn_hub.training import TrainingError, check_data, parse_config, train
    except ImportError as error:
        sys.exit(f"error: {error}")
    from fcn_hub.checkpoint import CheckpointError, ConfigError
    from fcn_hub.datasets import DatasetError
    from fcn_hub.labels import LabelMapError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = parse_config(sys.argv[1:])
        if config.check:
            reports = check_data(config)
            print("\n\n".join(report.format_table() for report in reports))
            sys.exit(any(report.faults for report in reports))
        best = train(config, command=shlex.join(sys.argv))
    except (TrainingError, DatasetError, CheckpointError, ConfigError, LabelMapError) as error:
        sys.exit(f"error: {error}")
    if best.is_dir():
        print(best)


if __name__ == "__main__":
    main()
