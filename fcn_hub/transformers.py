"""The network as `transformers` wants it, for its image-segmentation pipeline.

A repository that is to work with it holds two more files, and a key `auto_map` in config.json (see
`add_files`). `transformers` then finds its way here, once its users allow that with
``trust_remote_code=True``: the one line of code in the repository imports this module of the
installed package.

Needs the extra: ``pip install "fcn-hub[transformers]"``.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerImageProcessor,
)
from transformers.image_utils import SizeDict
from transformers.modeling_outputs import SemanticSegmenterOutput

from fcn_hub.checkpoint import CONFIG_NAME, PROCESSOR_NAME, read_config
from fcn_hub.files import atomic_write
from fcn_hub.model import FCN

CODE_NAME = "modeling_fcn.py"


class FCNConfig(PreTrainedConfig):
    """The keys of config.json, and the names of the classes as `transformers` calls them."""

    model_type = "fcn-hub"

    def __init__(self, class_names: list[str] | None = None, **keys: Any) -> None:
        self.class_names = class_names
        if class_names:
            keys["id2label"] = dict(enumerate(class_names))
        super().__init__(**keys)


class FCNForSemanticSegmentation(PreTrainedModel):
    """An `FCN` as `transformers` wants it; its tensors have the names that the file gives them."""

    config_class = FCNConfig
    base_model_prefix = "fcn"
    main_input_name = "pixel_values"

    def __init__(self, config: FCNConfig) -> None:
        super().__init__(config)
        known = inspect.signature(FCN).parameters
        self.fcn = FCN(**{key: value for key, value in vars(config).items() if key in known})
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> SemanticSegmenterOutput:
        """Logits, float [N, num_classes, H, W], of normalised pictures, float [N, 3, H, W]."""
        return SemanticSegmenterOutput(logits=self.fcn(pixel_values))


class FCNImageProcessor(SegformerImageProcessor):
    """As SegFormer's: scale to 0..1, normalise, take each pixel's largest logit.

    But pictures are scaled down only, to a longest side of ``size["longest_edge"]`` pixels.
    """

    def resize(self, image: Tensor, size: SizeDict, *args: Any, **options: Any) -> Tensor:
        shape = image.shape[-2:]
        scale = (size.longest_edge or max(shape)) / max(shape)
        if scale >= 1:
            return image
        height, width = (max(1, round(side * scale)) for side in shape)
        return super().resize(image, SizeDict(height=height, width=width), *args, **options)


# For those who import this module themselves, and so that the pipeline does not warn.
AutoConfig.register(FCNConfig.model_type, FCNConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(FCNConfig, FCNForSemanticSegmentation, exist_ok=True)


def add_files(folder: str | Path) -> None:
    """Put into a model's folder what makes ``transformers.pipeline`` work on it.

    Raises:
        ConfigError: Its config.json cannot be used.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG_NAME)
    classes = {
        "AutoConfig": FCNConfig,
        "AutoModelForSemanticSegmentation": FCNForSemanticSegmentation,
        "AutoImageProcessor": FCNImageProcessor,
    }
    names = {auto: cls.__name__ for auto, cls in classes.items()}
    places = {auto: f"{Path(CODE_NAME).stem}.{name}" for auto, name in names.items()}
    max_side = config.get("max_side")
    processor = {
        "auto_map": {"AutoImageProcessor": places.pop("AutoImageProcessor")},
        "do_resize": max_side is not None,
        "size": {"longest_edge": max_side or 0},
        "image_mean": config["image_mean"],
        "image_std": config["image_std"],
    }
    texts = {
        CONFIG_NAME: json.dumps({**config, "auto_map": places}, indent=2, ensure_ascii=False),
        PROCESSOR_NAME: json.dumps(processor, indent=2),
        CODE_NAME: f"from {__name__} import {', '.join(names.values())}  # noqa: F401",
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
