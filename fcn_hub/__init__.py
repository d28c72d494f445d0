"""The VGG fully convolutional network for semantic segmentation, native to the Hugging Face Hub.

The public names load on first use, so `import fcn_hub` itself costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fcn_hub.checkpoint import CheckpointError as CheckpointError
    from fcn_hub.checkpoint import ConfigError as ConfigError
    from fcn_hub.hub import HubError as HubError
    from fcn_hub.images import ImageError as ImageError
    from fcn_hub.images import open_image as open_image
    from fcn_hub.labels import LabelMap as LabelMap
    from fcn_hub.labels import LabelMapError as LabelMapError
    from fcn_hub.model import FCN as FCN
    from fcn_hub.segmentation import LegendEntry as LegendEntry
    from fcn_hub.segmentation import Segmentation as Segmentation
    from fcn_hub.segmenter import Segmenter as Segmenter

_HOME = {
    "FCN": "model",
    "CheckpointError": "checkpoint",
    "ConfigError": "checkpoint",
    "HubError": "hub",
    "Segmenter": "segmenter",
    "Segmentation": "segmentation",
    "LegendEntry": "segmentation",
    "LabelMap": "labels",
    "LabelMapError": "labels",
    "ImageError": "images",
    "open_image": "images",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
