"""Measure a checkpoint on a data set: `python scripts/evaluate.py --help`."""

import logging
import sys


def main() -> None:
    try:
        import tyro

        from fcn_hub.checkpoint import ConfigError
        from fcn_hub.evaluation import evaluate_checkpoint, processes
    except ImportError as error:
        sys.exit(f"{error}\nEvaluation needs: pip install 'fcn-hub[train]'")
    from fcn_hub.checkpoint import CheckpointError
    from fcn_hub.datasets import DatasetError
    from fcn_hub.labels import LabelMapError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        evaluation = tyro.cli(evaluate_checkpoint)
    except (CheckpointError, ConfigError, DatasetError, LabelMapError) as error:
        sys.exit(f"error: {error}")
    if processes().is_main_process:
        print(evaluation.format_table())


if __name__ == "__main__":
    main()
