"""Draw the figures of docs/how-it-works.md.

    python scripts/draw_figures.py [FOLDER]

writes network.svg and matrix.svg to FOLDER, docs/figures where none is named. Needs matplotlib
(the `train` extra). The same matplotlib draws the same bytes every time.

Every figure is laid out in pixels, with (0, 0) at the top left. Text becomes outlines, so that
it has the same place and width in every browser.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Polyline
from torch.nn import functional as F

from fcn_hub import FCN

INK, FAINT, LINE, ORANGE = "#1f2933", "#56616c", "#8a949e", "#c2570c"
WHITE, BLUE, GREEN, VIOLET = "#ffffff", "#dbe8f6", "#dcefe2", "#ebe1f5"
# The edge of a box: a darker tone of what fills it.
EDGES = {WHITE: LINE, BLUE: "#3b78b5", GREEN: "#3b8a5a", VIOLET: "#7a52a8"}

# The nine weights of a 3×3 kernel: one hue for each row, one shade for each column.
WEIGHTS = (
    *("#d6e6f7", "#a9cbec", "#7badde"),
    *("#d9f0df", "#aadcb8", "#79c490"),
    *("#fde6cc", "#fac993", "#f2a85c"),
)

# The network figure: two columns of boxes; one row above, then one for each stride from 1 to 32.
LEFT, RIGHT = 230, 690
TOP, ROWS = 90, [170 + 90 * level for level in range(6)]
WIDTHS = [224 - 20 * level for level in range(6)]  # of the boxes in each row
HALF = 23  # of their height


def canvas(height: int) -> tuple[Figure, Axes]:
    """An empty figure, 900 pixels wide, on white so that it reads on dark pages too."""
    figure = Figure(figsize=(900 / 96, height / 96), facecolor=WHITE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 900), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, size: float = 12, **style: Any) -> None:
    """Text of `size` pixels, centred at (x, y) unless `style` says otherwise."""
    style = {"ha": "center", "va": "center_baseline", "color": INK, **style}
    axes.text(x, y, text, fontsize=size * 0.75, **style)


def box(axes: Axes, x: float, y: float, width: float, fill: str, name: str, detail: str) -> None:
    """A rounded box centred at (x, y) with two lines of text."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - HALF),
            width,
            2 * HALF,
            boxstyle="round,pad=0,rounding_size=6",
            facecolor=fill,
            edgecolor=EDGES[fill],
            linewidth=1.1,
        )
    )
    write(axes, x, y - 9, name, 13.5, weight="bold")
    write(axes, x, y + 10, detail)


def arrow(axes: Axes, *points: tuple[float, float], color: str = FAINT, width: float = 1.3) -> None:
    """An arrow along straight lines through the points, with its head at the last."""
    axes.add_patch(
        FancyArrowPatch(
            path=Polyline(points),
            arrowstyle="-|>,head_length=5,head_width=2.6",
            mutation_scale=1,
            color=color,
            linewidth=width,
        )
    )


def draw_backbone(axes: Axes, model: FCN) -> None:
    """Left: the picture, and below it the five pool outputs, each smaller than the last."""
    write(axes, LEFT, 32, "Backbone: VGG-16", 15, weight="bold", color=EDGES[BLUE])
    box(axes, LEFT, TOP, WIDTHS[0], WHITE, "picture", "3 channels: R, G, B")
    above = TOP
    for level, convs in enumerate(model.backbone.stages(), start=1):
        y = ROWS[level]
        channels = convs[-1].out_channels
        box(axes, LEFT, y, WIDTHS[level], BLUE, f"pool{level}", f"{channels} channels")
        arrow(axes, (LEFT, above + HALF), (LEFT, y - HALF))
        words = f"{len(convs)} × (conv 3×3, ReLU)\nmax pooling 2×2"
        write(axes, LEFT + 12, (above + y) / 2, words, color=FAINT, ha="left", va="center")
        above = y


def draw_decoder(axes: Axes, model: FCN) -> None:
    """Right: the five steps up, from pool5 at the bottom left to the logits at the top."""
    write(axes, RIGHT, 32, "Decoder", 15, weight="bold", color=EDGES[GREEN])
    start = [(LEFT + WIDTHS[5] / 2, ROWS[5]), (RIGHT, ROWS[5])]
    for step in range(1, 6):
        level = 5 - step
        y = ROWS[level]
        deconv = model.decoder.get_submodule(f"deconv{step}")
        channels = f"{deconv.out_channels} channels"
        box(axes, RIGHT, y, WIDTHS[level], GREEN, f"step {step}", channels)
        arrow(axes, *start, (RIGHT, y + HALF))
        added = f"+ pool{level}, " if level else ""
        words = f"deconv{step}: 3×3, stride 2\nReLU, {added}batch norm"
        write(axes, RIGHT + 12, y + 45, words, color=FAINT, ha="left", va="center")
        start = [(RIGHT, y - HALF)]
    box(
        axes,
        RIGHT,
        TOP,
        WIDTHS[0],
        VIOLET,
        "logits",
        f"{model.num_classes} channels, one per class",
    )
    arrow(axes, *start, (RIGHT, TOP + HALF))
    words = "classifier: conv 1×1"
    write(axes, RIGHT + 12, (TOP + ROWS[0]) / 2, words, color=FAINT, ha="left")


def draw_skips(axes: Axes) -> None:
    """Across: pool4 … pool1 to the steps of their size, each ending in a plus sign."""
    middle = (LEFT + RIGHT) / 2
    write(axes, middle, 32, "Skips", 15, weight="bold", color=ORANGE)
    for level in range(1, 5):
        y, half_width = ROWS[level], WIDTHS[level] / 2
        plus = RIGHT - half_width
        arrow(axes, (LEFT + half_width, y), (plus - 9, y), color=ORANGE, width=1.7)
        axes.add_patch(Circle((plus, y), 9, facecolor=WHITE, edgecolor=ORANGE, lw=1.5))
        axes.plot((plus - 4.5, plus + 4.5), (y, y), color=ORANGE, linewidth=1.5)
        axes.plot((plus, plus), (y - 4.5, y + 4.5), color=ORANGE, linewidth=1.5)
        write(axes, middle - 5, y - 11, f"pool{level}", 13, weight="bold", color=ORANGE)
        write(axes, middle - 5, y + 14, f"one cell every {2**level} pixels", color=FAINT)


def network() -> Figure:
    """The whole network: down through the backbone, across the skips, up through the decoder."""
    with torch.device("meta"):  # only the shapes are needed
        model = FCN(num_classes=21)
    figure, axes = canvas(660)
    draw_backbone(axes, model)
    draw_decoder(axes, model)
    draw_skips(axes)
    for level, row in enumerate(ROWS):
        y = row if level else (TOP + row) / 2  # the two uppermost rows share their size
        size, stride = 512 // 2**level, 2**level
        write(axes, 18, y - 9, f"{size} × {size}", weight="bold", ha="left")
        write(axes, 18, y + 9, f"stride {stride}", color=FAINT, ha="left")
    return figure


def grid(
    axes: Axes, x: float, y: float, values: torch.Tensor, cell: float = 26, weights: bool = False
) -> None:
    """Numbers in cells. As `weights`, 1 to 9 have their colours and zeros stay empty."""
    for row, line in enumerate(values.int().tolist()):
        for column, value in enumerate(line):
            left, top = x + column * cell, y + row * cell
            fill = "#eef1f4"
            if weights:
                fill = WEIGHTS[value - 1] if value else WHITE
            axes.add_patch(
                Rectangle((left, top), cell, cell, facecolor=fill, edgecolor=LINE, linewidth=0.7)
            )
            if value or not weights:
                write(axes, left + cell / 2, top + cell / 2, str(value), 12)


def outline(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    frame = Rectangle((x, y), width, height, fill=False, edgecolor=ORANGE, linewidth=2.4, zorder=3)
    axes.add_patch(frame)


def matrix() -> Figure:
    """A 3×3 convolution as a 4×16 matrix, and its transpose: the page's worked example."""
    kernel = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    coarse = torch.tensor([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 1, 2, 2)
    # Column n of a matrix is what it makes of the picture that is 1 in cell n and 0 elsewhere.
    C = F.conv2d(torch.eye(16).reshape(16, 1, 4, 4), kernel).reshape(16, 4).T

    figure, axes = canvas(560)
    axes.plot((490, 490), (24, 536), color="#d5dae0", linewidth=1)

    # Left: the convolution, and below it the same as a matrix.
    left, top = 48, 84
    write(axes, 30, 34, "Convolution: multiply with C", 15, weight="bold", ha="left")
    write(axes, left + 52, top - 14, "picture 4×4", color=FAINT)
    grid(axes, left, top, picture[0, 0])
    write(axes, 179, top + 52, "∗", 20)
    write(axes, 245, top - 1, "kernel 3×3", color=FAINT)
    grid(axes, 206, top + 13, kernel[0, 0], weights=True)
    write(axes, 311, top + 52, "=", 20)
    write(axes, 376, top + 4, "result 2×2", color=FAINT)
    grid(axes, 338, top + 18, F.conv2d(picture, kernel)[0, 0], cell=38)
    outline(axes, left, top, 78, 78)
    outline(axes, 338, top + 18, 38, 38)

    top = 312
    write(axes, left, top - 46, "C, 4 × 16: one row per pixel of the result", 13, ha="left")
    for column in range(16):
        write(axes, left + 26 * column + 13, top - 12, str(column), 11, color=FAINT)
    for row in range(4):
        write(axes, left - 14, top + 26 * row + 13, str(row), 11, color=FAINT)
    grid(axes, left, top, C, weights=True)
    outline(axes, left, top, 16 * 26, 26)
    words = (
        "The columns are the picture’s cells 0 to 15. Row 0 holds the\n"
        "kernel where the orange window lies, zeros elsewhere; the\n"
        "other rows are the other three positions of the window."
    )
    write(axes, left, top + 152, words, 13, color=FAINT, ha="left", va="center", linespacing=1.5)

    # Right: the transposed matrix, and beside it what it makes of a 2×2 input.
    left, top = 544, 108
    write(axes, 526, 34, "Transposed convolution: multiply with Cᵀ", 15, weight="bold", ha="left")
    write(axes, left + 52, top - 32, "Cᵀ, 16 × 4", 13)
    for column in range(4):
        write(axes, left + 26 * column + 13, top - 12, str(column), 11, color=FAINT)
    for row in range(16):
        write(axes, left - 14, top + 26 * row + 13, str(row), 11, color=FAINT)
    grid(axes, left, top, C.T, weights=True)
    outline(axes, left, top, 26, 16 * 26)

    middle = 774
    write(axes, middle, 96, "input 2×2", color=FAINT)
    grid(axes, middle - 42, 108, coarse[0, 0], cell=42)
    outline(axes, middle - 42, 108, 42, 42)
    arrow(axes, (middle, 204), (middle, 236))
    write(axes, middle, 252, "result 4×4", color=FAINT)
    grid(axes, middle - 84, 264, F.conv_transpose2d(coarse, kernel)[0, 0], cell=42)
    outline(axes, middle - 84, 264, 126, 126)
    words = (
        "Each input pixel stamps the\n"
        "kernel, times its value, onto\n"
        "the result. The orange column\n"
        "is the stamp of the orange 1."
    )
    write(axes, middle - 84, 484, words, 13, color=FAINT, ha="left", va="center", linespacing=1.5)
    return figure


def draw(folder: Path) -> None:
    """Write all figures to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # A fixed salt and no date: the same figure is the same file.
    metadata = {"Date": None, "Creator": "scripts/draw_figures.py"}
    with matplotlib.rc_context({"svg.hashsalt": "fcn-hub", "svg.fonttype": "path"}):
        for name, figure in (("network", network()), ("matrix", matrix())):
            figure.savefig(folder / f"{name}.svg", metadata=metadata)


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "figures"
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
