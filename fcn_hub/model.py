"""FCN: the backbone, the decoder and everything needed to use them, as one Hub-native class.

The network of Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation" (CVPR 2015), together with its class names, colours and normalisation. All of it
travels in one folder or Hub repository: `config.json`, `model.safetensors` and the card.
"""

import inspect
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub import CommitInfo, ModelCard, PyTorchModelHubMixin
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.backbone import (
    CAFFE_MEAN_ACTIVATIONS,
    CAFFE_NORMALIZATION,
    TORCHVISION_NORMALIZATION,
    VGG16,
    torchvision_state_dict,
)
from fcn_hub.checkpoint import (
    CARD_NAME,
    CONFIG_NAME,
    WEIGHTS_NAME,
    CheckpointError,
    ConfigError,
    listing,
    read_config,
    read_state_dict,
)
from fcn_hub.decoders import DeconvDecoder, ScoreDecoder
from fcn_hub.files import atomic_write
from fcn_hub.hub import commit_of, fetch_file, push_folder
from fcn_hub.labels import LabelMap, LabelMapError

CONFIG_VERSION = 1
# Keys of config.json beside the constructor's arguments; the second is for transformers.
_NO_ARGUMENTS = ("config_version", "auto_map")

# The decoders, and each one's own arguments with what they are where not given.
_SCORES = {"fc_channels": 4096, "learn_interpolation": False}
DECODERS: dict[str, dict[str, Any]] = {
    "deconv": {"skips": 4, "bn_first": False},
    "fcn32s": _SCORES,
    "fcn16s": {**_SCORES, "at_once": False},
    "fcn8s": {**_SCORES, "at_once": False},
}

Self = TypeVar("Self", bound="FCN")


class FCN(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="fcn-hub",
    pipeline_tag="image-segmentation",
    tags=["fcn", "vgg16", "semantic-segmentation"],
    paper_url="https://arxiv.org/abs/1411.4038",
):
    """VGG fully convolutional network for semantic segmentation.

    The constructor's arguments are the keys of config.json. The weights are random: see
    `from_imagenet` for a pretrained backbone and `from_pretrained` for a trained network.

    Args:
        num_classes: Number of classes, 1 to 65,536.
        decoder: ``"deconv"``, five learned upsampling steps with skips (`DeconvDecoder`), or
            ``"fcn32s"``, ``"fcn16s"`` or ``"fcn8s"``, the paper's networks (`ScoreDecoder`).
        skips: For deconv: how many pool outputs the decoder adds, deepest first, 0 to 4; 4 where
            None.
        bn_first: For deconv: whether batch normalisation comes before the addition; False where
            None.
        fc_channels: For the paper's networks: channels of fc6 and fc7; VGG-16's 4096 where None.
        learn_interpolation: For the paper's networks: whether training may change the
            interpolations, which begin as bilinear ones; False where None.
        at_once: For fcn16s and fcn8s: scale pool4 by 0.01 and pool3 by 0.0001, to train all
            streams together from weights with the activations of the original VGG-16; False
            where None.
        base_channels: Channels of the first stage; VGG-16 has 64.
        class_names: One unique name per class; ``class_0 …`` where None.
        class_colors: One unique RGB triple (0..255) per class; made up where None.
        ignore_index: The label of unlabelled pixels. Where None, 255, or the number of classes
            where that is above 255.
        image_mean: What `forward` expects to be subtracted from pictures in 0..1 RGB.
        image_std: What `forward` expects them to be divided by after that.
        max_side: The longest side, in pixels, at which the network has learned to see pictures;
            `Segmenter` scales larger ones down to it. None for pictures at their own size.

    Raises:
        ConfigError: An argument has a wrong type or value.

    Example:
        >>> model = FCN(num_classes=21)
        >>> model(torch.zeros(1, 3, 375, 500)).shape
        torch.Size([1, 21, 375, 500])
    """

    def __init__(
        self,
        num_classes: int = 21,
        decoder: str = "deconv",
        *,
        skips: int | None = None,
        bn_first: bool | None = None,
        fc_channels: int | None = None,
        learn_interpolation: bool | None = None,
        at_once: bool | None = None,
        base_channels: int = 64,
        class_names: Sequence[str] | None = None,
        class_colors: Sequence[Sequence[int]] | None = None,
        ignore_index: int | None = None,
        image_mean: Sequence[float] = TORCHVISION_NORMALIZATION[0],
        image_std: Sequence[float] = TORCHVISION_NORMALIZATION[1],
        max_side: int | None = None,
    ) -> None:
        super().__init__()
        self.decoder_name = decoder
        self.decoder_options = _decoder_options(
            decoder,
            {
                "skips": skips,
                "bn_first": bn_first,
                "fc_channels": fc_channels,
                "learn_interpolation": learn_interpolation,
                "at_once": at_once,
            },
        )
        self.num_classes = _integer("num_classes", num_classes, 1, 65_536)
        self.base_channels = _integer("base_channels", base_channels, 1, 1024)
        self.image_mean = _numbers("image_mean", image_mean, 0.0, 1.0)
        self.image_std = _numbers("image_std", image_std, 1e-6, 1e6)
        self.max_side = None if max_side is None else _integer("max_side", max_side, 1, 65_536)
        self.label_map = _label_map(self.num_classes, class_names, class_colors, ignore_index)
        self.backbone: VGG16
        self.decoder: DeconvDecoder | ScoreDecoder
        if decoder == "deconv":
            self.backbone = VGG16(self.base_channels)
            self.decoder = DeconvDecoder(
                self.backbone.channels, self.num_classes, **self.decoder_options
            )
        else:
            stride = int(decoder.removeprefix("fcn").removesuffix("s"))
            self.backbone = VGG16(self.base_channels, padding=100, ceil_mode=True)
            self.decoder = ScoreDecoder(
                self.backbone.channels, self.num_classes, stride, **self.decoder_options
            )
        self._hub_mixin_config = self.config

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as they stand in config.json: flat and JSON-only."""
        return {
            "config_version": CONFIG_VERSION,
            "num_classes": self.num_classes,
            "decoder": self.decoder_name,
            **self.decoder_options,
            "base_channels": self.base_channels,
            **self.label_map.to_config(),
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "max_side": self.max_side,
        }

    @property
    def num_parameters(self) -> int:
        """Number of values in all weights; 18,644,373 for deconv with 21 classes."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Compute one logit per class and pixel.

        The deconvolution decoder works on multiples of 32. Any other size is padded with zeros
        (the mean colour) on the right and at the bottom. The paper's networks pad every picture
        by 100 on all sides. The logits are cropped to match, so that pixel (0, 0) always meets
        the same phase of the pooling grid.

        Args:
            x: Normalised RGB pictures, float [N, 3, H, W] with any H, W ≥ 1:
                ``(picture / 255 - image_mean) / image_std``. `Segmenter` does it.

        Returns:
            Logits, float [N, num_classes, H, W].

        Raises:
            ValueError: x is not [N, 3, H, W].
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Expected pictures as [N, 3, H, W], not {list(x.shape)}.")
        height, width = x.shape[-2:]
        multiple = self.decoder.multiple
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        return self.decoder(self.backbone(x))[..., :height, :width]

    @classmethod
    def from_config(cls: type[Self], config: dict[str, Any]) -> Self:
        """A network as a config.json describes it, with random weights.

        Raises:
            ConfigError: An unknown key, no num_classes, or a value that cannot be used.
        """
        _check_config_keys(config, cls)
        return cls(**{key: config[key] for key in config if key not in _NO_ARGUMENTS})

    @classmethod
    def from_imagenet(
        cls: type[Self],
        num_classes: int = 21,
        decoder: str = "deconv",
        *,
        weights: str | Path = "caffe",
        calibration: Tensor | None = None,
        **config: Any,
    ) -> Self:
        """An untrained network on a backbone that has learned ImageNet, ready for training.

        The Caffe weights' activations are huge and uneven, from 0.9 (conv5_3) to over 200
        (conv3_2), which drowns the decoder's deep path wherever a skip is added. They are divided
        by their mean, layer by layer (`VGG16.divide_activations`), which leaves the function
        unchanged up to scale. `at_once`, which is the paper's answer to the same thing, keeps
        them as they are.

        fc6 and fc7 of the paper's networks are those of the classifier, as convolutions, where
        the weights have them: torchvision's do. Otherwise they are random. For the original ones
        import the Caffe file (`fcn_hub.importers`).

        Args:
            num_classes, decoder: As for the class.
            weights: ``"torchvision"`` (VGG16_Weights.IMAGENET1K_V1), ``"caffe"`` (the original
                weights, VGG16_Weights.IMAGENET1K_FEATURES), both downloaded by torchvision, or
                the path of a safetensors file with ``convX_Y.weight`` and ``convX_Y.bias``. A
                file is taken to hold Caffe-like weights (RGB, 0..255 minus the mean) unless
                `image_mean` and `image_std` say otherwise.
            calibration: RGB pictures, float 0..1 [N, 3, H, W], on which the mean activations to
                divide by are measured. Where None, stored constants serve the Caffe
                normalisation, and weights with any other are left as they are.
            **config: Further arguments of the class.

        Raises:
            CheckpointError: The file is missing, corrupt, or not VGG-16.
        """
        normalization = (
            TORCHVISION_NORMALIZATION if weights == "torchvision" else CAFFE_NORMALIZATION
        )
        config = {"image_mean": normalization[0], "image_std": normalization[1], **config}
        model = cls(num_classes, decoder, **config)
        if weights in ("torchvision", "caffe"):
            try:
                state = torchvision_state_dict(str(weights))
            except OSError as error:
                raise CheckpointError(f"Could not download the weights: {error}.") from None
        else:
            state = read_state_dict(Path(weights), model.backbone, torch.float32, None)
        model.transplant(state)
        if model.decoder_options.get("at_once"):
            return model
        if calibration is not None:
            mean = torch.tensor(model.image_mean).view(3, 1, 1)
            std = torch.tensor(model.image_std).view(3, 1, 1)
            divisors: Sequence[float] = model.backbone.mean_activations((calibration - mean) / std)
        elif (model.image_mean, model.image_std) == CAFFE_NORMALIZATION:
            divisors = CAFFE_MEAN_ACTIVATIONS
        else:
            return model
        model.backbone.divide_activations(divisors)
        if "fc6.weight" in state and isinstance(model.decoder, ScoreDecoder):
            with torch.no_grad():
                model.decoder.fc6.weight.mul_(divisors[-1])
        return model

    def transplant(self, vgg16: Mapping[str, Tensor]) -> None:
        """Take over the weights of VGG-16, the classifier.

        Args:
            vgg16: ``convX_Y.weight`` and ``convX_Y.bias`` for the backbone and perhaps ``fc6.*``
                and ``fc7.*`` as convolutions, which go to a decoder that has such layers (Long
                et al., 2015, §4.1), with as many channels.

        Raises:
            ValueError: A convolution is missing or has another shape.
        """
        own = self.decoder.state_dict()
        fully_connected = {name: tensor for name, tensor in vgg16.items() if name[:2] == "fc"}
        convolutions = {n: t for n, t in vgg16.items() if n not in fully_connected}
        try:
            self.backbone.load_state_dict(convolutions)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        if all(n in own and own[n].shape == t.shape for n, t in fully_connected.items()):
            self.decoder.load_state_dict({**own, **fully_connected})

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Self],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: str | torch.device | None = None,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
    ) -> Self:
        """Load a trained network from a folder or from the Hub, in eval mode.

        Only config.json and model.safetensors are read. Every tensor must be there, with the
        right shape, and no other. On the CPU, tensors that need no conversion are mapped from
        the file, not copied: changing them in memory never changes the file.

        Args:
            pretrained_model_name_or_path: A folder, or a Hub id such as ``owner/name``.
            revision: Branch, tag or commit on the Hub; ``main`` where None.
            token, cache_dir, force_download, local_files_only: As for
                `huggingface_hub.hf_hub_download`.
            device: Where the tensors go; the CPU where None.
            dtype: Floating-point type of the tensors, or ``"auto"`` for the file's own.
                Checkpoints are often stored in half precision; float32 holds those exactly.

        Raises:
            CheckpointError: Not found, no permission, corrupt, or tensors that do not fit.
            ConfigError: config.json is not a configuration that this version understands.
        """
        fetch = partial(
            fetch_file,
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config_path = fetch(CONFIG_NAME)
        # On the meta device nothing is allocated or drawn at random; the file's tensors then
        # become the parameters.
        with torch.device("meta"):
            model = cls.from_config(read_config(config_path))
        target = None if dtype == "auto" else dtype
        # From the same commit, wherever the branch may be by now.
        weights_path = fetch(WEIGHTS_NAME, revision=commit_of(config_path) or revision)
        state = read_state_dict(weights_path, model, target, device)
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        config: dict[str, Any] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write config.json, model.safetensors and, where there is none yet, the card README.md.

        Each file is written whole or not at all. Tensors keep their type: `model.half()` first
        makes a file of half the size.

        Args:
            save_directory: Folder to write to; made if need be.
            config: Only there for the mixin's sake; must equal the model's own.
            repo_id, push_to_hub, **push_to_hub_kwargs: Push to the Hub as well, with the folder's
                records, as `push_to_hub`.
            model_card_kwargs: Arguments of `fcn_hub.card.render_card`.

        Returns:
            The commit's URL where pushed, else None.
        """
        if config is not None and config != self.config:
            raise ConfigError("A model's configuration is its own; build another FCN to change it.")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with atomic_write(folder / WEIGHTS_NAME) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        with atomic_write(folder / CONFIG_NAME) as temporary:
            text = json.dumps(self.config, indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        if not (folder / CARD_NAME).exists():
            values = {"folder": folder, "repo_id": repo_id, **(model_card_kwargs or {})}
            card = self.generate_model_card(**values)
            with atomic_write(folder / CARD_NAME) as temporary:
                temporary.write_text(str(card), encoding="utf-8")
        if not push_to_hub:
            return None
        kwargs = {"folder": folder, "model_card_kwargs": model_card_kwargs, **push_to_hub_kwargs}
        return self.push_to_hub(repo_id or folder.name, **kwargs)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        config: dict[str, Any] | None = None,
        commit_message: str = "Push model with fcn-hub",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        tag: str | None = None,
        folder: str | Path | None = None,
        overwrite_card: bool = False,
        transformers: bool = False,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> CommitInfo:
        """Push config.json, model.safetensors and the card to the Hub, in one commit.

        Args:
            repo_id: Where to, as ``owner/name``; created where there is none.
            config: Only there for the mixin's sake; must equal the model's own.
            commit_message, private, token, branch, create_pr, tag, overwrite_card,
                allow_patterns, ignore_patterns, delete_patterns: As for
                `fcn_hub.hub.push_folder`.
            folder: Where the model's records lie: its card, training.json, evaluation.json and
                sample.png are pushed along, and the card is made of them. Networks exported into
                it (`fcn_hub.export`) are pushed along, too, unless they hold other weights.
            transformers: Push along what ``transformers.pipeline`` needs
                (`fcn_hub.transformers.add_files`).
            model_card_kwargs: Further arguments of `fcn_hub.card.render_card`.

        Returns:
            The commit: a string with its URL, whose `oid` and `pr_url` tell more.

        Raises:
            HubError: Wrong token, missing permission, no network …; the message says what to do.

        Example:
            >>> model.push_to_hub("owner/name", private=True, tag="v1.0")  # doctest: +SKIP
        """
        from fcn_hub.card import EVALUATION_NAME, SAMPLE_NAME, TRAINING_NAME, write_card
        from fcn_hub.runtimes import copy_exports

        with TemporaryDirectory() as temporary:
            place = Path(temporary)
            for name in (CARD_NAME, TRAINING_NAME, EVALUATION_NAME, SAMPLE_NAME):
                if folder is not None and (Path(folder) / name).is_file():
                    shutil.copyfile(Path(folder) / name, place / name)
            if folder is not None:
                copy_exports(self, Path(folder), place)
            self.save_pretrained(place, config=config)
            if transformers:
                from fcn_hub.transformers import add_files

                add_files(place)
            write_card(self, place, **{"repo_id": repo_id, **(model_card_kwargs or {})})
            return push_folder(
                place,
                repo_id,
                commit_message=commit_message,
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
                tag=tag,
                overwrite_card=overwrite_card,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )

    def generate_model_card(self, **values: Any) -> ModelCard:  # type: ignore[override]
        """The card that `save_pretrained` writes; `values` as for `fcn_hub.card.render_card`."""
        from fcn_hub.card import render_card

        return render_card(self, **values)


def _decoder_options(decoder: Any, given: dict[str, Any]) -> dict[str, Any]:
    """A decoder's own arguments, checked and complete; `given` has None for those not given."""
    if not isinstance(decoder, str) or decoder not in DECODERS:
        raise ConfigError(f"decoder must be one of {', '.join(DECODERS)}, not {decoder!r}.")
    options = {**DECODERS[decoder], **{k: v for k, v in given.items() if v is not None}}
    if foreign := [key for key in options if key not in DECODERS[decoder]]:
        raise ConfigError(f"The decoder {decoder} has no {listing(foreign)}.")
    ranges = {"skips": (0, 4), "fc_channels": (1, 65_536)}
    for key, value in options.items():
        if key in ranges:
            _integer(key, value, *ranges[key])
        elif not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, not {value!r}.")
    return options


def _integer(key: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{key} must be an integer in {least}..{most}, not {value!r}.")
    return value


def _numbers(key: str, values: Any, least: float, most: float) -> tuple[float, ...]:
    is_triple = isinstance(values, list | tuple) and len(values) == 3
    if not is_triple or not all(
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
        for value in values
    ):
        raise ConfigError(
            f"{key} must be three numbers (red, green, blue) in {least:g}..{most:g}, "
            f"not {values!r}."
        )
    return tuple(float(value) for value in values)


def _label_map(num_classes: int, names: Any, colors: Any, ignore_index: Any) -> LabelMap:
    if names is None:
        names = [f"class_{index}" for index in range(num_classes)]
    try:
        label_map = LabelMap.from_names(names, colors, ignore_index)
    except LabelMapError as error:
        raise ConfigError(str(error)) from None
    if len(label_map) != num_classes:
        raise ConfigError(f"num_classes is {num_classes} but there are {len(label_map)} names.")
    return label_map


def _check_config_keys(config: dict[str, Any], cls: type[FCN]) -> None:
    version = config.get("config_version", CONFIG_VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError(f"config_version must be a positive integer, not {version!r}.")
    if version > CONFIG_VERSION:
        raise ConfigError(
            f"The model's config_version is {version}, this fcn-hub reads up to {CONFIG_VERSION}. "
            "Upgrade with `pip install --upgrade fcn-hub`."
        )
    known = {*_NO_ARGUMENTS, *inspect.signature(cls).parameters}
    if unknown := sorted(set(config) - known):
        raise ConfigError(
            f"config.json has unknown keys: {listing(unknown)}; known are: "
            f"{listing(sorted(known), most=len(known))}."
        )
    if "num_classes" not in config:
        raise ConfigError("config.json lacks num_classes; it does not describe an FCN.")
