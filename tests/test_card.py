"""The model card: what it says is what the records say, and nothing that they hold is markup."""

import ast
import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import make_picture, make_tiny_model
from huggingface_hub import ModelCard
from PIL import Image

from fcn_hub import FCN, LabelMap, Segmenter
from fcn_hub.card import (
    FIGURES,
    escape,
    make_legend,
    make_sample,
    merge_card,
    render_card,
    write_card,
)
from fcn_hub.checkpoint import ConfigError

NAMES = ("background", "cat", "cow")
PROTOCOL = (
    "voc7 val, all 157 pictures, labels at their original resolution; single scale; no flip; "
    "whole pictures; float32 on cpu. One confusion matrix over all pictures; pixels labelled 255 "
    "are ignored; classes absent from both truth and prediction are left out of means."
)
VERSIONS = {"python": "3.11.9", "fcn-hub": "0.1.0", "torch": "2.15.0"}


@pytest.fixture
def model() -> FCN:
    return make_tiny_model(class_names=NAMES)


def evaluation_record(**changes) -> dict:
    return {
        "model": "runs/voc7",
        "revision": None,
        "pixel_accuracy": 0.9123456,
        "mean_accuracy": 0.8234567,
        "mean_iu": 0.7345678,
        "frequency_weighted_iu": 0.8456789,
        "classes_counted": 2,
        "class_iu": {"background": 0.9091, "cat": 0.5601, "cow": None},
        "class_accuracy": {"background": 0.9501, "cat": 0.6969, "cow": None},
        "class_pixels": {"background": 3_000_000, "cat": 1_000_000, "cow": 0},
        "pictures": 157,
        "protocol": PROTOCOL,
        "options": {"dataset": "voc7", "split": "val", "scales": [1.0], "flip": False},
        "ignore_index": 255,
        "seconds_per_picture": 0.5312,
        "hardware": "Some CPU, 2 of 2 threads",
        "versions": VERSIONS,
        "date": "2026-11-23T01:02:03+00:00",
        **changes,
    }


def training_record(**changes) -> dict:
    evaluations = [
        {"step": step, "mean_iu": mean_iu, "pixel_accuracy": 0.5 + mean_iu / 2, "pictures": 157}
        for step, mean_iu in [(500, 0.3111), (1000, 0.7345678), (1500, 0.7222)]
    ]
    return {
        "command": "scripts/train.py --dataset voc7 --data-root 'my data' --init caffe "
        "--steps 1500 --batch-size 8 --crop 320 320 --run-dir runs/voc7 --mixed-precision bf16",
        "config": {
            "init": "caffe",
            "batch_size": 8,
            "optimizer": "adamw",
            "lr": 0.001,
            "schedule": "poly",
            "crop": [320, 320],
            "mixed_precision": "bf16",
        },
        "seed": 7,
        "dataset": {
            "name": "voc7",
            "train": {"split": "train", "pictures": 2974},
            "val": {"split": "val", "pictures": 157, "evaluated": 157},
        },
        "finished": True,
        "steps": 1500,
        "samples": 12_000,
        "wall_seconds": 5423.2,
        "hardware": "Some GPU",
        "processes": 2,
        "versions": VERSIONS,
        "git_commit": "0123abc",
        "best": evaluations[1],
        "evaluations": evaluations,
        **changes,
    }


def render(model, **values) -> str:
    return str(render_card(model, **values))


def full_card(model, **values) -> str:
    values = {"training": training_record(), "evaluation": evaluation_record(), **values}
    return render(model, **values)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


# --- front matter ------------------------------------------------------------------------------


def test_the_front_matter_says_what_the_hub_needs(model):
    data = ModelCard(full_card(model)).data
    assert data.library_name == "fcn-hub"
    assert data.pipeline_tag == "image-segmentation"
    assert data.datasets == ["pascal-voc-2012"]
    assert {"fcn", "vgg16", "semantic-segmentation", "voc7"} <= set(data.tags)
    assert data.metrics == [
        *("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"),
    ]


def test_the_model_index_holds_exactly_the_figures_of_the_record(model):
    record = evaluation_record()
    data = ModelCard(full_card(model, repo_id="someone/fcn-voc7")).data
    assert data.model_name == "fcn-voc7"
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {metric: record[key] for key, _, metric in FIGURES}
    for result in data.eval_results:
        assert result.task_type == "image-segmentation"
        assert result.dataset_type == "pascal-voc-2012"
        assert result.dataset_name == "PASCAL VOC 2012, seven classes"
        assert result.dataset_split == "val"
        assert result.dataset_args == {"protocol": PROTOCOL, "pictures": 157}


def test_a_card_is_the_same_after_reading_it_back(model):
    card = full_card(model)
    assert str(ModelCard(card)) == card


def test_rendering_leaves_the_class_as_it_was(model):
    before = str(render_card(model))
    full_card(model, license="mit")
    assert str(render_card(model)) == before


@pytest.mark.parametrize(
    ("data_set", "name"),
    [
        ("camvid", "camvid-non-commercial-research"),
        ("voc7", "pascal-voc-2012-flickr-terms"),
        ("cityscapes", "cityscapes-non-commercial"),
    ],
)
def test_weights_are_under_the_terms_of_what_they_learned_from(model, data_set, name):
    training = training_record(dataset={"name": data_set})
    data = render_card(model, training=training).data
    assert (data.license, data.license_name) == ("other", name)
    assert data.license_link.startswith("http")


def test_camvid_weights_are_said_to_be_for_non_commercial_research(model):
    card = render(model, training=training_record(dataset={"name": "camvid"}))
    assert "**non-commercial research**" in section(card, "Licence")


def test_a_licence_comes_from_the_argument_then_the_record_then_the_data_set(model):
    training = training_record(license="cc-by-4.0")
    assert render_card(model, training=training).data.license == "cc-by-4.0"
    assert render_card(model, training=training).data.license_name is None
    card = render_card(model, training=training, license_name="mine", license_link="LICENSE")
    assert (card.data.license, card.data.license_name) == ("other", "mine")
    assert "| Weights | mine, see LICENSE |" in str(card)
    assert render_card(model).data.license == "unknown"


def test_the_base_model_is_named_where_it_is_known(model):
    assert render_card(model, base_model="a/b").data.base_model == "a/b"
    assert render_card(model, training={"base_model": "c/d"}).data.base_model == "c/d"
    # A folder may look like an id.
    training = training_record(config={"init": "runs/best"})
    assert render_card(model, training=training).data.base_model is None
    assert "Begun from the FCN runs/best" in render(model, training=training)


def test_the_trainings_before_the_last_one_are_told_of(model):
    first = training_record(dataset={"name": "camvid"}, command="scripts/train.py --first")
    second = training_record(config={"init": "a/b"}, command="train.py --second", before=first)
    record = training_record(config={"init": "runs/c"}, command="train.py --third", before=second)
    card = render(model, training=record)
    training = section(card, "Training")
    order = ["--third", "Earlier trainings", "CamVid, 11 classes", "--first"]
    order += ["PASCAL VOC 2012, seven classes", "--second"]
    places = [training.index(order[0])]
    for text in order[1:]:
        places.append(training.index(text, places[-1]))
    assert training.count("the weights after 1,000 steps, mean IU 73.46 %") == 2
    licence = dict(row[:2] for row in rows(section(card, "Licence")))
    assert licence["Backbone"].startswith("VGG-16 that has learned ImageNet")
    earlier = licence["Pictures of an earlier training, CamVid, 11 classes"]
    assert "non-commercial research" in earlier
    assert "Flickr" in licence["Training pictures"]
    # What was learned from pictures for research only stays so, whatever is learned afterwards.
    assert front_matter(card)["license_name"] == "camvid-non-commercial-research"
    assert "Earlier" not in section(render(model, training=training_record()), "Training")


def test_weights_taken_over_before_the_training_keep_their_origin_and_terms(model):
    imported = {
        "imported": {"title": "FCN-8s of PASCAL VOC", "link": "https://example.org/fcn8s"},
        "license": "other",
        "license_name": "for-research-only",
        "dataset": {"name": "voc"},
    }
    card = render(model, training=training_record(config={"init": "fcn8s"}, before=imported))
    training = dict(row[:2] for row in rows(section(card, "Training")))
    assert training["Weights"] == "FCN-8s of PASCAL VOC"
    assert training["Its terms"] == "for-research-only"
    licence = dict(row[:2] for row in rows(section(card, "Licence")))
    assert licence["Backbone"] == "Begun from the FCN fcn8s, whose own terms apply as well."


def test_what_is_switched_off_is_no_part_of_the_recipe(model):
    config = {"optimizer": "adamw", "class_weighting": 0.0, "repeat_threshold": 0.0, "ema": 0.0}
    text = section(render(model, training=training_record(config=config)), "Training")
    assert dict(row[:2] for row in rows(text))["Recipe"] == "AdamW"
    config |= {"class_weighting": 0.3, "repeat_threshold": 0.25}
    text = section(render(model, training=training_record(config=config)), "Training")
    recipe = "AdamW, class weights to the power 0.3, rare classes repeated below a share of 0.25"
    assert dict(row[:2] for row in rows(text))["Recipe"] == recipe


def test_a_chain_of_trainings_without_end_is_cut(model):
    record = training_record()
    for _ in range(200):
        record = training_record(before=record)
    assert section(render(model, training=record), "Training").count("| setting |") == 10


@pytest.mark.parametrize(("name", "expected"), [("owner/roads", ["owner/roads"]), ("folder", None)])
def test_only_ids_are_listed_as_data_sets_of_the_hub(model, name, expected):
    training = training_record(dataset={"name": name})
    assert render_card(model, training=training).data.datasets == expected


# --- what is not known -------------------------------------------------------------------------


def test_without_records_the_card_says_so_and_has_no_figure(model):
    card = render(model)
    data = ModelCard(card).data
    assert data.eval_results is None
    assert data.metrics is None
    assert data.datasets is None
    assert section(card, "Accuracy").strip() == "Not measured."
    assert section(card, "Training").strip() == "Not recorded."
    assert rows(section(card, "Classes"))[0] == ["index", "class", "colour"]
    assert "%" not in re.sub(r"```.*?```", "", card, flags=re.S)


def test_every_figure_of_a_card_is_in_a_record(model):
    card = full_card(model)
    text = re.sub(r"```.*?```", "", card.split("---\n", 2)[2], flags=re.S)
    records = json.dumps([training_record(), evaluation_record()])
    known = {f"{100 * float(number):.2f}" for number in re.findall(r"\b0\.\d+", records)}
    pixels = {"75.00", "25.00", "0.00"}  # class_pixels as shares
    assert set(re.findall(r"\b\d+\.\d\d\b(?!\.)", text)) <= known | pixels


def test_missing_keys_are_said_to_be_missing(model):
    card = render(model, training={"seed": 3}, evaluation={"mean_iu": 0.5})
    assert "| Seed | 3 |" in card
    for title in ("Data", "Initial weights", "Steps", "Hardware", "Wall time", "Versions", "Code"):
        assert f"| {title} | Not recorded. |" in card
    assert "The command is not recorded." in card
    accuracy = section(card, "Accuracy")
    assert rows(accuracy)[2:] == [["Mean IU", "50.00"]]
    assert "On a data set that is not recorded:" in accuracy
    assert "Protocol: Not recorded." in accuracy
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_iou", 0.5)


@pytest.mark.parametrize(
    "value", [None, "0.9", True, float("nan"), float("inf"), 10**400, 1.5, -0.1, [0.9], {}]
)
def test_a_figure_that_is_none_is_not_printed(model, value):
    card = render(model, evaluation=evaluation_record(mean_iu=value))
    assert "Mean IU" not in section(card, "Accuracy")
    assert "mean_iou" not in front_matter(card)["metrics"]


@pytest.mark.parametrize("junk", [None, 3, 10**400, "x", [1], [[1]], {"a": {"b": []}}, True])
def test_records_of_any_shape_render(model, junk):
    for record in (training_record(), evaluation_record()):
        changed = dict.fromkeys(record, junk)
        card = render(model, training=changed, evaluation=changed)
        assert ModelCard(card).data.eval_results is None
        assert section(card, "Accuracy").strip() == "Not measured."


def test_a_record_that_is_no_json_object_is_an_error_that_names_it(model, tmp_path):
    (tmp_path / "evaluation.json").write_text("[0.9")
    with pytest.raises(ConfigError, match=r"evaluation\.json is not valid JSON"):
        render_card(model, tmp_path)


def test_an_evaluation_of_other_weights_is_left_out(model, checkpoint):
    weights = (checkpoint / "model.safetensors").read_bytes()
    record = evaluation_record(weights_sha256=hashlib.sha256(weights).hexdigest())
    (checkpoint / "evaluation.json").write_text(json.dumps(record))
    assert "73.46" in render(model, folder=checkpoint)
    (checkpoint / "model.safetensors").write_bytes(weights + b" ")
    card = render(model, folder=checkpoint)
    assert "73.46" not in card
    assert "about other weights" in section(card, "Accuracy")
    assert ModelCard(card).data.eval_results is None


def test_an_unfinished_run_is_said_to_be_one(model):
    assert "**This run has not ended**" in render(model, training=training_record(finished=False))
    assert "has not ended" not in full_card(model)


def test_figures_from_elsewhere_are_labelled_published(model):
    card = render(model, training=training_record(dataset={"name": "camvid"}))
    (line,) = [line for line in card.splitlines() if "FC-DenseNet103" in line]
    assert "*published*" in line
    assert ModelCard(card).data.eval_results is None


# --- body --------------------------------------------------------------------------------------


def test_classes_come_from_the_model_with_their_figures(model):
    table = rows(section(full_card(model), "Classes"))
    colors = [f"`{model.label_map.color_hex(index)}`" for index in range(3)]
    assert table[2:] == [
        ["0", "background", colors[0], "90.91", "95.01", "75.00"],
        ["1", "cat", colors[1], "56.01", "69.69", "25.00"],
        ["2", "cow", colors[2], "–", "–", "0.00"],
    ]


def test_the_accuracy_table_states_figures_split_and_protocol(model):
    text = section(full_card(model), "Accuracy")
    assert rows(text)[2:] == [
        ["Pixel accuracy", "91.23"],
        ["Mean accuracy", "82.35"],
        ["Mean IU", "73.46"],
        ["Frequency-weighted IU", "84.57"],
    ]
    assert "seven classes, split **val**, 157 pictures" in text
    assert f"- Protocol: {PROTOCOL}" in text
    assert "- Median time: 0.531 s per picture on Some CPU, 2 of 2 threads." in text


def test_the_training_section_says_how_to_repeat_the_run(model):
    text = section(full_card(model), "Training")
    table = dict(row for row in rows(text) if len(row) == 2)
    assert table["Data"] == "PASCAL VOC 2012, seven classes, split train, 2,974 pictures"
    assert table["Steps"] == "1,500, 12,000 samples (4.0 epochs)"
    assert table["Hardware"] == "2 × Some GPU"
    assert table["Wall time"] == "1 h 30 min"
    assert table["Seed"] == "7"
    assert "AdamW, batch size 8 per process, learning rate 0.001" in table["Recipe"]
    (block,) = re.findall(r"```bash\n(.*?)\n```", text, re.S)
    assert max(map(len, block.splitlines())) <= 100
    assert shlex.split(block.replace("\\\n", "")) == shlex.split(training_record()["command"])


def test_the_curve_is_summed_up(model):
    text = section(full_card(model), "Training")
    assert "3 evaluations on the split val (157 pictures), from 31.11 % to 72.22 %" in text
    assert "`▁██`" in text
    assert "| 1,000 (best) | 73.46 | 86.73 |" in text


def test_a_long_curve_and_many_classes_stay_short():
    model = make_tiny_model(num_classes=400)
    evaluations = [{"step": step, "mean_iu": step / 1000} for step in range(1000)]
    card = render(model, training=training_record(evaluations=evaluations))
    assert len(rows(section(card, "Training"))) < 25
    assert len(rows(section(card, "Classes"))) == 258
    assert "The remaining 144 classes are in `config.json`." in card


def test_pictures_are_shown_where_they_are(model, tmp_path):
    assert "![" not in full_card(model, folder=tmp_path)
    make_legend(model.label_map, tmp_path / "legend.png")
    make_sample(Segmenter(model), make_picture(40, 60), tmp_path / "sample.png")
    card = full_card(model, folder=tmp_path)
    pictures = dict(re.findall(r"!\[(.*?)\]\((.*?)\)", card))
    assert sorted(pictures.values()) == ["legend.png", "sample.png"]
    assert all(len(alt) > 30 for alt in pictures)


def test_the_terms_of_the_backbone_are_stated(model):
    for init, text in {
        "caffe": "[CC BY 4.0]",
        "torchvision": "BSD-3-Clause",
        "/some/where/vgg16.safetensors": "from the file vgg16.safetensors",
        "random": "random weights",
    }.items():
        licence = section(render(model, training=training_record(config={"init": init})), "Licence")
        (row,) = [row for row in rows(licence) if row[0] == "Backbone"]
        assert text in row[1]
        assert "/some/where" not in row[1]


def test_the_citation_is_in_the_card(model):
    assert "@inproceedings{long2015fully," in section(render(model), "Citation")


# --- the examples run --------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.fromarray(make_picture(48, 64)).save("photo.jpg")
    return tmp_path / "work"


def test_every_python_block_runs_as_it_stands(checkpoint, workplace, capsys):
    card = full_card(FCN.from_pretrained(checkpoint), repo_id=str(checkpoint))
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 2
    for block in blocks:
        namespace: dict = {}
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["logits"].shape == (1, 3, 240, 320)
    assert re.search(r"class_\d: \d+\.\d%", capsys.readouterr().out)
    assert np.asarray(Image.open("mask.png")).shape == (48, 64)
    assert Image.open("overlay.png").width >= 64


def test_the_command_runs_as_it_stands(checkpoint, workplace):
    card = full_card(FCN.from_pretrained(checkpoint), repo_id=str(checkpoint))
    (command,) = re.findall(r"^fcn-hub (segment .*)$", card, re.M)
    run = [sys.executable, "-m", "fcn_hub", *shlex.split(command)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(run, check=True, capture_output=True, env=environment)
    assert len(list((workplace / "segmented").iterdir())) == 1


def test_an_unknown_id_is_explained(model):
    assert "`owner/name` stands for this model's id" in render(model)
    card = render(model, repo_id="someone/roads")
    assert "owner/name" not in card
    assert card.count("someone/roads") == 3
    assert "\n# roads\n" in card


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(300, 400), (900, 300), (30, 40), (1, 1)])
def test_a_sample_shows_picture_and_overlay_side_by_side(model, tmp_path, height, width):
    picture = Image.fromarray(make_picture(height, width))
    make_sample(Segmenter(model), picture, tmp_path / "sample.png")
    sample = Image.open(tmp_path / "sample.png")
    picture.thumbnail((512, 512))
    assert sample.mode == "RGB"
    assert max(sample.size) < 1500
    left = sample.crop((0, 0, *picture.size))
    assert np.array_equal(np.asarray(left), np.asarray(picture))
    right = sample.crop((picture.width + 8, 0, 2 * picture.width + 8, picture.height))
    assert not np.array_equal(np.asarray(right), np.asarray(picture))
    assert sample.width > 2 * picture.width + 8 or sample.height > picture.height


def test_the_credit_travels_with_the_sample(model, tmp_path):
    credit = "Émilie <b>|\nCC BY 4.0"
    make_sample(Segmenter(model), make_picture(30, 40), tmp_path / "sample.png", credit=credit)
    assert "Picture: Émilie &#60;b&#62;&#124; CC BY 4.0\n" in render(model, folder=tmp_path)


def test_a_broken_sample_is_not_shown(model, tmp_path):
    (tmp_path / "sample.png").write_bytes(b"no picture")
    assert "sample.png" not in render(model, folder=tmp_path)


@pytest.mark.parametrize("labels", [LabelMap.VOC7, LabelMap.ADE20K], ids=["voc7", "ade20k"])
def test_the_legend_shows_every_colour(labels, tmp_path):
    make_legend(labels, tmp_path / "legend.png")
    legend = Image.open(tmp_path / "legend.png").convert("RGB")
    assert legend.width <= 1000
    found = {color for _, color in legend.getcolors(2**24)}
    assert found >= set(labels.colors)


def test_a_legend_of_very_many_classes_stays_small(tmp_path):
    make_legend(LabelMap.from_names([f"class {i}" for i in range(5000)]), tmp_path / "legend.png")
    assert max(Image.open(tmp_path / "legend.png").size) < 2000


# --- writing and merging -----------------------------------------------------------------------


def test_writing_a_card_brings_an_untouched_one_up_to_date(checkpoint):
    model = FCN.from_pretrained(checkpoint)
    assert "Not measured." in (checkpoint / "README.md").read_text()
    (checkpoint / "training.json").write_text(json.dumps(training_record()))
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation_record()))
    path = write_card(model, checkpoint, repo_id="a/b")
    assert path == checkpoint / "README.md"
    assert path.read_text() == render(model, folder=checkpoint, repo_id="a/b")
    assert (checkpoint / "legend.png").is_file()
    before = path.read_bytes()
    write_card(model, checkpoint, repo_id="a/b")
    assert path.read_bytes() == before


def test_saving_uses_the_records_and_the_id(model, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps(training_record()))
    model.save_pretrained(tmp_path, repo_id="someone/roads", model_card_kwargs={"license": "mit"})
    card = (tmp_path / "README.md").read_text()
    assert "| Seed | 7 |" in card
    assert "someone/roads" in card
    assert front_matter(card)["license"] == "mit"


def test_an_untouched_card_is_replaced(model):
    old, new = render(model), full_card(model)
    assert merge_card(old, new) == new
    assert merge_card(new, new) == new
    assert merge_card(old.replace("\n", "\r\n"), new) == new


def test_an_edited_text_is_kept_and_the_figures_are_renewed(model):
    old = full_card(model, evaluation=evaluation_record(mean_iu=0.1))
    edited = old.replace("## Limits", "## My own chapter\n\nWords.\n\n## Limits")
    new = full_card(model)
    merged = merge_card(edited, new)
    assert merged.split("---\n", 2)[2] == edited.split("---\n", 2)[2]
    assert front_matter(merged) == front_matter(new)
    assert merge_card(merged, new) == merged


def test_an_edited_front_matter_keeps_its_keys_and_gets_the_figures(model):
    old = full_card(model, evaluation=evaluation_record(mean_iu=0.1))
    edited = old.replace("license: other", "license: mit\nthumbnail: me.png\nlanguage: [en]")
    edited = re.sub(r"license_(name|link):.*\n", "", edited).replace("- vgg16\n", "- my-tag\n")
    new = full_card(model)
    merged = merge_card(edited, new)
    front = front_matter(merged)
    assert front["license"] == "mit"
    assert "license_name" not in front
    assert (front["thumbnail"], front["language"]) == ("me.png", ["en"])
    assert "my-tag" in front["tags"]
    for key in ("model-index", "metrics", "datasets"):
        assert front[key] == front_matter(new)[key]
    assert merged.split("---\n", 2)[2] == new.split("---\n", 2)[2]
    assert merge_card(merged, new) == merged


def test_figures_of_earlier_weights_do_not_stay(model):
    edited = full_card(model).replace("license: other", "license: mit")
    front = front_matter(merge_card(edited, render(model)))
    assert "model-index" not in front
    assert "metrics" not in front


def test_results_of_another_origin_stay(model):
    other = {
        "task": {"type": "image-segmentation"},
        "dataset": {"type": "mine", "name": "Mine"},
        "metrics": [{"type": "mean_iou", "value": 0.4}],
    }
    entry = {"name": "by-hand", "results": [other]}
    front = {"metrics": ["my_metric"], "datasets": ["me/mine"], "model-index": [entry]}
    existing = f"---\n{yaml.safe_dump(front)}---\nBy hand.\n"
    merged = merge_card(existing, full_card(model))
    data = ModelCard(merged).data
    assert data.model_name == "by-hand"
    assert len(data.eval_results) == 5
    assert data.eval_results[-1].metric_value == 0.4
    assert data.metrics[-1] == "my_metric"
    front = front_matter(merge_card(existing, render(model)))
    assert front["model-index"] == [entry]
    assert front["datasets"] == ["me/mine"]


def test_a_card_without_front_matter_gets_one_and_keeps_its_text(model):
    merged = merge_card("# My model\n\n---\n\nWords\n", full_card(model))
    assert merged.endswith("---\n# My model\n\n---\n\nWords\n")
    assert len(ModelCard(merged).data.eval_results) == 4


@pytest.mark.parametrize(
    ("existing", "message"),
    [
        ("---\nlicense: [mit\n---\nText", "not valid YAML"),
        ("---\n- a\n- b\n---\nText", "must be a mapping"),
        ("---\n1: a\n---\nText", "must be a mapping"),
        ("---\nlicense: mit\nText", "no closing line"),
        ("---\na: !!python/object:os.system x\n---\n", "not valid YAML"),
        ("---\nmodel-index: 3\n---\nText", "model-index"),
        ("---\nmodel-index: [{name: x}]\n---\nText", "model-index"),
        ("---\nmodel-index: [{name: x, results: [1]}]\n---\nText", "model-index"),
        ("---\nmodel-index: {name: x, results: []}\n---\nText", "model-index"),
    ],
)
def test_a_malformed_front_matter_is_a_clear_error(model, existing, message):
    with pytest.raises(ValueError, match=message) as caught:
        merge_card(existing, render(model))
    assert "\n" not in str(caught.value)


def test_a_front_matter_of_aliases_does_not_explode(model):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    existing = "---\n" + "\n".join(lines) + "\n---\nText"
    assert len(merge_card(existing, render(model))) < 20_000


# --- text that is no markup --------------------------------------------------------------------

HOSTILE = [
    "a | b",
    "`code` ``",
    "two\nlines",
    "x\n---\nlicense: mit",
    "x\r\n\r\n## Heading",
    "<script>alert(1)</script>",
    "<!-- ",
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "http://evil.example",
    "www.evil.example",
    "$$\\href{x}{y}$$",
    "**bold** _it_ ~~gone~~",
    "{{ config }} {% for %}",
    "&lt;b&gt; &#60;",
    "end\\",
    ": {yaml: [",
    "'\"",
    "\u202egnp.exe",
    "\x00\x1b[31m",
    "\ud800",
    "```\n```",
]


def to_html(markdown: str) -> str:
    markdown_it = pytest.importorskip("markdown_it")
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True})
    return renderer.enable(["table", "strikethrough"]).render(markdown)


def tags(html: str) -> list[str]:
    return re.findall(r"</?[a-z0-9]+|<!--", re.sub(r"<code.*?</code>", "", html, flags=re.S))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_cell_of_text(text):
    html = to_html(f"| a | b |\n|---|---|\n| {escape(text)} | end |\n")
    assert tags(html) == tags(to_html("| a | b |\n|---|---|\n| word | end |\n"))
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert len(cells) == 2
    assert cells[1] == "end"
    assert not re.search(r"\$|http:|www\.", escape(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_records_and_names_change_words_and_nothing_else(text):
    def card(word: str) -> str:
        def filled(value):
            if isinstance(value, dict):
                return {key: filled(each) for key, each in value.items()}
            if isinstance(value, list):
                return [filled(each) for each in value]
            return f"A{word}" if isinstance(value, str) else value

        names = ["background", f"cat{word}", f"cow{word}"]
        records = {"training": filled(training_record()), "evaluation": filled(evaluation_record())}
        for record in records.values():
            record["versions"] = {f"A{word}": f"A{word}"}
            record["class_iu"] = dict.fromkeys(names, 0.5)
        return render(make_tiny_model(class_names=names), base_model=f"A{word}", **records)

    hostile, harmless = card(text), card("b")
    assert tags(to_html(hostile.split("---\n", 2)[2])) == tags(
        to_html(harmless.split("---\n", 2)[2])
    )
    front, expected = front_matter(hostile), front_matter(harmless)
    assert list(front) == list(expected)
    assert front["license"] == "unknown"
    assert len(ModelCard(hostile).data.eval_results) == 4
    assert "\n" not in front["base_model"]
    hostile.encode()


def test_a_hostile_command_stays_in_its_block(model):
    command = "train --name '```\n```\n# Title <b>' --x `y`"
    text = section(render(model, training=training_record(command=command)), "Training")
    (block,) = re.findall(r"^(`{4,})bash\n(.*?)\n\1$", text, re.S | re.M)
    assert "Title" in block[1]


def test_a_hostile_id_stays_a_string(model):
    for repo_id in ('a"); import os; ("', "a'; rm -rf /; '", "a\n```\nb", "a\\"):
        card = render(model, repo_id=repo_id)
        plain = " ".join(repo_id.split())
        blocks = re.findall(r"```python\n(.*?)\n```\n", card, re.S)
        assert len(blocks) == 2
        for block in blocks:
            calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
            (call,) = [
                call for call in calls if getattr(call.func, "attr", "") == "from_pretrained"
            ]
            assert ast.literal_eval(call.args[0]) == plain
        (command,) = re.findall(r"^fcn-hub segment .*$", card, re.M)
        assert shlex.split(command)[4] == plain


@pytest.mark.parametrize("junk", [10**400, -1, 0, float("nan")])
def test_numbers_without_sense_do_no_harm(model, junk):
    def filled(value):
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return junk if isinstance(value, int | float) else value

    card = render(model, training=filled(training_record()), evaluation=filled(evaluation_record()))
    assert "nan" not in section(card, "Accuracy") + section(card, "Classes")
