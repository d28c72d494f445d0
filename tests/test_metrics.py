"""The figures equal an independent computation, whatever the inputs look like."""

import json
import math
import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

pytest.importorskip("torchmetrics")

from fcn_hub import LabelMap
from fcn_hub.metrics import ConfusionMatrix, SegmentationMetrics

FIGURES = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def by_sets(pairs, num_classes: int, ignore_index: int) -> dict:
    """The figures straight from their definitions: sets of pixels, no confusion matrix."""
    truth = np.concatenate([np.asarray(t).ravel().astype(object) for _, t in pairs])
    prediction = np.concatenate([np.asarray(p).ravel().astype(object) for p, _ in pairs])
    pixels = [i for i, label in enumerate(truth) if label != ignore_index]
    ius, accuracies, weighted = [], [], 0.0
    for label in range(num_classes):
        true = {i for i in pixels if truth[i] == label}
        found = {i for i in pixels if prediction[i] == label}
        iu = len(true & found) / len(true | found) if true | found else None
        ius.append(iu)
        accuracies.append(len(true & found) / len(true) if true else None)
        weighted += len(true) * (iu or 0) / len(pixels)
    right = sum(truth[i] == prediction[i] for i in pixels)

    def mean(values):
        return sum(defined := [v for v in values if v is not None]) / len(defined)

    return {
        "pixel_accuracy": right / len(pixels),
        "mean_accuracy": mean(accuracies),
        "mean_iu": mean(ius),
        "frequency_weighted_iu": weighted,
        "class_iu": ius,
        "class_accuracy": accuracies,
    }


def random_pairs(rng, num_classes: int, ignore_index: int, dtype, count: int = 3):
    pairs = []
    for _ in range(count):
        shape = tuple(rng.integers(5, 30, 2))
        truth = rng.integers(0, num_classes, shape)
        # Half right, and never class 1, which neither side holds.
        prediction = np.where(rng.random(shape) < 0.5, truth, rng.integers(0, num_classes, shape))
        truth, prediction = (np.where(x == 1, 0, x) for x in (truth, prediction))
        # The last class is predicted but in no truth.
        truth[truth == num_classes - 1] = 2
        truth[rng.random(shape) < 0.1] = ignore_index
        prediction[0, 0], truth[0, 0] = num_classes - 1, 2
        pairs.append((prediction.astype(dtype), truth.astype(dtype)))
    return pairs


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("num_classes", "ignore_index", "dtype"),
    [
        (7, 255, np.uint8),
        (11, 11, np.uint8),
        (21, 255, np.uint16),
        (300, 300, np.uint16),
        (5, -1, np.int64),
        (150, 255, np.int64),
    ],
)
def test_figures_equal_an_independent_computation(
    seed: int, num_classes: int, ignore_index: int, dtype
) -> None:
    pairs = random_pairs(np.random.default_rng(seed), num_classes, ignore_index, dtype)
    confusion = ConfusionMatrix(num_classes, ignore_index)

    for prediction, truth in pairs:
        confusion.update(prediction, truth)
    figures = confusion.compute().to_dict()

    expected = by_sets(pairs, num_classes, ignore_index)
    for name in FIGURES:
        assert figures[name] == pytest.approx(expected[name], rel=0, abs=1e-9)
    for name in ("class_iu", "class_accuracy"):
        assert [value is None for value in figures[name]] == [v is None for v in expected[name]]
        assert [v for v in figures[name] if v is not None] == pytest.approx(
            [v for v in expected[name] if v is not None], rel=0, abs=1e-9
        )
    assert figures["class_iu"][1] is None
    assert figures["class_iu"][-1] == 0
    assert figures["class_accuracy"][-1] is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.int64])
def test_tensors_batches_and_arrays_count_alike(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 4, (2, 3, 8, 9)).astype(np.uint8)
    truth[0, 0] = 255
    whole, parts = ConfusionMatrix(4), ConfusionMatrix(4)

    whole.update(torch.from_numpy(prediction).to(dtype), torch.from_numpy(truth).to(dtype))
    for one_prediction, one_truth in zip(prediction, truth, strict=True):
        parts.update(one_prediction, torch.from_numpy(one_truth))

    assert whole.matrix().tolist() == parts.matrix().tolist()
    assert whole.matrix().sum() == truth.size - 9


def test_rows_are_truth_and_columns_prediction() -> None:
    confusion = ConfusionMatrix(3)

    confusion.update(np.array([2, 2, 0]), np.array([1, 1, 0]))

    assert confusion.matrix().tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]


def test_what_is_predicted_at_ignored_pixels_does_not_matter() -> None:
    confusion = ConfusionMatrix(2)

    confusion.update(np.array([0, 200]), np.array([0, 255]))

    assert confusion.compute().pixel_accuracy == 1


def test_class_zero_can_be_ignored_like_any_other_label() -> None:
    confusion = ConfusionMatrix(3, ignore_index=0)

    confusion.update(np.array([0, 1, 2, 1]), np.array([0, 1, 2, 2]))

    assert confusion.matrix().tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1]]


def test_large_counts_stay_exact() -> None:
    matrix = np.array([[2**53 - 1, 1], [0, 0]], np.int64)

    assert SegmentationMetrics.from_matrix(matrix).class_pixels == (2**53, 0)


def test_reset_forgets() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([0]), np.array([1]))
    confusion.compute()

    confusion.reset()
    confusion.update(np.array([0]), np.array([0]))

    assert confusion.matrix().tolist() == [[1, 0], [0, 0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labelled", [False, True])
def test_nothing_counted_gives_no_figure(labelled: bool) -> None:
    confusion = ConfusionMatrix(2)
    if labelled:
        confusion.update(np.array([0, 1]), np.array([255, 255]))

    metrics = confusion.compute()

    assert all(math.isnan(getattr(metrics, name)) for name in FIGURES)
    assert all(metrics.to_dict()[name] is None for name in FIGURES)
    assert metrics.classes_counted == 0


@pytest.mark.parametrize(
    ("prediction", "truth", "told"),
    [
        (np.zeros((2, 2), int), np.zeros((4, 4), int), r"prediction is \[2, 2\] but the truth"),
        (np.zeros(1), np.zeros(1, int), "must be arrays or tensors of integers"),
        (torch.zeros(1), torch.zeros(1, dtype=torch.int64), "must be arrays or tensors of int"),
        ([0], [0], "must be arrays or tensors of integers"),
        (np.array([0]), np.array([3]), r"truth holds labels 3\.\.3; accepted are 0\.\.2, and 255"),
        (np.array([0, 3]), np.array([0, 0]), r"prediction holds labels 0\.\.3"),
        (np.array([0]), np.array([-1]), r"truth holds labels -1\.\.-1"),
    ],
)
def test_wrong_inputs_are_explained(prediction, truth, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ConfusionMatrix(3).update(prediction, truth)


def test_a_matrix_must_be_square() -> None:
    with pytest.raises(ValueError, match=r"square, not \[2, 3\]"):
        SegmentationMetrics.from_matrix(np.zeros((2, 3)))


LABELS = LabelMap.from_names(["sky", "road", "tram"])
EXAMPLE = SegmentationMetrics.from_matrix(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))


def test_the_dictionary_is_json() -> None:
    by_name = json.loads(json.dumps(EXAMPLE.to_dict(LABELS), allow_nan=False))

    assert by_name == {
        "pixel_accuracy": 0.875,
        "mean_accuracy": 0.875,
        "mean_iu": pytest.approx(0.775),
        "frequency_weighted_iu": pytest.approx(0.775),
        "classes_counted": 2,
        "class_iu": {"sky": 0.75, "road": 0.8, "tram": None},
        "class_accuracy": {"sky": 0.75, "road": 1.0, "tram": None},
        "class_pixels": {"sky": 4, "road": 4, "tram": 0},
    }
    assert EXAMPLE.to_dict()["class_iu"] == [0.75, 0.8, None]


def test_the_table_has_a_line_per_class_and_figure() -> None:
    assert EXAMPLE.format_table(LABELS).splitlines() == [
        "class                      IU  accuracy   share",
        "sky                     75.00     75.00   50.00",
        "road                    80.00    100.00   50.00",
        "tram                        -         -    0.00",
        "",
        "pixel accuracy          87.50",
        "mean accuracy           87.50",
        "mean IU                 77.50",
        "frequency-weighted IU   77.50",
    ]


def count_in_one_of_two_processes(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    confusion = ConfusionMatrix(2)
    if rank == 0:  # the other process has no picture at all
        confusion.update(np.array([0, 1, 1]), np.array([0, 1, 0]))
    assert confusion.matrix().tolist() == [[1, 1], [0, 1]]
    if rank == 1:
        confusion.update(np.array([1]), np.array([1]))
    assert confusion.compute().class_pixels == (2, 2)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_add_up() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    torch.multiprocessing.spawn(count_in_one_of_two_processes, (port,), nprocs=2)
