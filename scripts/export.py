"""Export a model for ONNX Runtime, OpenVINO and others: `python scripts/export.py --help`."""

import sys

from fcn_hub.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
