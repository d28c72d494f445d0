"""The model card: README.md of a model folder, rendered from the template `model_card.md`."""

from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard

from fcn_hub.files import resource

if TYPE_CHECKING:
    from fcn_hub.model import FCN


def render_card(model: "FCN", **values: Any) -> ModelCard:
    """The card of a model. What is not known is said to be so, never made up.

    Args:
        model: The model that the card describes.
        **values: Markdown for the template's places: `repo_id`, `accuracy`, `training`,
            `licence`.
    """
    return ModelCard.from_template(
        model._hub_mixin_info.model_card_data,
        template_str=resource("model_card.md").read_text(encoding="utf-8"),
        config=model.config,
        colors=[model.label_map.color_hex(index) for index in range(len(model.label_map))],
        num_parameters=model.num_parameters,
        **{"repo_id": "owner/name", **values},
    )
