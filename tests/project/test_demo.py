"""The demo: photographs, a network trained on ImageNet, a picture, and an account of where the logits went."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fxlrp
from fxlrp.balance import Balance, NodeBalance
from fxlrp.demo import __main__ as demo
from fxlrp.demo.account import account, shortened
from fxlrp.demo.network import SIDE, class_names, load_network, normalized
from fxlrp.demo.photographs import PHOTOGRAPHS, middle, photograph


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return load_network()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_middle_of_a_photograph() -> None:
    """Of 80 x 64 pixels, the middle 56 x 56 remain: columns 12 to 68 and rows 4 to 60."""
    picture = Image.new("RGB", (80, 64), (255, 0, 0))
    picture.paste((0, 0, 255), (12, 4, 68, 60))
    image = middle(picture, 28)
    assert image.shape == (1, 3, 28, 28)
    # The filter sees a little beyond the edge.
    assert (image[0, :2, 2:-2, 2:-2] == 0).all() and (image[0, 2, 2:-2, 2:-2] == 1).all() and image[0, 0].max() < 0.2
    picture.paste((0, 255, 0), (12, 4, 40, 60))
    image = middle(picture, 28)
    assert (image[0, 1, 2:-2, 2:12] == 1).all() and (image[0, 2, 2:-2, 16:-2] == 1).all()


def test_photograph_from_a_file_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("L", (64, 64), 255)
    picture.paste(0, (0, 0, 64, 32))  # the upper half is black
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    image = photograph(str(tmp_path / "turned.png")).read(32)
    assert (image[..., :14, :] == 1).all() and (image[..., 18:, :] == 0).all()


def test_two_photographs_beside_each_other() -> None:
    both, cat, coffee = (photograph(name).read(64) for name in ("cat-and-coffee", "cat", "coffee"))
    assert torch.equal(both[..., :32], cat[..., 16:48]) and torch.equal(both[..., 32:], coffee[..., 16:48])


def test_every_photograph_can_be_read_and_names_classes() -> None:
    names = class_names()
    assert len(names) == 1000 and names[281:283] == ["tabby", "tiger cat"]
    for each in PHOTOGRAPHS.values():
        image = each.read(32)
        assert image.shape == (1, 3, 32, 32) and 0 <= image.min() < 0.3 and 0.7 < image.max() <= 1
        assert set(each.classes or ()) <= set(names)


@pytest.mark.parametrize(("name", "seen"), [("cat", "tiger cat"), ("coffee", "espresso"), ("palace", "palace")])
def test_network_recognizes_photographs(network: nn.Module, name: str, seen: str) -> None:
    with torch.inference_mode():
        logits = network(normalized(photograph(name).read(SIDE)))
    assert class_names()[int(logits.argmax())] == seen


def test_contrast_points_at_the_two_halves(network: nn.Module) -> None:
    """The cat is in the left half, and the coffee in the right one."""
    explain = fxlrp.compile(network)
    chosen = photograph("cat-and-coffee")
    each = demo.explained(network, explain, chosen.read(SIDE), class_names(), chosen.classes)
    assert each.names == ("Egyptian cat", "espresso")

    def share_of_left_half(relevance: Tensor) -> float:
        columns = relevance.clamp(min=0).sum((0, 1))
        return float(columns[: SIDE // 2].sum() / columns.sum())

    assert share_of_left_half(each.relevance[0][0]) > 0.8
    assert share_of_left_half(each.relevance[1][0]) < 0.2
    assert share_of_left_half(each.contrast[0]) > 0.95 and share_of_left_half(-each.contrast[0]) < 0.05


def test_account_of_a_balance() -> None:
    def node(name: str, received: float, passed_on: float) -> NodeBalance:
        return NodeBalance(name, "linear", f"layers.{name}", "Epsilon()", received, passed_on)

    nodes = node("c", 8.0, 6.0), node("b", 6.0, 2.0), node("a", 2.0, 1.5), node("top", 1.5, 1.6)
    assert account(Balance(8.0, 1.6, nodes), named=2).splitlines() == [
        "The logit is 8.00. 20.00% of it reached the pixels. The rest stayed with the biases of the layers:",
        "   50.00%  layers.b",
        "   25.00%  layers.c",
        "    5.00%  2 other nodes",
    ]


def test_long_tables_are_shortened() -> None:
    lines = [str(index) for index in range(10)]
    assert shortened("\n".join(lines), first=3, last=2).splitlines() == ["0", "1", "2", "... 5 more rows ...", "8", "9"]
    assert shortened("\n".join(lines[:6]), first=3, last=2).splitlines() == lines[:6]


@pytest.mark.slow
def test_demo_prints_the_graph_and_writes_the_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main([])
    output = capsys.readouterr().out
    assert "preset default" in output and re.search(r"conv2d +_conv_stem +1x32x112x112 +ZPlus\(\)", output)
    assert "111 rules: 51 PassThrough(), 49 ZPlus()" in output
    for line in (r"cat: tiger cat 3\d\.\d%", r"cat-and-coffee: Egyptian cat", r"rocket: missile \d+\.\d%, drilling"):
        assert re.search(line, output)
    # The shares of an account add up to the logit.
    accounts = re.findall(r"The logit.*?other nodes", output, re.DOTALL)
    assert len(accounts) == 3
    for each in accounts:
        assert sum(map(float, re.findall(r"(-?\d+\.\d+)%", each))) == pytest.approx(100, abs=0.05)

    pixels = torch.frombuffer(bytearray(Image.open(here / "photo.png").convert("RGB").tobytes()), dtype=torch.uint8)
    red, green, blue = (pixels.view(-1, 3).float() / 255).T
    assert ((red - blue > 0.4) & (green < 0.5)).float().mean() > 0.01
    assert ((blue - red > 0.4) & (red < 0.5)).float().mean() > 0.001


@pytest.mark.slow
def test_rules_and_photograph_of_the_user(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (50, 40), (200, 40, 40)).save(here / "mine.png")
    demo.main(["mine.png", "--rules", "epsilon_gamma_box", "--output", "one.png"])
    output = capsys.readouterr().out
    assert "ZBox(low=-1, high=1)" in output and "mine.png: " in output
    assert Image.open(here / "one.png").width > 500


def test_modified_gradients_have_no_account(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["cat", "--rules", "deconvnet"])
    output = capsys.readouterr().out
    assert "deconvnet does not distribute the logit" in output and "the pixels:" not in output


def test_what_the_demo_says_about_shares_is_true(network: nn.Module) -> None:
    """The number of convolutions with biases, and the preset of which more arrives."""
    assert sum(isinstance(each, nn.Conv2d) for each in network.modules()) == 49
    x = normalized(photograph("cat").read(SIDE))
    shares = {}
    for name in ("default", "epsilon_gamma_box"):
        relevance, logits = fxlrp.compile(network, rules=demo.preset(name))(x, return_output=True)
        shares[name] = float(relevance.double().sum() / logits.max())
    assert "49 convolutions" in demo.SHARES and "about 1% of the logit of the cat" in demo.SHARES
    assert 0 < shares["default"] < 0.0005 and 0.008 < shares["epsilon_gamma_box"] < 0.015


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dog"], "'dog' is not a file"),
        (["cat", "--rules", "epsilom"], "epsilom"),
        (["--output", "photo.jpg"], "photo.jpg"),
        (["--output", "missing/photo.png"], "a folder that exists"),
    ],
)
def test_wrong_calls_are_refused(
    here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        demo.main(arguments)
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_file_that_is_not_an_image_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
    with pytest.raises(SystemExit) as left:
        demo.main(["broken.png"])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and ": error: broken.png: it is not an image" in line


def test_photograph_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(here / "photo.png")
    before = (here / "photo.png").read_bytes()
    with pytest.raises(SystemExit) as left:
        demo.main(["./photo.png"])
    assert left.value.code == 2 and (here / "photo.png").read_bytes() == before
    assert "--output photo.png would overwrite the photograph" in capsys.readouterr().err
