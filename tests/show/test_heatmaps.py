"""Heatmaps and overlays, by their pixels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from fxlrp import show
from fxlrp.errors import InputError

RED, BLUE, WHITE = (165, 15, 21), (8, 81, 156), (255, 255, 255)
HALF_RED = (250, 125, 93)


def pixels(image: Image.Image) -> list[list[tuple[int, ...]]]:
    """The colors of an image, row by row."""
    return [[tuple(map(int, pixel)) for pixel in row] for row in numpy.asarray(image)]


def test_signs_have_their_colors() -> None:
    picture = show.heatmap(torch.tensor([[2.0, 0.0, -2.0], [1.0, 5.0, -5.0]]), scale=2)
    assert pixels(picture.image) == [[RED, WHITE, BLUE], [HALF_RED, RED, BLUE]]
    assert picture.scale == 2
    assert picture.image.size == (3, 2) and picture.image.mode == "RGB"


@pytest.mark.parametrize("shape", [(1, 3, 2, 4), (3, 2, 4), (1, 1, 2, 4), (1, 2, 4)])
def test_channels_are_summed(shape: tuple[int, ...]) -> None:
    relevance = torch.arange(float(torch.tensor(shape).prod())).reshape(shape)
    picture = show.heatmap(relevance)
    assert picture.relevance.tolist() == relevance.reshape(-1, 2, 4).sum(0).tolist()


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9, 0.995, 1])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (10, 13)])
def test_the_scale_is_the_quantile_of_the_absolute_relevance(quantile: float, size: tuple[int, int]) -> None:
    relevance = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = numpy.quantile(relevance.abs().numpy(), quantile)
    assert show.heatmap(relevance, quantile=quantile).scale == pytest.approx(expected, rel=1e-12)


def test_what_exceeds_the_quantile_is_clipped() -> None:
    relevance = torch.ones(1, 1000)
    relevance[0, 0], relevance[0, 1] = 1000.0, -1000.0
    picture = show.heatmap(relevance, quantile=0.99)
    assert picture.scale == 1
    assert pixels(picture.image)[0][:3] == [RED, BLUE, RED]


def test_the_caption_has_the_scale_how_it_was_chosen_and_the_sum() -> None:
    relevance = torch.tensor([[1.0, -3.0]])
    assert show.heatmap(relevance, scale=0.5).caption == "full color at ±0.5 (given), sum -2"
    assert show.heatmap(relevance, quantile=1).caption == "full color at ±3 (the largest), sum -2"
    assert show.heatmap(relevance, quantile=0.5).caption == "full color at ±2 (the 0.5 quantile), sum -2"
    assert str(show.heatmap(relevance, scale=0.5)) == "Heatmap(2x1, full color at ±0.5 (given), sum -2)"


def test_without_relevance_all_is_white() -> None:
    picture = show.heatmap(torch.zeros(3, 2, 2))
    assert pixels(picture.image) == [[WHITE] * 2] * 2
    assert picture.scale == 0 and picture.caption == "all relevance is zero, sum 0"


def test_sparse_relevance_is_visible_and_the_caption_says_how() -> None:
    relevance = torch.zeros(40, 40)
    relevance[3, 4] = -0.25
    picture = show.heatmap(relevance)
    assert pixels(picture.image)[3][4] == BLUE and picture.scale == 0.25
    assert picture.caption == "full color at ±0.25 (the largest, because the 0.995 quantile is zero), sum -0.25"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
def test_every_precision(dtype: torch.dtype) -> None:
    picture = show.heatmap(torch.tensor([[[4, -2]], [[0, -2]]]).to(dtype), scale=4)
    assert pixels(picture.image) == [[RED, BLUE]]


@pytest.mark.parametrize("size", [1e-320, 1e-45, 1e300])
def test_tiny_and_huge_relevance(size: float) -> None:
    assert pixels(show.heatmap(torch.tensor([[size, -size]], dtype=torch.float64)).image) == [[RED, BLUE]]


def test_channels_of_half_precision_are_summed_without_overflow() -> None:
    assert show.heatmap(torch.full((3, 1, 1), 60000.0, dtype=torch.float16)).scale == 180000


def test_tensors_with_a_gradient_arrays_lists_and_views() -> None:
    relevance = torch.tensor([[4.0, -4.0]], requires_grad=True)
    for each in (relevance, relevance.detach().numpy(), [[4.0, -4.0]], torch.tensor([[4.0], [-4.0]]).T):
        assert pixels(show.heatmap(each).image) == [[RED, BLUE]]
    assert relevance.grad is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_relevance_on_cuda() -> None:
    assert pixels(show.heatmap(torch.tensor([[4.0, -4.0]], device="cuda")).image) == [[RED, BLUE]]


def test_an_explanation_of_an_image() -> None:
    import fxlrp

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()).eval()
    x = torch.rand(1, 3, 6, 5)
    picture = show.heatmap(fxlrp.compile(model, "epsilon")(x, target=3))
    assert picture.image.size == (5, 6)


WRONG: dict[str, tuple[Any, str]] = {
    "NaN": (torch.tensor([[1.0, float("nan")]]), r"relevance of shape \(1, 2\) has 1 NaN and 0 infinite .*first_bad"),
    "infinite": (torch.tensor([[float("-inf"), float("inf")]]), r"has 0 NaN and 2 infinite elements"),
    "batch": (torch.zeros(4, 3, 2, 2), r"shape \(4, 3, 2, 2\) has 4 samples: pass one of them, relevance\[0\].*grid"),
    "vector": (torch.zeros(4), r"shape \(4,\) is not \(C, H, W\), \(1, C, H, W\) or \(H, W\)"),
    "five dimensions": (torch.zeros(1, 1, 3, 2, 2), r"is not \(C, H, W\)"),
    "number": (3.0, r"relevance of shape \(\) is not \(C, H, W\)"),
    "empty": (torch.zeros(3, 0, 4), r"relevance of shape \(3, 0, 4\) is empty"),
    "complex": (torch.zeros(2, 2, dtype=torch.complex64), r"is complex: pass torch.view_as_real"),
    "meta": (torch.zeros(2, 2, device="meta"), r"is on the meta device"),
    "dict": ({"image": torch.zeros(2, 2), "mask": None}, r"is a dict: pass the entry of one input, of 'image', 'mask'"),
    "pair": ((torch.zeros(2, 2), torch.zeros(3)), r"is a tuple of 2 tensors: pass one of them"),
    "text": ("relevance", r"relevance must be a tensor, an array or a list of numbers"),
    "None": (None, r"relevance must be a tensor"),
    "ragged": ([[1.0], [1.0, 2.0]], r"relevance must be a tensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_relevance_is_an_error(name: str) -> None:
    relevance, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        show.heatmap(relevance)
    with pytest.raises(InputError, match=message):
        show.overlay(torch.zeros(3, 2, 2), relevance)


@pytest.mark.parametrize("quantile", [0, -1, 1.5, float("nan"), "most", None, True])
def test_wrong_quantiles_are_errors(quantile: Any) -> None:
    with pytest.raises(InputError, match="quantile="):
        show.heatmap(torch.ones(2, 2), quantile=quantile)


@pytest.mark.parametrize("scale", [torch.tensor(2.0), numpy.float32(2), numpy.array(2), 2, torch.tensor(2)])
def test_a_scale_may_be_a_tensor(scale: Any) -> None:
    assert type(show.heatmap(torch.ones(2, 2), scale=scale).scale) is float


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), "shared", True, torch.ones(2)])
def test_wrong_scales_are_errors(scale: Any) -> None:
    with pytest.raises(InputError, match="scale="):
        show.heatmap(torch.ones(2, 2), scale=scale)


def test_saved_pictures_have_the_pixels_the_bar_and_the_caption(tmp_path: Path) -> None:
    picture = show.heatmap(torch.tensor([[1.0, -1.0], [0.0, 1.0]]), scale=1)
    picture.save(tmp_path / "heat.png")
    saved = Image.open(tmp_path / "heat.png")
    assert saved.format == "PNG" and saved.info["Description"] == picture.caption
    # Each pixel is a square of 192 below a margin of 12; then the bar, from blue to red.
    assert saved.size == (384 + 24, saved.height)
    for row, column, color in ((0, 0, RED), (0, 1, BLUE), (1, 0, WHITE), (1, 1, RED)):
        for corner in (1, 190):
            assert saved.getpixel((12 + 192 * column + corner, 12 + 192 * row + corner)) == color
    bar = 12 + 384 + 12 + 6
    assert saved.getpixel((12, bar)) == BLUE and saved.getpixel((395, bar)) == RED
    assert picture._repr_png_() == (tmp_path / "heat.png").read_bytes()


def test_large_pictures_are_saved_as_they_are() -> None:
    picture = show.heatmap(torch.ones(500, 700))
    assert Image.open(BytesIO(picture._repr_png_())).width == 700 + 24


def test_other_files_than_png_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not end in \.png.*picture.image.save"):
        show.heatmap(torch.ones(2, 2)).save(tmp_path / "heat.jpg")
    assert not list(tmp_path.iterdir())


# Of overlays: three quarters of the way to the full color.
OVER_RED, OVER_BLUE = (222, 55, 40), (46, 126, 188)


def test_zero_is_transparent_and_the_full_color_has_the_opacity_alpha() -> None:
    image = torch.tensor([0.0, 100, 200, 50, 60]).div(255).expand(3, 1, 5)
    relevance = torch.tensor([[1.0, 0.0, -1.0, 0.5, -7.0]])
    over = pixels(show.overlay(image, relevance, scale=1, alpha=0.8, gray=False).image)[0]
    assert over[1] == (100, 100, 100)
    for found, behind, color, opacity in (
        (over[0], 0, OVER_RED, 0.8),
        (over[2], 200, OVER_BLUE, 0.8),
        (over[3], 50, OVER_RED, 0.4),
        (over[4], 60, OVER_BLUE, 0.8),
    ):
        expected = [behind + opacity * (each - behind) for each in color]
        assert found == pytest.approx(expected, abs=1)


def test_the_image_is_light_gray_unless_it_keeps_its_colors() -> None:
    image, zero = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 1]]).T.reshape(3, 1, 3), torch.zeros(1, 3)
    assert pixels(show.overlay(image, zero, gray=False).image)[0] == [(255, 0, 0), (0, 0, 0), (255, 255, 255)]
    red, black, white = pixels(show.overlay(image, zero).image)[0]
    assert len(set(red)) == len(set(black)) == 1
    assert black == (96, 96, 96) and white == (255, 255, 255)
    assert red[0] == pytest.approx(96 + 0.299 * 159, abs=1)


def as_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


@pytest.mark.parametrize("form", ["tensor", "batch", "bytes", "array", "array of bytes", "pillow", "half", "grad"])
def test_every_form_of_an_image(form: str) -> None:
    image = torch.tensor([[[0.2, 0.4]], [[0.6, 0.8]], [[1.0, 0.0]]])
    last = image.permute(1, 2, 0).contiguous()
    forms = {
        "tensor": image,
        "batch": image[None],
        "bytes": as_bytes(image),
        "array": last.numpy(),
        "array of bytes": as_bytes(last).numpy(),
        "pillow": Image.fromarray(as_bytes(last).numpy()),
        "half": image.bfloat16(),
        "grad": image.clone().requires_grad_(),
    }
    found = pixels(show.overlay(forms[form], torch.zeros(1, 2), gray=False).image)[0]
    for one, other in zip(found, [(51, 153, 255), (102, 204, 0)], strict=True):
        assert one == pytest.approx(other, abs=1 if form == "half" else 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["flipped", "read-only", "of another machine"])
def test_arrays_in_any_order(form: str) -> None:
    image = numpy.array([[0.2, 0.4]])
    fixed = image.copy()
    fixed.flags.writeable = False
    forms = {"flipped": image[:, ::-1].copy()[:, ::-1], "read-only": fixed, "of another machine": image.astype(">f4")}
    zero = torch.zeros(1, 2)
    assert pixels(show.overlay(forms[form], zero, gray=False).image) == [[(51, 51, 51), (102, 102, 102)]]
    assert show.heatmap(forms[form]).relevance.tolist() == [[pytest.approx(0.2), pytest.approx(0.4)]]


@pytest.mark.parametrize("image", [torch.tensor([[0.2, 0.4]]), torch.tensor([[[0.2, 0.4]]]), numpy.array([[0.2, 0.4]])])
def test_gray_images(image: Any) -> None:
    assert pixels(show.overlay(image, torch.zeros(1, 2), gray=False).image) == [[(51, 51, 51), (102, 102, 102)]]


def test_fewer_positions_than_pixels_are_enlarged() -> None:
    relevance = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    picture = show.overlay(torch.zeros(3, 6, 6), relevance, scale=1, alpha=1, gray=False)
    expected = {1.0: OVER_RED, -1.0: OVER_BLUE, 0.0: (0, 0, 0)}
    assert pixels(picture.image) == [
        [expected[float(relevance[row // 3, column // 3])] for column in range(6)] for row in range(6)
    ]
    assert picture.relevance.shape == (2, 2)


IMAGES: dict[str, tuple[Any, str]] = {
    "normalized": (torch.full((3, 2, 2), -1.5), r"from -1.5 to -1.5.*undo its normalization.*show.heatmap"),
    "integers": (torch.ones(3, 2, 2, dtype=torch.int64), r"values of torch.int64 from 1 to 1, not bytes"),
    "NaN": (torch.full((3, 2, 2), float("nan")), r"image of shape \(3, 2, 2\) has 12 NaN and 0 infinite elements$"),
    "four channels": (torch.zeros(4, 2, 2), r"has 4 channels, not 1 or 3"),
    "array with channels first": (numpy.zeros((3, 2, 2)), r"has 2 channels, not 1 or 3, if it is \(H, W, C\)"),
    "array with a batch": (numpy.zeros((1, 3, 3, 3)), r"shape \(1, 3, 3, 3\) is not \(H, W, C\) or \(H, W\)"),
    "batch": (torch.zeros(2, 3, 2, 2), r"is a batch of 2: pass one of them, image\[0\]"),
    "32 bits": (Image.new("I", (2, 2)), "pixels of mode I, which do not say which value is white"),
    "floating point": (Image.new("F", (2, 2)), "pixels of mode F, which do not say which value is white"),
    "complex": (torch.zeros(2, 2, dtype=torch.complex64), r"shape \(2, 2\) is complex: pass its real part"),
    "vector": (torch.zeros(4), r"is not \(C, H, W\)"),
    "path": ("cat.png", r"image must be a tensor, an array or a list of numbers"),
    "other ratio": (torch.zeros(3, 4, 2), r"image has 4 x 2 pixels and the relevance 2 x 2 positions: pass the part"),
    "smaller": (torch.zeros(3, 1, 1), r"relevance has 2 x 2 positions, more than the 1 x 1 pixels .*enlarge the image"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_wrong_images_are_errors(name: str) -> None:
    image, message = IMAGES[name]
    with pytest.raises(InputError, match=message):
        show.overlay(image, torch.zeros(2, 2))


@pytest.mark.parametrize("alpha", [0, -0.5, 1.5, float("nan"), "half", True])
def test_wrong_opacities_are_errors(alpha: Any) -> None:
    with pytest.raises(InputError, match="alpha="):
        show.overlay(torch.zeros(3, 2, 2), torch.zeros(2, 2), alpha=alpha)


def test_rounding_beyond_the_range_of_an_image_is_no_error() -> None:
    assert pixels(show.overlay(torch.tensor([[1.0 + 1e-4, -1e-4]]), torch.zeros(1, 2), gray=False).image)[0] == [
        WHITE,
        (0, 0, 0),
    ]
