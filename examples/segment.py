"""Segment one picture and say what is in it.

pip install fcn-hub
python examples/segment.py photo.jpg --model owner/name --output segmented
"""

import argparse
from pathlib import Path

from fcn_hub import Segmenter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("picture")
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--output", type=Path, default=Path("segmented"))
    args = parser.parse_args()

    segmenter = Segmenter.from_pretrained(args.model)
    result = segmenter(args.picture)

    for entry in result.legend:  # the classes in the picture, largest first
        sure = result.confidence[result.label_map == entry.index].mean()
        print(f"{entry.name}: {entry.fraction:.1%} of the picture, confidence {sure:.2f}")

    args.output.mkdir(parents=True, exist_ok=True)
    result.save(args.output / "mask.png")  # class indices; the palette holds the colours
    result.overlay(legend=True).save(args.output / "overlay.png")

    # Cut the largest class out of the picture.
    cutout = result.image.copy()
    cutout.putalpha(result.to_hub()[0]["mask"])
    cutout.save(args.output / "cutout.png")


if __name__ == "__main__":
    main()
