"""The figures that semantic segmentation is scored by, from one confusion matrix per data set.

Pixel accuracy, mean accuracy, mean IU and frequency-weighted IU as Long, Shelhamer and Darrell
define them (CVPR 2015, section 5). docs/metrics.md works through an example.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcn_hub.labels import LabelMap


@dataclass(frozen=True)
class SegmentationMetrics:
    """The four figures over all classes, and two for each class; all in 0..1.

    A class that neither truth nor prediction holds has no IU, and one that the truth does not
    hold has no accuracy: they are NaN here and take no part in the means. Without any labelled
    pixel every figure is NaN.

    Args:
        pixel_accuracy: The share of the labelled pixels that are right.
        mean_accuracy: The mean of `class_accuracy`.
        mean_iu: The mean of `class_iu`.
        frequency_weighted_iu: `class_iu` weighted by the classes' shares in the truth.
        class_iu: Per class, intersection over union of its pixels in truth and prediction.
        class_accuracy: Per class, the share of its pixels in the truth that are right.
        class_pixels: Per class, how many pixels it has in the truth.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    class_iu: tuple[float, ...]
    class_accuracy: tuple[float, ...]
    class_pixels: tuple[int, ...]

    @classmethod
    def from_matrix(cls, matrix: np.ndarray | Tensor) -> "SegmentationMetrics":
        """The figures of a confusion matrix.

        Args:
            matrix: Pixel counts, integers [classes, classes]; the row is the truth's class, the
                column the predicted one.

        Raises:
            ValueError: It is not square.

        Example:
            >>> SegmentationMetrics.from_matrix(np.array([[3, 1], [0, 4]])).pixel_accuracy
            0.875
        """
        counts = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix, np.float64)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
            raise ValueError(f"A confusion matrix is square, not {list(counts.shape)}.")
        right, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        union = truth + predicted - right
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
            iu, accuracy, share = right / union, right / truth, truth / truth.sum()
            pixel_accuracy = right.sum() / truth.sum()
        return cls(
            pixel_accuracy=float(pixel_accuracy),
            mean_accuracy=_mean(accuracy),
            mean_iu=_mean(iu) if truth.any() else math.nan,
            frequency_weighted_iu=float((share * np.nan_to_num(iu)).sum()),
            class_iu=tuple(iu.tolist()),
            class_accuracy=tuple(accuracy.tolist()),
            class_pixels=tuple(truth.astype(np.int64).tolist()),
        )

    @property
    def classes_counted(self) -> int:
        """How many classes take part in the mean IU."""
        return sum(not math.isnan(value) for value in self.class_iu)

    def to_dict(self, labels: LabelMap | None = None) -> dict[str, Any]:
        """The figures as JSON-ready values, NaN as None.

        Args:
            labels: Where given, per-class figures are dictionaries by class name, not lists.
        """

        def per_class(values: tuple[Any, ...]) -> Any:
            numbers = [_number(value) for value in values]
            return dict(zip(labels.names, numbers, strict=True)) if labels else numbers

        return {
            "pixel_accuracy": _number(self.pixel_accuracy),
            "mean_accuracy": _number(self.mean_accuracy),
            "mean_iu": _number(self.mean_iu),
            "frequency_weighted_iu": _number(self.frequency_weighted_iu),
            "classes_counted": self.classes_counted,
            "class_iu": per_class(self.class_iu),
            "class_accuracy": per_class(self.class_accuracy),
            "class_pixels": per_class(self.class_pixels),
        }

    def format_table(self, labels: LabelMap) -> str:
        """The figures in per cent as a text for people, one line per class; ``-`` for NaN."""
        total = sum(self.class_pixels)
        width = max(len("frequency-weighted IU"), *(len(name) for name in labels.names))
        lines = [f"{'class':<{width}}  {'IU':>6}  {'accuracy':>8}  {'share':>6}"]
        for name, iu, accuracy, pixels in zip(
            labels.names, self.class_iu, self.class_accuracy, self.class_pixels, strict=True
        ):
            share = pixels / total if total else math.nan
            figures = f"{_percent(iu)}  {_percent(accuracy, 8)}  {_percent(share)}"
            lines.append(f"{name:<{width}}  {figures}")
        lines.append("")
        for title, value in (
            ("pixel accuracy", self.pixel_accuracy),
            ("mean accuracy", self.mean_accuracy),
            ("mean IU", self.mean_iu),
            ("frequency-weighted IU", self.frequency_weighted_iu),
        ):
            lines.append(f"{title:<{width}}  {_percent(value)}")
        return "\n".join(lines)


class ConfusionMatrix:
    """Counts, over a whole data set, which class each pixel is and which it was taken for.

    torchmetrics keeps the matrix; where torch.distributed is in use, `matrix` and `compute` sum
    it over all processes, and every process must call them.

    Args:
        num_classes: Number of classes.
        ignore_index: Pixels with this label in the truth are not counted.
        device: Where the matrix is kept; with the NCCL backend, the process's GPU.

    Raises:
        ImportError: torchmetrics is not installed.

    Example:
        >>> confusion = ConfusionMatrix(2, ignore_index=255)
        >>> confusion.update(np.array([[0, 1]]), np.array([[0, 255]]))
        >>> confusion.compute().pixel_accuracy
        1.0
    """

    def __init__(
        self, num_classes: int, ignore_index: int = 255, device: str | torch.device = "cpu"
    ) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # Labels are checked in `update`: torchmetrics' own check only counts how many different
        # ones there are, and a stray label then counts for another class.
        # Nor may it keep the last result: a process that counted nothing since would return that
        # instead of taking part in the sum, and the others would wait for it.
        self._metric = MulticlassConfusionMatrix(
            num_classes, validate_args=False, compute_with_cache=False
        ).to(device)

    def update(self, prediction: np.ndarray | Tensor, truth: np.ndarray | Tensor) -> None:
        """Count the pixels of one picture or a batch.

        Args:
            prediction: Class indices, integers of any shape.
            truth: Class indices and `ignore_index`, integers of the same shape.

        Raises:
            ValueError: The shapes differ, a value is no integer, or a label is no class.
        """
        device = self._metric.confmat.device
        prediction, truth = _indices(prediction, device), _indices(truth, device)
        if prediction.shape != truth.shape:
            raise ValueError(
                f"The prediction is {list(prediction.shape)} but the truth {list(truth.shape)}; "
                "bring the prediction to the size of the truth."
            )
        labelled = truth != self.ignore_index
        prediction, truth = prediction[labelled], truth[labelled]
        for title, labels in (("prediction", prediction), ("truth", truth)):
            if labels.numel() and not 0 <= labels.min() <= labels.max() < self.num_classes:
                raise ValueError(
                    f"The {title} holds labels {labels.min()}..{labels.max()}; accepted are "
                    f"0..{self.num_classes - 1}, and {self.ignore_index} (ignored) in the truth."
                )
        self._metric.update(prediction, truth)

    def matrix(self) -> np.ndarray:
        """The pixel counts, int64 [num_classes, num_classes]: rows are truth, columns predicted.

        Summed over all processes where there are several.
        """
        if not self._metric.update_called:
            self._metric.update(*torch.empty(2, 0, dtype=torch.int64, device=self._metric.device))
        return self._metric.compute().cpu().numpy()

    def compute(self) -> SegmentationMetrics:
        """The figures of everything counted so far, by all processes."""
        return SegmentationMetrics.from_matrix(self.matrix())

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._metric.reset()


def _indices(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Class indices as int64 on `device`."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        # Not every torch operation takes uint16.
        values = torch.from_numpy(values.astype(np.int64))
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        raise ValueError("Label maps must be arrays or tensors of integers; take argmax of logits.")
    return values.to(device, torch.int64)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float, width: int = 6) -> str:
    return f"{'-':>{width}}" if math.isnan(value) else f"{100 * value:>{width}.2f}"
