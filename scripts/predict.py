"""Segment any number of pictures: `python scripts/predict.py --help`."""

import logging
import sys


def main() -> None:
    try:
        import tyro

        from fcn_hub.bulk import PredictConfig, SourceError, predict
        from fcn_hub.bulk.engines import EngineError
        from fcn_hub.bulk.predicting import PredictError
    except ImportError as error:
        sys.exit(f"{error}\nBulk prediction needs: pip install 'fcn-hub[bulk]'")
    from fcn_hub.checkpoint import CheckpointError, ConfigError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    problems = (CheckpointError, ConfigError, EngineError, PredictError, SourceError, OSError)
    try:
        print(predict(tyro.cli(PredictConfig)))
    except problems as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on.")


if __name__ == "__main__":
    main()
