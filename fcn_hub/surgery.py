"""Surgery: the weights of one network in another that differs in its classes or its decoder.

After the paper's own (github.com/shelhamer/fcn.berkeleyvision.org, surgery.py). What has no
counterpart in the old network begins as in any new one: scores and classifiers of new classes,
interpolations as bilinear ones.
"""

from typing import Any

import torch

from fcn_hub.checkpoint import ConfigError
from fcn_hub.labels import LabelMap
from fcn_hub.model import FCN

# The paper's decoders, coarse to fine.
_FINER = ("fcn32s", "fcn16s", "fcn8s")


def arguments_of(model: FCN) -> dict[str, Any]:
    """The constructor's arguments that make such a network."""
    return {key: value for key, value in model.config.items() if key != "config_version"}


def adapt_classes(model: FCN, labels: LabelMap) -> FCN:
    """The same network for other classes: every tensor is kept but those of the classifier.

    Args:
        model: A trained network.
        labels: The classes wanted. Where their names are the model's own, in the same order,
            the classifier is kept, too.

    Returns:
        A new network; what depends on the classes is new.
    """
    adapted = FCN(**{**arguments_of(model), "num_classes": len(labels), **labels.to_config()})
    kept = model.state_dict()
    if labels.names != model.label_map.names:
        # What depends on the classes is what has another shape with one class more.
        more = LabelMap.from_names(map(str, range(len(model.label_map) + 1)))
        with torch.device("meta"):
            larger = FCN(**{**arguments_of(model), "num_classes": len(more), **more.to_config()})
        shapes = {name: tensor.shape for name, tensor in larger.state_dict().items()}
        kept = {name: kept[name] for name in kept if kept[name].shape == shapes[name]}
    adapted.load_state_dict({**adapted.state_dict(), **kept})
    return adapted.train(model.training)


def refine(model: FCN, decoder: str, **options: bool) -> FCN:
    """FCN-16s from a trained FCN-32s, or FCN-8s from either (Long et al., 2015, §4.2).

    The scores of the pool outputs that come in begin at zero, so that the new network starts as
    its parent, but for rounding a longer interpolation into two or three shorter ones.

    Args:
        model: One of the paper's networks.
        decoder: The same or a finer one: ``"fcn32s"``, ``"fcn16s"`` or ``"fcn8s"``.
        **options: `at_once` and `learn_interpolation` where they are not the model's own.

    Returns:
        A new network.

    Raises:
        ConfigError: The decoder is coarser than the model's, or not one of these three.
    """
    before = model.decoder_name
    if before not in _FINER or decoder not in _FINER[_FINER.index(before) :]:
        raise ConfigError(f"{decoder} cannot be made of {before}; 32s, 16s, 8s is the order.")
    refined = FCN(**{**arguments_of(model), **options, "decoder": decoder})
    kept = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if decoder == before or "upscore" not in name
    }
    refined.load_state_dict({**refined.state_dict(), **kept})
    return refined.train(model.training)
