"""Segment a picture with a Space, on its hardware.

    pip install gradio_client
    python examples/call_space.py owner/space photo.jpg

The Space may also be an address, such as http://127.0.0.1:7860 after `fcn-hub demo`.
"""

import argparse
import shutil
from pathlib import Path

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("space")
    parser.add_argument("picture", help="a file or its URL")
    parser.add_argument("--output", type=Path, default=Path("segmented"))
    args = parser.parse_args()

    client = Client(args.space, verbose=False)
    try:
        overlay, summary, mask = client.predict(
            picture=handle_file(args.picture), opacity=0.6, api_name="/segment"
        )
    except AppError as error:  # not a picture, too large …: the app says what is accepted
        raise SystemExit(f"error: {error}") from None

    for entry in summary["classes"]:
        print(f"{entry['name']}: {entry['fraction']:.1%}, confidence {entry['confidence']:.2f}")
    args.output.mkdir(parents=True, exist_ok=True)
    shutil.move(overlay, args.output / "overlay.png")
    shutil.move(mask, args.output / "mask.png")


if __name__ == "__main__":
    main()
