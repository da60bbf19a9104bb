"""Models of libraries on the command line: their images, their classes and weights in files, without a network."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command_models import enter
from fxlrp.__main__ import main
from fxlrp.commands.subjects import load
from fxlrp.errors import InputError
from fxlrp.extras import import_torchvision


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "explanations" / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def squeezenet(classes: int, path: str) -> Any:
    torch.manual_seed(0)
    model = import_torchvision().models.squeezenet1_1(weights=None, num_classes=classes).eval()
    torch.save(model.state_dict(), path)
    return model


def test_torchvision_with_weights_in_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = squeezenet(1000, "weights.pth")
    call = ["explain", "images/cat.png", "--model", "torchvision:squeezenet1_1", "--weights", "weights.pth"]
    main([*call, "--target", "tabby", "--rules", "epsilon_gamma_box"])
    from PIL import Image

    weights = import_torchvision().models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    index = weights.meta["categories"].index("tabby")
    with Image.open("images/cat.png") as image:
        output = model(weights.transforms()(image.convert("RGB"))[None])[0]
    (row,) = rows(folder)
    assert (row["index"], row["class"]) == (str(index), "tabby")
    assert float(row["score"]) == pytest.approx(float(output[index]), rel=1e-3)
    printed = capsys.readouterr().out
    assert "SqueezeNet1_1_Weights.IMAGENET1K_V1" in printed and "weights of weights.pth" in printed


def test_the_box_of_the_first_layer_is_that_of_the_normalization(folder: Path) -> None:
    squeezenet(1000, "weights.pth")
    subject = load("torchvision:squeezenet1_1", "weights.pth", None)
    assert subject.normalization is not None
    black, white = (subject.prepare(_image(color)) for color in ("black", "white"))
    for channel, (low, high) in enumerate(zip(*subject.normalization.bounds.values(), strict=True)):
        assert float(black[channel].unique()) == pytest.approx(low, abs=1e-5)
        assert float(white[channel].unique()) == pytest.approx(high, abs=1e-5)


def _image(color: str) -> Any:
    from PIL import Image

    return Image.new("RGB", (300, 200), color)


def test_classes_of_ones_own(folder: Path) -> None:
    squeezenet(3, "weights.pth")
    call = ["explain", "images/cat.png", "--model", "torchvision:squeezenet1_1", "--weights", "weights.pth"]
    main([*call, "--classes", "classes.txt", "--target", "bird", "--no-balance"])
    (row,) = rows(folder)
    assert (row["index"], row["class"]) == ("2", "bird")
    with pytest.raises(InputError, match=r"of another size are classifier.1.bias, classifier.1.weight \(for another"):
        load("torchvision:squeezenet1_1", "weights.pth", None)


def test_random_weights_are_stated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["explain", "images/cat.png", "--model", "torchvision:squeezenet1_1", "--weights", "RANDOM"]
    main([*call, "--no-balance"])
    assert "the weights are random" in capsys.readouterr().out


def test_default_weights_without_a_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(SystemExit) as caught:
        main(["explain", "images/cat.png", "--model", "torchvision:squeezenet1_1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert "cannot be loaded: OSError: no network; --weights FILE reads them from a file" in line


def test_timm(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False).eval()
    torch.save(model.state_dict(), "weights.pth")
    call = ["explain", "images/cat.png", "--model", "timm:test_resnet", "--weights", "weights.pth"]
    main([*call, "--target", "goldfish", "--no-balance"])
    config = timm.data.resolve_model_data_config(model)
    with __import__("PIL.Image").Image.open("images/cat.png") as image:
        made = timm.data.create_transform(**config, is_training=False)(image.convert("RGB"))
        output = model(made[None])[0]
    (row,) = rows(folder)
    assert row["index"] == "1" and row["class"].startswith("goldfish")
    assert float(row["score"]) == pytest.approx(float(output[1]), rel=1e-3)
    with pytest.raises(InputError, match="timm has no image classifier 'resnet_18'; similar names"):
        load("timm:resnet_18", "RANDOM", None)


def save_text_classifier(folder: Path, head: bool = True) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=8).save_pretrained(folder)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = transformers.BertConfig(
        vocab_size=8, max_position_embeddings=8, id2label={0: "negative", 1: "positive"}, **sizes
    )
    torch.manual_seed(0)
    model = (transformers.BertForSequenceClassification if head else transformers.BertModel)(config)
    model.save_pretrained(folder)


def test_a_text_classifier_of_transformers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_text_classifier(folder / "model")
    transformers = pytest.importorskip("transformers")
    main(["explain", "a fine film", "--model", "hf:model", "--rules", "attnlrp", "--target", "positive"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("[CLS]"))
    assert [line.split()[0] for line in lines[first : first + 5]] == ["[CLS]", "a", "fine", "film", "[SEP]"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained("model").eval()
    output = model(torch.tensor([[2, 5, 6, 7, 3]])).logits[0]
    (row,) = rows(folder)
    assert (row["index"], row["class"]) == ("1", "positive")
    assert float(row["score"]) == pytest.approx(float(output[1]), rel=1e-3)
    assert "[CLS]" in Path(row["written"]).read_text()


def test_a_text_that_is_too_long_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_text_classifier(folder / "model")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["explain", "a fine film", "a " * 7, "--model", "transformers:model", "--no-balance"])
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert "it has 9 tokens, and the model reads at most 8" in printed.err and "1 of 2 explained" in printed.out


def test_what_is_no_classifier(folder: Path) -> None:
    save_text_classifier(folder / "model", head=False)
    with pytest.raises(InputError, match="hf:model is a BertModel, not a classifier of images or texts"):
        load("hf:model", "DEFAULT", None)
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(
        json.dumps({**config, "architectures": ["BertForSequenceClassification"]})
    )
    with pytest.raises(InputError, match=r"the weights of hf:model lack .*: it is not trained as a classifier"):
        load("hf:model", "DEFAULT", None)
    (folder / "model" / "config.json").unlink()
    with pytest.raises(InputError, match=r"hf:model cannot be read: .* A model is a folder that save_pretrained wrote"):
        load("hf:model", "DEFAULT", None)


def test_an_image_classifier_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import_torchvision()
    labels = {0: "cat", 1: "dog", 2: "hot dog"}
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = transformers.ViTConfig(image_size=32, patch_size=8, id2label=labels, **sizes)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained("vit")
    main(["explain", "images", "--model", "hf:vit", "--rules", "attnlrp", "--target", "dog", "--no-balance"])
    found = rows(folder)
    assert len(found) == 3 and {row["class"] for row in found} == {"dog"}
    model = transformers.AutoModelForImageClassification.from_pretrained("vit").eval()
    with __import__("PIL.Image").Image.open("images/cat.png") as image:
        output = model(processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]).logits
    assert float(found[0]["score"]) == pytest.approx(float(output[0, 1]), rel=1e-3, abs=1e-5)
