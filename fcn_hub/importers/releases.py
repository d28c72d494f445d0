"""Weights that others have published: what they are, their terms, and what their authors measured.

The figures are quoted, not measured here. Sources: the README and class lists of
github.com/shelhamer/fcn.berkeleyvision.org, the README of github.com/wkentaro/pytorch-fcn (which
quotes all four figures of the authors' networks), and the notes that the VGG team gives with its
file (gist.github.com/ksimonyan/211839e770f7b538e2d8).
"""

from dataclasses import dataclass, field
from typing import Any

from fcn_hub.labels import LabelMap

_FCN = "https://github.com/shelhamer/fcn.berkeleyvision.org"
_VGG_MEAN = (103.939, 116.779, 123.68)
_VOC_MEAN = (104.00699, 116.66877, 122.67892)


@dataclass(frozen=True)
class Release:
    """Published weights.

    Args:
        title: What they are.
        link: Where they come from.
        files: The names under which they are published.
        mean: What was subtracted from pictures in training, BGR in 0..255.
        labels: The classes; None where the network is a classifier.
        dataset: What they were trained on, as `fcn_hub.card` names it, or None.
        published: What the authors measured.
        license: The front matter's license, license_name and license_link.
    """

    title: str
    link: str
    files: tuple[str, ...]
    mean: tuple[float, float, float]
    labels: LabelMap | None = None
    dataset: str | None = None
    published: str = ""
    license: dict[str, str] = field(default_factory=dict)

    @property
    def image_mean(self) -> tuple[float, ...]:
        """The mean as `FCN` takes it: RGB in 0..1."""
        return tuple(value / 255 for value in reversed(self.mean))

    @property
    def config(self) -> dict[str, Any]:
        """What the release says of the network's configuration."""
        return {"image_mean": self.image_mean, **(self.labels.to_config() if self.labels else {})}


_FCN_LICENSE = {
    "license": "other",
    "license_name": "bvlc-model-license-unrestricted",
    "license_link": "http://caffe.berkeleyvision.org/model_zoo.html",
}
_CC_BY = {"license": "cc-by-4.0"}


def _classes(text: str) -> LabelMap:
    return LabelMap.from_names([name.strip() for name in text.split(",")])


_SIFT_FLOW = _classes(
    "awning, balcony, bird, boat, bridge, building, bus, car, cow, crosswalk, desert, door, fence,"
    "field, grass, moon, mountain, person, plant, pole, river, road, rock, sand, sea, sidewalk,"
    "sign, sky, staircase, streetlight, sun, tree, window"
)
_NYUD = _classes(
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter,"
    "blinds, desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books,"
    "refridgerator, television, paper, towel, shower curtain, box, whiteboard, person, night stand,"
    "toilet, sink, lamp, bathtub, bag, otherstructure, otherfurniture, otherprop"
)
_PASCAL_CONTEXT = _classes(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable,"
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench,"
    "book, building, cabinet, ceiling, clothes, computer, cup, door, fence, floor, flower, food,"
    "grass, ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock,"
    "shelves, sidewalk, sky, snow, bedcloth, track, tree, truck, wall, water, window, wood"
)


def _voc(name: str, files: tuple[str, ...], figures: str, more: str = "") -> Release:
    return Release(
        title=f"{name} for PASCAL VOC by Long, Shelhamer and Darrell",
        link=_FCN,
        files=files,
        mean=_VOC_MEAN,
        labels=LabelMap.VOC,
        dataset="voc",
        published=f"{figures} % pixel accuracy, mean accuracy, mean IU and frequency-weighted IU "
        f"on PASCAL VOC 2011, split seg11valid (736 pictures){more}",
        license=_FCN_LICENSE,
    )


def _other(name: str, data: str, file: str, mean: tuple[float, ...], labels: LabelMap) -> Release:
    return Release(
        title=f"{name} for {data} by Shelhamer, Long and Darrell",
        link=_FCN,
        files=(file,),
        mean=mean,  # type: ignore[arg-type]
        labels=labels,
        published="see the tables of arXiv:1605.06211",
        license=_FCN_LICENSE,
    )


RELEASES = {
    "voc-fcn32s": _voc(
        "FCN-32s",
        ("fcn32s-heavy-pascal.caffemodel", "fcn32s_from_caffe.pth"),
        "90.5, 76.5, 63.6 and 83.5",
    ),
    "voc-fcn16s": _voc(
        "FCN-16s",
        ("fcn16s-heavy-pascal.caffemodel", "fcn16s_from_caffe.pth"),
        "91.0, 78.1, 65.0 and 84.3",
    ),
    "voc-fcn8s": _voc(
        "FCN-8s",
        ("fcn8s-heavy-pascal.caffemodel", "fcn8s_from_caffe.pth"),
        "91.2, 77.6, 65.5 and 84.5",
        "; 67.2 % mean IU on the test set of 2012",
    ),
    "voc-fcn8s-atonce": _voc(
        "FCN-8s at-once",
        ("fcn8s-atonce-pascal.caffemodel", "fcn8s-atonce_from_caffe.pth"),
        "91.1, 78.5, 65.4 and 84.4",
    ),
    **{
        f"{key}-fcn{stride}s": _other(
            f"FCN-{stride}s", data, f"{key}-fcn{stride}s-heavy.caffemodel", mean, labels
        )
        for stride in (32, 16, 8)
        for key, data, mean, labels in (
            ("siftflow", "SIFT Flow's semantic classes", (114.578, 115.294, 108.353), _SIFT_FLOW),
            ("pascalcontext", "PASCAL-Context", (104.007, 116.669, 122.679), _PASCAL_CONTEXT),
        )
    },
    "nyud-fcn32s-color": _other(
        "FCN-32s",
        "the colour pictures of NYUDv2",
        "nyud-fcn32s-color-heavy.caffemodel",
        (116.190, 97.203, 92.318),
        _NYUD,
    ),
    "vgg16": Release(
        title="VGG-16 for ImageNet by Simonyan and Zisserman",
        link="https://www.robots.ox.ac.uk/~vgg/research/very_deep/",
        files=(
            "VGG_ILSVRC_16_layers.caffemodel",
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        ),
        mean=_VGG_MEAN,
        published="8.1 % top-5 error as a classifier on ImageNet's validation set of 2012, single "
        "scale",
        license=_CC_BY,
    ),
}


def release_of(file_name: str) -> str | None:
    """The release that is published under a file's name."""
    for key, release in RELEASES.items():
        if file_name in release.files:
            return key
    return None
