"""Fine-tune a network on a folder of your own, and publish what it has learned.

    pip install "fcn-hub[train]"
    hf auth login
    python examples/finetune_and_push.py mydata --init owner/name --push-to you/your-model

The folder holds images/train, masks/train, images/val, masks/val and labels.txt; docs/training.md
describes it, and `python scripts/train.py --dataset folder --data-root mydata --check` checks it.
"""

import argparse
import json

from fcn_hub.publish import publish
from fcn_hub.training import TrainingConfig, train


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--init", default="caffe", help="a trained FCN, or caffe for VGG-16")
    parser.add_argument("--push-to", required=True, help="owner/name")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--run-dir", default="runs/finetuned")
    args = parser.parse_args()

    config = TrainingConfig(
        dataset="folder",
        data_root=args.folder,
        run_dir=args.run_dir,
        init=args.init,  # the classes need not be the same: all but the classifier is kept
        steps=args.steps,
        batch_size=4,
        warmup=min(100, args.steps // 10),
        eval_every=max(1, args.steps // 4),
        class_weighting=0.3,  # so that rare classes are learned, too
        save_dtype="float16",  # half the size, and what is measured is what is published
    )
    best = train(config)  # run again, it goes on where it was

    figures = json.loads((best / "evaluation.json").read_text())
    print(f"mean IU {figures['mean_iu']:.3f} on {figures['pictures']} pictures")
    print(publish(best, args.push_to, commit_message=f"Mean IU {figures['mean_iu']:.3f}"))


if __name__ == "__main__":
    main()
