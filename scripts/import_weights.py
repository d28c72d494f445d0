"""Make a checkpoint of weights from elsewhere: `python scripts/import_weights.py --help`."""

import argparse
import json
import sys
from typing import Any

from fcn_hub.checkpoint import CheckpointError, ConfigError
from fcn_hub.importers import FORMATS, RELEASES, convert_checkpoint
from fcn_hub.labels import LabelMap
from fcn_hub.model import DECODERS

LABEL_MAPS = {
    "voc": LabelMap.VOC,
    "voc7": LabelMap.VOC7,
    "camvid": LabelMap.CAMVID,
    "cityscapes": LabelMap.CITYSCAPES,
    "ade20k": LabelMap.ADE20K,
}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("file", help="a .pth, .safetensors, .caffemodel or .h5 file")
    parser.add_argument("folder", help="where to write the checkpoint")
    parser.add_argument("--format", default="auto", choices=["auto", *FORMATS])
    parser.add_argument(
        "--release",
        choices=RELEASES,
        metavar="NAME",
        help="which published weights the file is, where its name does not tell: "
        + ", ".join(RELEASES),
    )
    parser.add_argument("--decoder", choices=DECODERS, help="what to put on VGG-16, the classifier")
    parser.add_argument("--num-classes", type=int, help="of a decoder put on VGG-16")
    parser.add_argument("--labels", choices=LABEL_MAPS, help="the classes are those of a data set")
    parser.add_argument(
        "--config",
        type=json.loads,
        default={},
        metavar="JSON",
        help="further arguments of FCN, such as '{\"skips\": 2}' or '{\"at_once\": true}'",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    config: dict[str, Any] = LABEL_MAPS[args.labels].to_config() if args.labels else {}
    config |= {"decoder": args.decoder} if args.decoder else {}
    config |= {"num_classes": args.num_classes} if args.num_classes else {}
    config |= args.config
    try:
        model = convert_checkpoint(
            args.file, args.folder, args.format, release=args.release, **config
        )
    except (CheckpointError, ConfigError, TypeError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{args.folder}: {model.decoder_name}, {model.num_classes} classes, "
        f"{model.num_parameters:,} parameters"
    )


if __name__ == "__main__":
    main()
