"""Training learns, resumes exactly, and computes the same with one process or several."""

import json
import math
import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import make_tiny_model
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState, GradientState

from fcn_hub import FCN, LabelMap
from fcn_hub.datasets import DatasetError, open_dataset
from fcn_hub.surgery import adapt_classes
from fcn_hub.training import (
    TrainingConfig,
    TrainingError,
    check_data,
    learning_rate_factor,
    loop,
    parse_config,
    start,
    train,
)
from fcn_hub.training import options as options_module

ROOT = Path(__file__).resolve().parent.parent
COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 70, 210]])


@pytest.fixture(autouse=True)
def own_state():
    """One thread, which is fastest for networks this small; Accelerate's singletons reset."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A data set whose classes are colours; pictures differ in how much of them is labelled."""
    root = tmp_path_factory.mktemp("toy")
    for split, count in (("train", 11), ("val", 5)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([len(split), index])
            mask = np.zeros((48, 64), np.uint8)
            for label in (1, 2):
                y, x = rng.integers(0, 24), rng.integers(0, 36)
                mask[y : y + 24, x : x + 28] = label
            pixels = COLORS[mask] + rng.normal(0, 10, (48, 64, 3))
            mask[: 3 * index] = 255
            name = f"{index:02}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                root / "images" / split / name
            )
            Image.fromarray(mask).save(root / "masks" / split / name)
    (root / "labels.json").write_text(json.dumps(["red", "green", "blue"]))
    return root


@pytest.fixture
def options(toy: Path, tmp_path: Path) -> dict:
    """A run of a few steps of a tiny network."""
    return {
        "dataset": "folder",
        "data_root": str(toy),
        "run_dir": str(tmp_path / "run"),
        "init": "random",
        "base_channels": 4,
        "steps": 4,
        "batch_size": 2,
        "crop": (32, 48),
        "warmup": 2,
        "eval_every": 0,
        "save_every": 2,
        "workers": 0,
    }


def state_of(run: str | Path) -> dict:
    return torch.load(Path(run) / "last" / "state.pt", weights_only=True)


def curve_of(run: str | Path) -> list[dict]:
    lines = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key != "seconds"} for line in lines]


def assert_equal(one, other) -> None:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_run(one: str | Path, other: str | Path) -> None:
    """Curve, state and best checkpoint are equal bit for bit."""
    assert curve_of(one) == curve_of(other)
    states = [state_of(run) for run in (one, other)]
    assert_equal(*[{k: s[k] for k in s if k != "seconds"} for s in states])
    weights = [(Path(run) / "best" / "model.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]


# --- what is learned ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_network_learns_to_name_colours(options):
    config = TrainingConfig(
        **options
        | {"base_channels": 16, "steps": 120, "batch_size": 4, "crop": (48, 64), "ema": 0.9}
        | {"eval_every": 60, "lr": 1e-2, "backbone_lr": 1.0, "scale": (0.8, 1.2)}
    )
    best = train(config)

    record = json.loads((best / "evaluation.json").read_text())
    assert record["mean_iu"] > 0.9
    losses = [line["loss"] for line in curve_of(config.folder)]
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    model = FCN.from_pretrained(best)
    assert model.label_map.names == ("red", "green", "blue")
    for name in ("curve.png", "predictions/step-0000060.png", "predictions/step-0000120.png"):
        with Image.open(config.folder / name) as picture:
            picture.verify()


def test_the_record_says_how_the_weights_came_about(options):
    config = TrainingConfig(**options | {"eval_every": 2, "eval_limit": 3, "seed": 7})
    best = train(config, command="train.py --seed 7")

    record = json.loads((config.folder / "training.json").read_text())
    assert record == json.loads((best / "training.json").read_text())
    assert record["command"] == "train.py --seed 7"
    assert (record["seed"], record["steps"], record["samples"], record["finished"]) == (
        7,
        4,
        8,
        True,
    )
    assert record["dataset"]["val"] == {"split": "val", "pictures": 5, "evaluated": 3}
    assert [each["step"] for each in record["evaluations"]] == [2, 4]
    assert all(each["pictures"] == 3 for each in record["evaluations"])
    assert record["best"] in record["evaluations"]
    assert {"python", "torch", "torchvision", "accelerate", "fcn-hub"} <= record["versions"].keys()
    assert record["wall_seconds"] > 0 and record["hardware"]
    evaluation = json.loads((best / "evaluation.json").read_text())
    assert evaluation["step"] == record["best"]["step"]
    assert "only 3 of 5" in evaluation["protocol"]


def test_half_precision_checkpoints_hold_the_average_in_half(options):
    config = TrainingConfig(**options | {"save_dtype": "float16"})
    weights = load_file(train(config) / "model.safetensors")

    average = state_of(config.folder)["average"]
    name = "decoder.classifier.weight"
    assert torch.equal(weights[name], average[name].half())
    assert weights["decoder.bn1.num_batches_tracked"] == 4


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_precision_is_that_of_the_passes_while_weights_stay_float32(options, precision):
    config = TrainingConfig(**options | {"mixed_precision": precision, "eval_every": 4})
    best = train(config)

    assert state_of(config.folder)["weights"]["backbone.conv1_1.weight"].dtype == torch.float32
    used = json.loads((best / "evaluation.json").read_text())["options"]["dtype"]
    assert used == {"no": "float32", "bf16": "bfloat16"}[precision]


# --- the optimiser ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "halfway"), [("poly", 0.5**0.9), ("cosine", 0.5), ("constant", 1.0)]
)
def test_the_learning_rate_rises_linearly_and_falls_by_its_schedule(schedule, halfway):
    config = TrainingConfig("voc", "data", steps=110, warmup=10, schedule=schedule)
    factors = [learning_rate_factor(config, step) for step in range(110)]

    assert np.allclose(np.diff(factors[:11]), 1 / 11)
    assert factors[10] == 1
    assert factors[60] == pytest.approx(halfway)
    assert min(factors) > 0
    assert np.diff(factors[10:]).max() <= 0


def test_the_backbone_learns_at_its_own_rate(options):
    kwargs = options | {"optimizer": "sgd", "weight_decay": 0.0, "clip": 0, "steps": 1}
    train(TrainingConfig(**kwargs | {"backbone_lr": 0.5, "run_dir": options["run_dir"] + "half"}))
    train(TrainingConfig(**kwargs | {"backbone_lr": 1.0, "run_dir": options["run_dir"] + "full"}))
    torch.manual_seed(0)
    start = FCN(3, base_channels=4).state_dict()
    half, full = (state_of(options["run_dir"] + name)["weights"] for name in ("half", "full"))

    name = "backbone.conv5_1.weight"
    assert torch.allclose(2 * (half[name] - start[name]), full[name] - start[name], atol=1e-7)
    assert torch.equal(half["decoder.deconv1.weight"], full["decoder.deconv1.weight"])
    assert not torch.equal(full["decoder.deconv1.weight"], start["decoder.deconv1.weight"])


def test_weights_decay_but_biases_and_batch_norm_do_not(options):
    train(TrainingConfig(**options | {"weight_decay": 0.5}))
    groups = state_of(options["run_dir"])["optimizer"]["param_groups"]
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [
        *((0.5, 13), (0.0, 13)),  # backbone: thirteen convolutions
        *((0.5, 6), (0.0, 16)),  # decoder: five deconvolutions, five batch norms, a classifier
    ]


def test_frozen_stages_stay_as_they_are_and_take_no_optimiser_state(options):
    train(TrainingConfig(**options | {"freeze_stages": 2}))
    torch.manual_seed(0)
    start = FCN(3, base_channels=4).state_dict()
    state = state_of(options["run_dir"])

    for name in ("conv1_1", "conv1_2", "conv2_1", "conv2_2"):
        assert torch.equal(state["weights"][f"backbone.{name}.weight"],
                           start[f"backbone.{name}.weight"])  # fmt: skip
    assert not torch.equal(state["weights"]["backbone.conv3_1.weight"],
                           start["backbone.conv3_1.weight"])  # fmt: skip
    assert len(state["optimizer"]["state"]) == len(list(FCN(3).parameters())) - 8


def test_frozen_batch_norm_keeps_its_statistics_but_learns_its_scale(options):
    train(TrainingConfig(**options | {"freeze_bn": True}))
    weights = state_of(options["run_dir"])["weights"]
    assert torch.equal(weights["decoder.bn3.running_var"], torch.ones(8))
    assert not torch.equal(weights["decoder.bn3.weight"], torch.ones(8))


def test_the_gradient_is_clipped(options):
    config = TrainingConfig(
        **options | {"optimizer": "sgd", "clip": 1e-3, "warmup": 0, "steps": 1, "lr": 1.0},
        backbone_lr=1.0, weight_decay=0.0,
    )  # fmt: skip
    train(config)
    torch.manual_seed(0)
    start = FCN(3, base_channels=4).state_dict()
    weights = state_of(config.folder)["weights"]
    learned = [name for name, _ in FCN(3).named_parameters()]
    moved = math.sqrt(sum(((weights[n] - start[n]) ** 2).sum().item() for n in learned))
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_the_average_follows_weights_and_batch_norm_statistics(options):
    train(TrainingConfig(**options | {"steps": 1, "ema": 0.999}))
    torch.manual_seed(0)
    start = FCN(3, base_channels=4).state_dict()
    state = state_of(options["run_dir"])
    for name in ("decoder.deconv5.weight", "decoder.bn2.running_var"):
        # The first of all steps counts nine tenths: 1 - min(0.999, 1 / 10).
        expected = 0.1 * start[name] + 0.9 * state["weights"][name]
        assert torch.allclose(state["average"][name], expected, atol=1e-6)
        assert not torch.equal(state["average"][name], state["weights"][name])


def test_without_averaging_the_average_is_the_model(options):
    train(TrainingConfig(**options | {"ema": 0.0}))
    state = state_of(options["run_dir"])
    assert_equal(state["average"], state["weights"])


# --- the loss -----------------------------------------------------------------------------------


def test_two_passes_compute_what_one_of_twice_the_size_does(options):
    kwargs = options | {"freeze_bn": True, "class_weighting": 0.5, "optimizer": "sgd", "lr": 0.05}
    train(TrainingConfig(**kwargs | {"batch_size": 4, "run_dir": options["run_dir"] + "1"}))
    train(TrainingConfig(**kwargs | {"accumulate": 2, "run_dir": options["run_dir"] + "2"}))
    assert_close_runs(options["run_dir"] + "1", options["run_dir"] + "2")


def assert_close_runs(one: str, other: str) -> None:
    for a, b in zip(curve_of(one), curve_of(other), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    states = [state_of(run)["weights"] for run in (one, other)]
    for name in states[0]:
        assert torch.allclose(states[0][name], states[1][name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_torchs_cross_entropy(options, monkeypatch, reduction):
    seen = {}
    backward = loop._backward

    def spy(run, batches):
        pictures, labels = batches[0]
        logits = run.model((pictures / 255 - torch.tensor(run.model.image_mean).view(3, 1, 1))
                           / torch.tensor(run.model.image_std).view(3, 1, 1))  # fmt: skip
        seen["expected"] = torch.nn.functional.cross_entropy(
            logits,
            labels.long(),
            run.class_weights,
            ignore_index=255,
            label_smoothing=0.1,
            reduction=reduction,
        ).item()
        seen["loss"] = backward(run, batches).item()
        return torch.tensor(seen["loss"])

    monkeypatch.setattr(loop, "_backward", spy)
    train(
        TrainingConfig(
            **options
            | {"steps": 1, "class_weighting": 1.0, "label_smoothing": 0.1, "freeze_bn": True}
            | {"loss": reduction}
        )
    )
    assert seen["loss"] == pytest.approx(seen["expected"], rel=1e-5)


def test_class_weights_are_powers_of_median_frequency_over_frequency(options, toy):
    masks = [open_dataset("folder", toy, "train")[index][1] for index in range(11)]
    counts = np.sum([np.bincount(m[m != 255], minlength=3) for m in masks], axis=0)
    expected = (np.median(counts) / counts) ** 0.3
    config = TrainingConfig(**options | {"class_weighting": 0.3})
    config.folder.mkdir()
    found = start._class_weights(config, open_dataset("folder", toy, "train"))
    assert np.allclose(found, expected, rtol=1e-6)


def test_pictures_with_rare_classes_are_drawn_more_often(options, tmp_path, monkeypatch):
    for kind in ("images", "masks"):
        (tmp_path / "uneven" / kind).mkdir(parents=True)
    for index in range(9):
        Image.new("RGB", (48, 48)).save(tmp_path / "uneven" / "images" / f"{index}.png")
        mask = np.zeros((48, 48), np.uint8)
        mask[:9] = index == 4
        Image.fromarray(mask).save(tmp_path / "uneven" / "masks" / f"{index}.png")
    (tmp_path / "uneven" / "labels.txt").write_text("common\nrare\n")
    drawn = []
    whole = loop.Augmented.__getitem__
    monkeypatch.setattr(
        loop.Augmented, "__getitem__", lambda data, at: (drawn.append(at), whole(data, at))[1]
    )
    uneven = {"data_root": str(tmp_path / "uneven"), "train_split": "all"}
    train(TrainingConfig(**options | uneven | {"repeat_threshold": 4 / 9, "steps": 10}))
    # √(4/9 / (1/9)) = 2 times as often as the others: an epoch is that picture and half of them.
    assert [epoch for epoch, index in drawn if index == 4] == [0, 1, 2, 3]
    assert [epoch for epoch, _ in drawn] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5


def test_the_masks_are_scanned_once(options, monkeypatch):
    with_both = options | {"class_weighting": 0.3, "repeat_threshold": 0.5, "steps": 2}
    train(TrainingConfig(**with_both))

    def refuse(dataset):
        raise AssertionError("scanned again")

    monkeypatch.setattr(start, "check", refuse)
    train(TrainingConfig(**with_both))


def test_a_batch_without_any_label_changes_nothing_and_harms_nothing(options, toy, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "blank" / kind).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "blank" / "images" / "a.png")
    Image.new("L", (64, 48), 255).save(tmp_path / "blank" / "masks" / "a.png")
    (tmp_path / "blank" / "labels.txt").write_text("one\ntwo\n")
    blank = {"data_root": str(tmp_path / "blank"), "train_split": "all"}
    config = TrainingConfig(**options | blank | {"weight_decay": 0.0})
    train(config)
    assert [line["loss"] for line in curve_of(config.folder)] == [0.0] * 4


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_try(options):
    config = TrainingConfig(**options | {"optimizer": "sgd", "lr": 1e30, "clip": 0, "steps": 20})
    with pytest.raises(TrainingError, match=r"of step \d+ is not finite. Try a lower --lr"):
        train(config)
    step = len(curve_of(config.folder)) + 1
    assert step < 20
    for path in config.folder.glob("last/state.pt"):
        weights = torch.load(path, weights_only=True)["weights"]
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_gradients_may_overflow_only_where_a_scaler_skips_the_step():
    def run(scaler):
        config = TrainingConfig("voc", "data")
        return SimpleNamespace(config=config, step=6, accelerator=SimpleNamespace(scaler=scaler))

    with pytest.raises(TrainingError, match="The gradient of step 7 is not finite"):
        loop._require_finite(run(None), 1.0, torch.tensor(math.inf))
    loop._require_finite(run(object()), 1.0, torch.tensor(math.inf))
    with pytest.raises(TrainingError, match="The loss of step 7 is not finite"):
        loop._require_finite(run(object()), math.nan, 1.0)


# --- where it starts ----------------------------------------------------------------------------


def test_other_classes_keep_everything_but_the_classifier():
    model = make_tiny_model()
    adapted = adapt_classes(model, LabelMap.VOC7)

    assert adapted.label_map == LabelMap.VOC7
    assert adapted(torch.zeros(1, 3, 32, 32)).shape == (1, 7, 32, 32)
    before, after = model.state_dict(), adapted.state_dict()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert set(before) - set(same) == {"decoder.classifier.weight", "decoder.classifier.bias"}


def test_as_many_classes_with_other_names_get_a_classifier_of_their_own():
    model = make_tiny_model()
    adapted = adapt_classes(model, LabelMap.from_names(["a", "b", "c"]))
    name = "decoder.classifier.weight"
    assert not torch.equal(adapted.state_dict()[name], model.state_dict()[name])


def test_the_same_classes_keep_the_classifier_and_the_normalisation():
    model = make_tiny_model(class_names=["a", "b", "c"], image_mean=[0.1, 0.2, 0.3])
    adapted = adapt_classes(model, LabelMap.from_names(["a", "b", "c"], ignore_index=99))
    assert_equal(dict(adapted.state_dict()), dict(model.state_dict()))
    assert adapted.config == {**model.config, "class_colors": adapted.config["class_colors"],
                              "ignore_index": 99}  # fmt: skip


def test_a_run_starts_from_a_checkpoint(options, checkpoint, tiny_model):
    config = TrainingConfig(**options | {"init": str(checkpoint), "lr": 0.0, "steps": 1})
    train(config)
    weights = state_of(config.folder)["weights"]
    for name in ("backbone.conv4_2.weight", "decoder.deconv3.bias"):
        assert torch.equal(weights[name], tiny_model.state_dict()[name])


def test_a_run_starts_from_vgg_weights_and_keeps_their_normalisation(options, tmp_path):
    vgg = make_tiny_model(seed=3).backbone.state_dict()
    save_file(vgg, tmp_path / "vgg.safetensors")
    path = str(tmp_path / "vgg.safetensors")
    best = train(TrainingConfig(**options | {"init": path, "lr": 0.0, "steps": 1}))
    model = FCN.from_pretrained(best)
    expected = FCN.from_imagenet(3, weights=path, base_channels=4)
    assert torch.equal(model.backbone.conv3_2.weight, expected.backbone.conv3_2.weight)
    assert model.image_std == expected.image_std == (1 / 255,) * 3


def test_the_size_at_which_the_network_sees_pictures_stays_with_it(options, tmp_path):
    best = train(TrainingConfig(**options | {"max_side": 40, "steps": 1}))
    assert FCN.from_pretrained(best).max_side == 40
    for given, expected in ((None, 40), (24, 24)):
        again = {"init": str(best), "max_side": given, "run_dir": str(tmp_path / f"{given}")}
        assert FCN.from_pretrained(train(TrainingConfig(**options | again))).max_side == expected


# --- interruptions ------------------------------------------------------------------------------

LONG = {"steps": 18, "save_every": 3, "eval_every": 6, "class_weighting": 0.3}


def session(options: dict, moment: str | None = None, call: int = 0) -> None:
    """What a child process does: train, and die in the `call`-th call of a function."""
    if "fork" in multiprocessing.get_all_start_methods():
        # This process would hand on the forkserver it came from, beneath which loader workers
        # do not notice that it was killed.
        multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    if moment:
        module_name, name = moment.rsplit(".", 1)
        module = sys.modules[module_name]
        original, calls = getattr(module, name), []

        def deadly(content, *args, **kwargs):
            calls.append(1)
            if len(calls) < call or args:
                original(content, *args, **kwargs)
            if len(calls) == call:
                if args:  # a file that is being written: leave half of it
                    os.truncate(args[0], Path(args[0]).stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, deadly)
    train(TrainingConfig(**options))


@pytest.fixture(scope="module")
def child():
    """Starts a session in a process of its own; the imports are shared by all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fcn_hub.training", "matplotlib.figure", "torchmetrics"])

    def start(*args) -> multiprocessing.Process:
        process = context.Process(target=session, args=args)
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def uninterrupted(toy, child, tmp_path_factory) -> str:
    """The run that all interrupted ones must equal."""
    folder = str(tmp_path_factory.mktemp("runs") / "whole")
    options = {"dataset": "folder", "data_root": str(toy), "run_dir": folder, "init": "random",
               "base_channels": 4, "batch_size": 2, "crop": (32, 48), "warmup": 2,
               "workers": 0, **LONG}  # fmt: skip
    process = child(options)
    process.join(120)
    assert process.exitcode == 0
    return folder


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_equals_the_uninterrupted_run(
    options, child, uninterrupted
):
    log = Path(options["run_dir"]) / "log.jsonl"
    rng = random.Random(0)
    # The loader's workers change nothing; three runs in the middle of an epoch of 5.5 steps.
    options = options | LONG | {"workers": 1}
    killed = 0
    for steps in (2, 5, 9, 14):
        process = child(options)
        deadline = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            if log.is_file() and log.read_text().count("\n") >= steps:
                time.sleep(rng.uniform(0, 0.1))
                break
            time.sleep(0.005)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 3
    process = child(options)
    process.join(120)
    assert process.exitcode == 0
    assert_same_run(uninterrupted, options["run_dir"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "call"),
    [
        ("torch.save", 1),  # the first state
        ("torch.save", 3),  # a later one, with an evaluation behind it
        ("fcn_hub.model.save_file", 1),  # the weights of the best checkpoint
        ("fcn_hub.training.loop.save", 2),  # between the checkpoint and the state
    ],
)
def test_killed_while_writing_it_loses_nothing(options, child, uninterrupted, moment, call):
    options = options | LONG
    process = child(options, moment, call)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    if moment == "torch.save":
        assert list(Path(options["run_dir"]).glob("last/.*.tmp"))  # it did die in the middle
    process = child(options)
    process.join(120)
    assert process.exitcode == 0
    assert_same_run(uninterrupted, options["run_dir"])
    assert not list(Path(options["run_dir"]).glob("**/.*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_the_state_of_that_very_step(options, child, uninterrupted, number):
    options = options | LONG | {"save_every": 1000, "workers": 1}
    log = Path(options["run_dir"]) / "log.jsonl"
    process = child(options)
    while process.is_alive() and not (log.is_file() and log.read_text().count("\n") >= 2):
        time.sleep(0.005)
    loaders = psutil.Process(process.pid).children()
    assert loaders
    for each in (*loaders, process):  # a terminal and a scheduler signal the whole group
        os.kill(each.pid, number)
    process.join(60)
    assert process.exitcode == 0
    assert 2 <= state_of(options["run_dir"])["step"] == len(curve_of(options["run_dir"])) < 18
    process = child(options | {"save_every": 3})
    process.join(120)
    assert_same_run(uninterrupted, options["run_dir"])


def test_time_running_out_saves_the_state_and_a_later_session_goes_on(options):
    whole = TrainingConfig(**options | {"run_dir": options["run_dir"] + "whole"})
    train(whole)
    config = TrainingConfig(**options | {"max_minutes": 0.0})
    train(config)
    assert state_of(config.folder)["step"] == 1
    assert json.loads((config.folder / "training.json").read_text())["finished"] is False
    train(TrainingConfig(**options))
    assert_same_run(whole.folder, config.folder)


def test_wall_time_adds_up_over_sessions(options):
    for _ in range(2):
        train(TrainingConfig(**options | {"max_minutes": 0.0}))
    state = state_of(options["run_dir"])
    assert state["step"] == 2
    state["seconds"] = 1000.0
    torch.save(state, Path(options["run_dir"]) / "last" / "state.pt")
    train(TrainingConfig(**options))
    record = json.loads((Path(options["run_dir"]) / "training.json").read_text())
    assert 1000 < record["wall_seconds"] < 1100


def test_a_finished_run_trains_no_further(options):
    train(TrainingConfig(**options))
    before = state_of(options["run_dir"])
    train(TrainingConfig(**options))
    assert_equal(state_of(options["run_dir"]), before)
    assert len(curve_of(options["run_dir"])) == 4


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.5}, {"steps": 6}, {"seed": 1}, {"crop": (32, 32)}, {"batch_size": 3},
     {"mixed_precision": "bf16"}],
)  # fmt: skip
def test_a_change_that_alters_the_run_is_refused(options, change):
    train(TrainingConfig(**options | {"max_minutes": 0.0}))
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(TrainingError, match=f"{next(iter(change))} .* Choose another --run-dir"):
        train(TrainingConfig(**options | change))
    assert state_of(options["run_dir"])["step"] == 1


def test_a_change_of_the_data_is_refused(options, toy, tmp_path):
    train(TrainingConfig(**options | {"max_minutes": 0.0}))
    with pytest.raises(TrainingError, match="samples 11, not 5"):
        # The option is the same, the pictures are not.
        smaller = tmp_path / "smaller"
        for kind in ("images", "masks"):
            (smaller / kind).mkdir(parents=True)
            (smaller / kind / "train").symlink_to(toy / kind / "val")
        (smaller / "labels.json").symlink_to(toy / "labels.json")
        train(TrainingConfig(**options | {"data_root": str(smaller)}))


def test_a_run_from_before_an_option_was_there_goes_on_with_its_default(options):
    train(TrainingConfig(**options | {"max_minutes": 0.0}))
    file = Path(options["run_dir"]) / "last" / "state.pt"
    state = state_of(options["run_dir"])
    del state["identity"]["bias_lr"], state["identity"]["decoder"]
    torch.save(state, file)
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(TrainingError, match=r"bias_lr 1\.0, not 2\.0"):
        train(TrainingConfig(**options | {"bias_lr": 2.0}))
    AcceleratorState._reset_state(reset_partial_state=True)
    train(TrainingConfig(**options))
    assert state_of(options["run_dir"])["step"] == 4


def test_to_begin_afresh_discards_the_run(options):
    train(TrainingConfig(**options | {"seed": 1, "eval_every": 2}))
    train(TrainingConfig(**options | {"resume": "never", "steps": 2}))
    assert [line["step"] for line in curve_of(options["run_dir"])] == [1, 2]
    assert not (Path(options["run_dir"]) / "predictions").exists()


# --- the paper's networks -----------------------------------------------------------------------

PAPER = {"decoder": "fcn8s", "fc_channels": 6, "base_channels": 4}


def test_fcn8s_learns_to_name_colours(options):
    train(TrainingConfig(**options | PAPER | {"fc_channels": 16, "steps": 30, "lr": 0.02,
                                              "backbone_lr": 0.5, "fc_lr": 0.5, "warmup": 5,
                                              "eval_every": 30}))  # fmt: skip
    losses = [line["loss"] for line in curve_of(options["run_dir"])]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    best = FCN.from_pretrained(Path(options["run_dir"]) / "best")
    assert best.decoder_name == "fcn8s"


def test_fc6_and_fc7_scores_and_biases_learn_at_their_own_rates(options):
    train(TrainingConfig(**options | PAPER | {"backbone_lr": 0.5, "fc_lr": 0.25, "bias_lr": 2.0,
                                              "lr": 0.01}))  # fmt: skip
    groups = state_of(options["run_dir"])["optimizer"]["param_groups"]
    assert [(round(group["peak"], 6), len(group["params"])) for group in groups] == [
        *((0.005, 13), (0.01, 13)),  # the backbone's weights and biases
        *((0.01, 3), (0.02, 3)),  # the scores'
        *((0.0025, 2), (0.005, 2)),  # those of fc6 and fc7
    ]


@pytest.mark.parametrize("learn", [False, True])
def test_interpolations_are_trained_only_on_request(options, learn):
    train(TrainingConfig(**options | PAPER | {"learn_interpolation": learn}))
    start = FCN(3, **PAPER).state_dict()
    weights = state_of(options["run_dir"])["weights"]
    same = {name for name in start if "upscore" in name and torch.equal(start[name], weights[name])}
    assert len(same) == (0 if learn else 3)


def test_a_run_refines_a_coarser_network(options, tmp_path):
    torch.manual_seed(5)
    parent = FCN(3, **PAPER | {"decoder": "fcn32s"}, class_names=["red", "green", "blue"])
    torch.nn.init.normal_(parent.decoder.score_fr.weight)
    parent.save_pretrained(tmp_path / "fcn32s")
    start = options | {"init": str(tmp_path / "fcn32s"), "lr": 0.0, "steps": 1}
    train(TrainingConfig(**start | {"decoder": "fcn16s", "at_once": True}))
    state = state_of(options["run_dir"])
    assert (state["model"]["decoder"], state["model"]["at_once"]) == ("fcn16s", True)
    for name in ("decoder.score_fr.weight", "decoder.fc6.weight"):
        assert torch.equal(state["weights"][name], parent.state_dict()[name])
    # Without a word of the decoder it stays what it is.
    train(TrainingConfig(**start | {"run_dir": str(tmp_path / "other")}))
    assert state_of(tmp_path / "other")["model"]["decoder"] == "fcn32s"


def test_sgd_has_the_momentum_asked_for(options):
    train(TrainingConfig(**options | {"optimizer": "sgd", "momentum": 0.99, "steps": 1}))
    groups = state_of(options["run_dir"])["optimizer"]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.99}


RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.json"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipes_are_those_of_the_authors_and_run(options, recipe):
    smaller = options | {"base_channels": 2, "fc_channels": 3, "steps": 2}
    del smaller["batch_size"], smaller["warmup"]
    words = ["--config", str(recipe), *options_module._arguments_of(smaller)]
    config = parse_config(words)
    train(config)
    whole = parse_config(["--config", str(recipe), "--dataset", "voc", "--data-root", "VOC"])
    assert (config.momentum, config.loss, config.batch_size) == (0.99, "sum", 1)
    # As in the solver.prototxt of each network.
    rates = {"fcn32s": 1e-10, "fcn16s": 1e-12, "fcn8s": 1e-14, "fcn8s-atonce": 1e-10}
    assert whole.lr == rates[recipe.stem.removesuffix("-heavy")]
    assert whole.steps == (300_000 if whole.at_once else 100_000)
    curve = curve_of(options["run_dir"])
    assert [line["lr"] for line in curve] == [whole.lr] * 2
    assert all(line["loss"] > 100 for line in curve)  # of 32×48 pixels, not their mean


@pytest.mark.parametrize(
    ("capability", "device", "precision", "expected"),
    [
        ("AVX2", "cpu", "no", torch.contiguous_format),
        ("AVX2", "cpu", "bf16", torch.channels_last),
        ("AVX512", "cpu", "no", torch.channels_last),
        ("AVX2", "cuda", "no", torch.channels_last),
    ],
)
def test_channels_come_first_only_where_that_is_faster(
    monkeypatch, capability, device, precision, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    accelerator = SimpleNamespace(device=torch.device(device), mixed_precision=precision)
    assert start.memory_format(accelerator) == expected


# --- several processes --------------------------------------------------------------------------


def arguments(options: dict) -> list[str]:
    return options_module._arguments_of(options)


def launch_on_two_machines(launcher: str, script: str, *arguments: str) -> None:
    """Run a script on two nodes that know only where to meet, as docs/scale.md says; both here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = {
        "torchrun": ["torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
                     "--master_addr=127.0.0.1", f"--master_port={port}", "--node_rank"],
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_machines=2",
                       "--num_processes=2", "--main_process_ip=127.0.0.1",
                       f"--main_process_port={port}", "--machine_rank"],
    }[launcher]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", *launch, rank, str(ROOT / "scripts" / script), *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        outputs = [node.communicate(timeout=300)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_machines_compute_the_gradients_of_one_with_the_joint_batch(options, launcher):
    kwargs = options | {"freeze_bn": True, "class_weighting": 0.5, "optimizer": "sgd", "lr": 0.05,
                        "eval_every": 4}  # fmt: skip
    train(TrainingConfig(**kwargs | {"batch_size": 4, "run_dir": options["run_dir"] + "1"}))
    kwargs["run_dir"] = options["run_dir"] + "2"
    launch_on_two_machines(launcher, "train.py", *arguments(kwargs))

    assert_close_runs(options["run_dir"] + "1", options["run_dir"] + "2")
    records = [
        json.loads((Path(options["run_dir"] + n) / "training.json").read_text()) for n in "12"
    ]
    assert [record["processes"] for record in records] == [1, 2]
    assert [record["samples"] for record in records] == [16, 16]
    one, two = (record["evaluations"][0] for record in records)
    assert one["pictures"] == two["pictures"] == 5
    assert one["mean_iu"] == pytest.approx(two["mean_iu"], abs=1e-3)


def test_batch_norms_statistics_are_averaged_over_processes():
    model, average = make_tiny_model(1), make_tiny_model(2)
    before = model.decoder.bn1.running_mean.clone()
    run = SimpleNamespace(
        config=SimpleNamespace(ema=0.0), step=99, model=model, average=average,
        # Two processes, the other of which has ones everywhere.
        accelerator=SimpleNamespace(num_processes=2, reduce=lambda own, _: (own + 1) / 2),
    )  # fmt: skip
    loop._update_average(run)
    assert torch.equal(model.decoder.bn1.running_mean, (before + 1) / 2)
    assert_equal(dict(average.state_dict()), dict(model.state_dict()))


# --- the command line ---------------------------------------------------------------------------


def test_a_saved_configuration_can_be_used_again_and_overridden(options):
    config = TrainingConfig(**options | {"classes": ("red", "x=green+blue"), "rest": "red",
                                         "log_with": (), "resume": "never"})  # fmt: skip
    train(config)
    saved = str(config.folder / "options.json")

    again = parse_config(["--config", saved])
    assert again == TrainingConfig(**{**vars(config), "resume": "auto"})
    other = parse_config(["--steps", "9", "--config", saved, "--run-dir", "other"])
    assert other == TrainingConfig(**{**vars(again), "steps": 9, "run_dir": "other"})


def test_a_configuration_file_with_an_unknown_option_is_refused(tmp_path):
    (tmp_path / "options.json").write_text('{"learning_rate": 1}')
    with pytest.raises(TrainingError, match="unknown options: learning_rate"):
        parse_config(["--config", str(tmp_path / "options.json")])
    with pytest.raises(TrainingError, match="--config takes a JSON file"):
        parse_config(["--config", str(tmp_path / "none.json")])


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    text = capsys.readouterr().out
    for name in vars(TrainingConfig("voc", "data")):
        assert f"--{name.replace('_', '-')}" in text
    assert "Learning rate of the decoder at its peak" in text


def test_the_record_holds_that_of_the_network_it_begins_from(options, tmp_path):
    first = train(TrainingConfig(**options | {"run_dir": str(tmp_path / "first"), "eval_every": 4}))
    before = json.loads((first / "training.json").read_text())
    assert before["before"] is None
    more = options | {"init": str(first), "steps": 6, "run_dir": str(tmp_path / "more")}
    train(TrainingConfig(**more | {"max_minutes": 0.0}))  # stops after its first step
    (first / "training.json").unlink()
    train(TrainingConfig(**more))
    record = json.loads((tmp_path / "more" / "training.json").read_text())
    assert (record["steps"], record["before"]) == (6, before)
    train(TrainingConfig(**more | {"run_dir": str(tmp_path / "unknown")}))
    record = json.loads((tmp_path / "unknown" / "training.json").read_text())
    assert not record["before"]


def test_runs_are_compared_by_time(options, tmp_path, monkeypatch, capsys):
    runs = []
    for name in ("one", "other"):
        runs.append(str(tmp_path / name))
        train(TrainingConfig(**options | {"run_dir": runs[-1], "eval_every": 2}))
    path = Path(runs[1]) / "log.jsonl"
    log = [json.loads(line) for line in path.read_text().splitlines()]
    for line in log:  # as if a step took a minute
        line["seconds"] = 60 * line["step"]
    path.write_text("".join(json.dumps(line) + "\n" for line in log))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *runs, "--names", "a", "b"])
    runpy.run_path(str(ROOT / "scripts" / "compare_runs.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 4
    found = json.loads((tmp_path / "runs" / "runs.json").read_text())
    assert list(found) == ["a", "b"]
    assert [each["minutes"] for each in found["b"]["evaluations"]] == [2, 4]
    assert found["b"]["loss"][1] == pytest.approx((log[0]["loss"] + log[1]["loss"]) / 2, abs=1e-4)
    assert Image.open(tmp_path / "runs" / "runs.png").size == (960, 720)
    for words, told in (
        ([str(tmp_path)], "not the folder of a run"),
        ([*runs, "--names", "a", "a"], "2 runs need as many different --names"),
    ):
        monkeypatch.setattr(sys, "argv", ["compare_runs.py", *words])
        with pytest.raises(SystemExit, match=told):
            runpy.run_path(str(ROOT / "scripts" / "compare_runs.py"), run_name="__main__")


def test_launchers_hand_every_option_on():
    """torchrun and accelerate stumble over options that begin like two of their own."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    for name in vars(TrainingConfig("voc", "data")):
        words = ["scripts/train.py", f"--{name.replace('_', '-')}", "1"]
        for parser in (launch_command_parser(), get_args_parser()):
            assert parser.parse_args(words).training_script_args == words[1:]


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"ema": 1.0}, {"freeze_stages": 6}, {"seed": -1}, {"repeat_threshold": 2.0}],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        TrainingConfig("voc", "data", **wrong)


def test_classes_can_be_chosen_and_merged(options):
    best = train(TrainingConfig(**options | {"classes": ("colour=green+blue", "red")}))
    assert FCN.from_pretrained(best).label_map.names == ("colour", "red")


def test_check_finds_faults_without_training(options, toy, tmp_path):
    assert [report.samples for report in check_data(TrainingConfig(**options))] == [11, 5]
    broken = tmp_path / "broken"
    for kind in ("images", "masks"):
        (broken / kind / "train").mkdir(parents=True)
        (broken / kind / "val").mkdir()
    Image.new("RGB", (9, 9)).save(broken / "images" / "train" / "a.png")
    Image.new("L", (9, 9), 7).save(broken / "masks" / "train" / "a.png")
    Image.new("RGB", (9, 9)).save(broken / "images" / "val" / "b.png")
    (broken / "labels.txt").write_text("one\ntwo\n")
    reports = check_data(TrainingConfig(**options | {"data_root": str(broken)}))
    assert [len(report.faults) for report in reports] == [1, 1]
    with pytest.raises(DatasetError, match="--check lists them"):
        train(TrainingConfig(**options | {"data_root": str(broken), "class_weighting": 1.0}))


def test_the_script_checks_data_and_says_what_is_wrong(options, toy, monkeypatch, capsys):
    words = ["train.py", "--dataset", "folder", "--data-root", str(toy), "--check"]

    def run(*more: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
        return stop.value.code

    assert not run()
    out = capsys.readouterr().out
    assert "folder train: 11 samples" in out and "folder val: 5 samples" in out
    assert str(run("--val-split", "test")).startswith("error: The folder has no split 'test'")
    (toy / "masks" / "val" / "00.png").rename(toy / "spare.png")
    try:
        assert run() == 1
        assert "has no mask" in capsys.readouterr().out
    finally:
        (toy / "spare.png").rename(toy / "masks" / "val" / "00.png")


def test_trackers_get_the_curve(options):
    pytest.importorskip("tensorboard")
    train(TrainingConfig(**options | {"log_with": ("tensorboard",), "eval_every": 4}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(next(Path(options["run_dir"]).glob("trackers/**/events*")).parent)
    )
    events.Reload()
    values = [event.value for event in events.Scalars("loss")]
    assert values == pytest.approx([line["loss"] for line in curve_of(options["run_dir"])])
    assert len(events.Scalars("mean_iu")) == 1


def test_a_tracker_that_is_not_installed_is_not_left_out_in_silence(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match="needs it installed: pip install wandb"):
        train(TrainingConfig(**options | {"log_with": ("wandb",)}))


def test_nothing_is_printed(options, capfd):
    train(TrainingConfig(**options | {"eval_every": 2}))
    out, err = capfd.readouterr()
    assert out == ""
    assert "it/s" not in err
