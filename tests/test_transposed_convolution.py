"""A transposed convolution multiplies with the transpose of a convolution's matrix.

The story of docs/how-it-works.md as assertions, in the same order: a convolution is a matrix,
its transpose is the transposed convolution, and so are the network's own upsampling layers.
Everything is computed in double precision, so that "equal" means equal to about 15 digits.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub import FCN

DECONVS = ("deconv1", "deconv2", "deconv3", "deconv4", "deconv5")


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix_4_by_16(kernel: Tensor) -> Tensor:
    """C of a 3×3 convolution on a 4×4 input, written out: one row per output pixel.

    Each row holds the kernel where its window lies on the input, and zeros elsewhere. The input
    is read row by row, four columns for each of its rows.
    """
    a, b, c, d, e, f, g, h, i = kernel.flatten().tolist()
    return torch.tensor(
        [
            [a, b, c, 0, d, e, f, 0, g, h, i, 0, 0, 0, 0, 0],
            [0, a, b, c, 0, d, e, f, 0, g, h, i, 0, 0, 0, 0],
            [0, 0, 0, 0, a, b, c, 0, d, e, f, 0, g, h, i, 0],
            [0, 0, 0, 0, 0, a, b, c, 0, d, e, f, 0, g, h, i],
        ],
        dtype=torch.float64,
    )


def convolution_matrix(
    kernel: Tensor, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The matrix of any convolution, straight from the definition.

    Args:
        kernel: [out channels, in channels, K, K], as conv2d takes it.
        height, width: Size of the input.

    Returns:
        [out channels · output pixels, in channels · input pixels].
    """
    channels_out, channels_in, size, _ = kernel.shape
    height_out = (height + 2 * padding - size) // stride + 1
    width_out = (width + 2 * padding - size) // stride + 1
    matrix = kernel.new_zeros(channels_out, height_out, width_out, channels_in, height, width)
    for row_out in range(height_out):
        for column_out in range(width_out):
            for tap_row in range(size):
                for tap_column in range(size):
                    row = stride * row_out + tap_row - padding
                    column = stride * column_out + tap_column - padding
                    # A tap outside the input meets the padding, which is zero: no entry.
                    if 0 <= row < height and 0 <= column < width:
                        taps = kernel[:, :, tap_row, tap_column]
                        matrix[:, row_out, column_out, :, row, column] = taps
    return matrix.reshape(channels_out * height_out * width_out, channels_in * height * width)


def layer_of_the_network(name: str) -> nn.ConvTranspose2d:
    """One upsampling layer of a small but real network, with a bias that is not zero."""
    torch.manual_seed(0)
    layer = FCN(num_classes=3, base_channels=2).decoder.get_submodule(name).double()
    assert isinstance(layer, nn.ConvTranspose2d)
    nn.init.normal_(layer.bias)
    return layer.requires_grad_(False)


# A 3×3 convolution on a 4×4 input, stride 1, no padding.


@pytest.mark.parametrize("seed", range(5))
def test_a_convolution_is_a_matrix(seed: int) -> None:
    kernel, x = random(3, 3, seed=seed), random(4, 4, seed=100 + seed)
    C = matrix_4_by_16(kernel)

    y = C @ x.flatten()

    assert C.shape == (4, 16)
    assert_equal(y.reshape(2, 2), F.conv2d(x[None, None], kernel[None, None])[0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_the_transposed_matrix_is_the_transposed_convolution(seed: int) -> None:
    kernel, y = random(3, 3, seed=seed), random(2, 2, seed=200 + seed)
    C = matrix_4_by_16(kernel)

    x = C.T @ y.flatten()

    assert C.T.shape == (16, 4)
    assert_equal(x.reshape(4, 4), F.conv_transpose2d(y[None, None], kernel[None, None])[0, 0])


def test_the_transposed_convolution_is_not_the_inverse() -> None:
    # "Deconvolution" is a misnomer: C has rank 4 at most, so no matrix brings 16 numbers back.
    kernel, x = random(3, 3), random(4, 4, seed=1)

    y = F.conv2d(x[None, None], kernel[None, None])
    back = F.conv_transpose2d(y, kernel[None, None])[0, 0]

    assert back.shape == x.shape
    assert not torch.allclose(back, x)
    assert torch.linalg.matrix_rank(matrix_4_by_16(kernel)) == 4


def test_the_general_matrix_agrees_with_the_one_written_out() -> None:
    kernel = random(3, 3)

    C = convolution_matrix(kernel[None, None], 4, 4, stride=1, padding=0)

    assert torch.equal(C, matrix_4_by_16(kernel))


# The network's upsampling layers: kernel 3, stride 2, padding 1, output padding 1, many channels.


@pytest.mark.parametrize("name", DECONVS)
def test_the_networks_layer_is_the_transpose_of_a_convolution_with_stride_2(name: str) -> None:
    layer = layer_of_the_network(name)
    coarse = random(layer.in_channels, 3, 2)
    fine_size = (6, 4)

    # The convolution goes the other way: from the fine grid, with the layer's output channels,
    # to the coarse grid, with its input channels. Its kernel is the layer's, as it is.
    M = convolution_matrix(layer.weight, *fine_size, stride=2, padding=1)
    fine = (M.T @ coarse.flatten()).reshape(layer.out_channels, *fine_size)
    fine = fine + layer.bias[:, None, None]

    assert M.shape == (layer.in_channels * 3 * 2, layer.out_channels * 6 * 4)
    assert_equal(layer(coarse[None])[0], fine)


@pytest.mark.parametrize("name", DECONVS)
def test_that_matrix_is_the_convolution_from_fine_to_coarse(name: str) -> None:
    layer = layer_of_the_network(name)
    fine = random(layer.out_channels, 6, 4)

    M = convolution_matrix(layer.weight, 6, 4, stride=2, padding=1)
    coarse = (M @ fine.flatten()).reshape(layer.in_channels, 3, 2)

    assert_equal(coarse, F.conv2d(fine[None], layer.weight, stride=2, padding=1)[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (8, 5)])
def test_the_networks_layer_exactly_doubles_any_size(size: tuple[int, int]) -> None:
    layer = layer_of_the_network("deconv5")
    coarse = random(1, layer.in_channels, *size)
    height, width = size

    assert layer(coarse).shape[-2:] == (2 * height, 2 * width)


def test_output_padding_settles_which_of_two_sizes_is_meant() -> None:
    # With stride 2 both 7 and 8 pixels become 4, so from 4 alone the way back is ambiguous.
    kernel = random(1, 1, 3, 3)
    for fine in (7, 8):
        assert F.conv2d(random(1, 1, fine, fine), kernel, stride=2, padding=1).shape[-1] == 4

    coarse = random(1, 1, 4, 4)
    seven = F.conv_transpose2d(coarse, kernel, stride=2, padding=1)
    eight = F.conv_transpose2d(coarse, kernel, stride=2, padding=1, output_padding=1)

    assert (seven.shape[-1], eight.shape[-1]) == (7, 8)
    # The last row and column are computed like the others; nothing is filled with zeros.
    assert_equal(eight[..., :7, :7], seven)
    assert eight[..., 7].abs().min() > 0


def test_taps_overlap_unevenly() -> None:
    # The checkerboard: with kernel 3 and stride 2 an output pixel meets 1, 2 or 4 taps.
    ones = torch.ones(1, 1, 3, 3, dtype=torch.float64)

    taps = F.conv_transpose2d(ones, ones, stride=2, padding=1)[0, 0]

    assert taps.tolist() == [
        [1, 2, 1, 2, 1],
        [2, 4, 2, 4, 2],
        [1, 2, 1, 2, 1],
        [2, 4, 2, 4, 2],
        [1, 2, 1, 2, 1],
    ]


# Transposed convolution is what back-propagation does with a convolution.


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "fine"), [(1, 0, 0, (4, 4)), (2, 1, 1, (6, 8))]
)
def test_the_gradient_of_a_convolution_is_the_transposed_convolution(
    stride: int, padding: int, output_padding: int, fine: tuple[int, int]
) -> None:
    kernel = random(4, 3, 3, 3)
    x = random(2, 3, *fine, seed=1).requires_grad_()

    y = F.conv2d(x, kernel, stride=stride, padding=padding)
    v = random(*y.shape, seed=2)
    (gradient,) = torch.autograd.grad(y, x, grad_outputs=v)  # the vector-Jacobian product

    transposed = F.conv_transpose2d(
        v, kernel, stride=stride, padding=padding, output_padding=output_padding
    )
    assert_equal(gradient, transposed)


@pytest.mark.parametrize("name", DECONVS)
def test_the_gradient_of_the_networks_layer_is_a_convolution(name: str) -> None:
    layer = layer_of_the_network(name)
    coarse = random(1, layer.in_channels, 3, 2).requires_grad_()

    fine = layer(coarse)
    v = random(*fine.shape, seed=1)
    (gradient,) = torch.autograd.grad(fine, coarse, grad_outputs=v)

    assert_equal(gradient, F.conv2d(v, layer.weight, stride=2, padding=1))
