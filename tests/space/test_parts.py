"""The web app's parts that need no server: the catalog of models, the read-outs, the words."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import make_picture, make_tiny_model
from PIL import Image
from serving import SPACE, batch, catalog, read_outs, save_models, texts

from fcn_hub import Segmenter


@pytest.fixture
def folders(tmp_path):
    return save_models(tmp_path)


def test_the_models_on_offer_come_from_the_environment(folders):
    animals, odd = map(str, folders)
    commit = "owner/name@0123abc"
    listed = {"FCN_HUB_MODELS": f"{animals}, {commit} {odd}", "FCN_HUB_MODEL": "x"}
    assert catalog.offered(listed) == [
        catalog.Source("animals", animals),
        catalog.Source("owner/name", "owner/name", "0123abc"),
        catalog.Source("odd-names", odd),
    ]
    single = {"FCN_HUB_MODEL": "owner/name"}
    assert catalog.offered(single) == [catalog.Source("owner/name", "owner/name")]


def test_a_listed_hub_id_needs_a_revision():
    with pytest.raises(ValueError, match="needs a revision: owner/name@COMMIT"):
        catalog.offered({"FCN_HUB_MODELS": "owner/name"})


def test_two_models_of_one_name_are_refused(folders):
    with pytest.raises(ValueError, match="same name"):
        catalog.offered({"FCN_HUB_MODELS": f"{folders[0]} {folders[0]}"})


def test_no_more_models_are_in_memory_than_allowed(folders):
    sources = [catalog.Source.parse(str(folder)) for folder in folders]
    models = catalog.Catalog(sources, capacity=1, max_side=640, device="cpu")
    assert models.loaded == ["animals"]
    first = models.segmenter("animals")
    assert models.segmenter("animals") is first
    assert len(models.segmenter("odd-names").labels) == 4
    assert models.loaded == ["odd-names"]
    with pytest.raises(KeyError):
        models.segmenter("owner/name")


@pytest.mark.parametrize(("own", "seen"), [(None, 640), (320, 320), (2000, 640)])
def test_a_network_sees_pictures_as_it_has_learned_to_within_the_apps_limit(tmp_path, own, seen):
    make_tiny_model(max_side=own).save_pretrained(tmp_path)
    models = catalog.Catalog([catalog.Source.parse(str(tmp_path))], max_side=640, device="cpu")
    assert models.segmenter(tmp_path.name).max_side == seen


def test_what_is_not_known_of_a_model_is_none(folders):
    facts = catalog.describe(catalog.Source.parse(str(folders[0])))
    assert facts["name"] == "animals"
    assert [each["name"] for each in facts["classes"]] == ["background", "cat", "dog"]
    assert facts["classes"][1]["color"] == "#e69f00"
    unknown = ("evaluation", "licence", "licence_link", "link")
    assert [facts[key] for key in unknown] == [None] * 4
    (folders[0] / "README.md").unlink()
    assert catalog.describe(catalog.Source.parse(str(folders[0])))["summary"] is None


@pytest.mark.parametrize("link", ["javascript:alert(1)", "LICENSE"])
def test_a_card_can_link_to_pages_only(folders, link):
    card = f"---\nlicense: other\nlicense_name: x\nlicense_link: {link}\n---\n"
    (folders[0] / "README.md").write_text(card)
    assert catalog.describe(catalog.Source.parse(str(folders[0])))["licence_link"] is None


def test_figures_and_licence_come_from_the_models_own_files(folders):
    head = "license: other\nlicense_name: data-terms\nlicense_link: https://example.org/terms"
    body = (
        "# Card\n\n![A picture](a.png)\n\nA *tiny* network ([how](x.md)),\nfor tests. And more.\n"
    )
    card = f"---\n{head}\n---\n{body}"
    (folders[0] / "README.md").write_text(card)
    record = {"mean_iu": 0.61, "pixel_accuracy": 0.9, "pictures": 100, "protocol": "Single scale."}
    (folders[0] / "evaluation.json").write_text(json.dumps({**record, "more": 1}))
    facts = catalog.describe(catalog.Source.parse(str(folders[0])))
    assert facts["licence"] == "data-terms"
    assert facts["licence_link"] == "https://example.org/terms"
    assert facts["summary"] == "A tiny network (how), for tests."
    assert facts["evaluation"] == record
    (folders[0] / "evaluation.json").write_text("[]")
    assert catalog.describe(catalog.Source.parse(str(folders[0])))["evaluation"] is None


def test_of_the_shipped_models_the_everyday_one_comes_first(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\ntitle: FCN\n---\n")
    for name in ("a-roads", "fcn-vgg16-voc7", "z-plants"):
        make_tiny_model().save_pretrained(tmp_path / "checkpoints" / name)
    monkeypatch.setattr(catalog, "HERE", tmp_path)
    found = [source.name for source in catalog.offered({})]
    assert found == ["fcn-vgg16-voc7", "a-roads", "z-plants"]


def test_withholding_keeps_how_much_and_forgets_where():
    pools = [torch.rand(1, 3, 64 // 2**step, 96 // 2**step) for step in range(5)]
    withheld = read_outs.withhold(pools, 8)
    for pool, blurred, own in zip(pools, withheld, (2, 4, 8, 16, 32), strict=True):
        assert blurred.shape == pool.shape
        if own >= 8:
            assert blurred is pool
            continue
        torch.testing.assert_close(blurred.mean((2, 3)), pool.mean((2, 3)))
        side = 8 // own
        cells = blurred.unfold(2, side, side).unfold(3, side, side).flatten(4)
        torch.testing.assert_close(cells.amax(-1), cells.amin(-1))


@pytest.mark.parametrize(
    ("config", "finest"),
    [({}, 2), ({"skips": 2}, 8), ({"skips": 0}, 32), ({"decoder": "fcn16s", "fc_channels": 8}, 16)],
)
def test_below_the_finest_skip_nothing_changes_any_more(config, finest):
    segmenter = Segmenter(make_tiny_model(**config), device="cpu", dtype="float32")
    found = read_outs.read_out(segmenter, Image.fromarray(make_picture(64, 96)))
    assert found.finest == finest
    answers = dict(zip(read_outs.STRIDES, found.build_up, strict=True))
    for stride in (each for each in read_outs.STRIDES if each < finest):
        np.testing.assert_array_equal(answers[stride], answers[finest])


@pytest.mark.parametrize("size", [(64, 96), (50, 71)])
@pytest.mark.parametrize("decoder", ["deconv", "fcn32s", "fcn8s"])
def test_the_last_stage_is_the_networks_own_answer(size, decoder):
    options = {} if decoder == "deconv" else {"fc_channels": 6}
    model = make_tiny_model(decoder=decoder, **options)
    for parameter in model.decoder.parameters():  # scores begin at zero
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    segmenter = Segmenter(model, device="cpu", dtype="float32")
    picture = Image.fromarray(make_picture(*size))
    found = read_outs.read_out(segmenter, picture)
    assert len(found.build_up) == len(found.heat) == len(read_outs.STRIDES) == 5
    np.testing.assert_array_equal(found.build_up[-1], segmenter(picture).label_map)
    # Cells that lie wholly in the padding are not shown.
    for step, heat in enumerate(found.heat):
        assert heat.shape == tuple(-(-side // 2 ** (step + 1)) for side in size)


@pytest.mark.parametrize(("max_side", "seen"), [(48, (48, 32)), (None, (384, 256))])
def test_the_look_inside_sees_what_the_segmenter_sees(max_side, seen):
    segmenter = Segmenter(make_tiny_model(max_side=max_side), device="cpu", dtype="float32")
    found = read_outs.read_out(segmenter, Image.fromarray(make_picture(320, 480)))
    assert found.picture.size == seen
    assert {labels.shape for labels in found.build_up} == {seen[::-1]}


def test_a_batch_that_is_broken_off_leaves_no_file(tmp_path):
    segmenter = Segmenter(make_tiny_model(), device="cpu")
    uploads = [batch.Upload(str(number), f"{number}.png") for number in range(3)]
    names = segmenter.labels.names
    answers = batch.segment_many(
        uploads, names, lambda path: segmenter(make_picture(40, 40)), tmp_path / "masks.zip"
    )
    next(answers)
    answers.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("=HYPERLINK(1).png", "HYPERLINK_1_.png"),
        ("猫 1.png", "猫_1.png"),
        ("@", ""),
    ],
)
def test_names_in_an_archive_are_harmless(name, left):
    assert batch.harmless(name) == left


def test_both_languages_say_the_same_things():
    assert list(texts.ENGLISH) == list(texts.CHINESE)
    for key, english in texts.ENGLISH.items():
        assert sorted(re.findall(r"{\w+}", english)) == sorted(
            re.findall(r"{\w+}", texts.CHINESE[key])
        )


def test_every_word_of_the_page_is_there():
    for path in [*SPACE.glob("*.html"), *SPACE.glob("*.js")]:
        source = path.read_text(encoding="utf-8")
        used = re.findall(r'data-t(?:-label)?="(\w+)"', source) + re.findall(
            r'say\("(\w+)"', source
        )
        assert set(used) <= set(texts.ENGLISH), path.name


def test_the_examples_state_their_licences():
    notes = (SPACE / "examples" / "README.md").read_text(encoding="utf-8")
    for path in (SPACE / "examples").glob("*.[jm]p[g4]"):
        assert f"`{path.name}`" in notes
