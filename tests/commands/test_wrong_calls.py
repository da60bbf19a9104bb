"""Wrong calls: each ends in one line on stderr that says what to do, and in status 2; there is no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_models import MODULE, enter
from fxlrp.__main__ import main

CAT, PETS = "images/cat.png", "images/pets"
OWN = ["--model", f"{MODULE}:plain"]
DIGITS = ["--model", f"{MODULE}:digits"]
WORDS = ["--model", f"{MODULE}:words"]
SMALL = ["--model", "torchvision:squeezenet1_1"]

CALLS: list[tuple[list[str], str]] = [
    ([], "the following arguments are required: COMMAND"),
    (["explian", CAT], "invalid choice: 'explian'"),
    (["explain"], "the following arguments are required: IMAGE|FOLDER|TEXT, --model"),
    (["explain", CAT], "the following arguments are required: --model"),
    (["explain", *OWN], "the following arguments are required: IMAGE|FOLDER|TEXT"),
    (["explain", CAT, *OWN, "--speed", "9"], "unrecognized arguments: --speed"),
    (["explain", "no.png", *OWN], "there is no file or folder 'no.png'"),
    (["explain", "a film", *OWN], "there is no file or folder 'a film'"),
    (["explain", "", *WORDS], "an empty text cannot be explained"),
    (["explain", "empty", *OWN], "the folder empty has no images"),
    (["explain", "texts.txt", *OWN], "texts.txt is a text file, and the model explains images"),
    (["explain", "nothing.txt", *WORDS], "nothing.txt has no lines"),
    (["explain", "a film", CAT, *DIGITS], "give images or texts, not both in one call"),
    (["explain", CAT, "--model", "resnet18"], "'resnet18' is not torchvision:NAME, timm:NAME, hf:NAME or module"),
    (["explain", CAT, "--model", "torchvision:"], "'torchvision:' is not torchvision:NAME"),
    (["explain", CAT, "--model", "torchvision:resnet81"], "similar names: resnet18"),
    (["explain", CAT, "--model", "keras:vgg"], "there is no library 'keras' (torchvision, timm, hf), and no module"),
    (["explain", CAT, "--model", f"{MODULE}:plane"], f"the module '{MODULE}' has no function 'plane'; it has"),
    (["explain", CAT, "--model", "cannot_be_imported:model"], "No module named 'no_such_package', at"),
    (["explain", CAT, "--model", "with_mistake:model"], "SyntaxError"),
    (["explain", CAT, "--model", f"{MODULE}:broken"], "ValueError: no weights today, at"),
    (["explain", CAT, "--model", f"{MODULE}:number"], "returned int, not a model, (model, prepare) or"),
    (["explain", CAT, "--model", f"{MODULE}:two_numbers"], "prepare must be a function"),
    (["explain", CAT, "--model", f"{MODULE}:segments"], "the output of the model has the shape (1, 2, 224, 224)"),
    (["explain", CAT, "--model", f"{MODULE}:several"], "the model returns a dict"),
    (["explain", CAT, "--model", f"{MODULE}:several", "--output", "logits"], "logits"),
    (["explain", CAT, "--model", f"{MODULE}:exits"], "the function ends the process (status 3)"),
    (["explain", CAT, "--model", f"{MODULE}:unsupported"], "matrix_exp"),
    (["explain", CAT, *OWN, "--weights", "no.pth"], "--weights no.pth: there is no such file; other choices are"),
    (["explain", CAT, *OWN, "--weights", "RANDOM"], "the function decides the weights"),
    (["explain", CAT, *OWN, "--weights", "other.pth"], "do not fit models_of_the_user:plain: it lacks 0.weight"),
    (["explain", CAT, *OWN, "--weights", "text.pth"], "text.pth is not a file of weights alone"),
    (["explain", CAT, *OWN, "--weights", "list.pth"], "list.pth contains no state dict"),
    (["explain", CAT, *SMALL, "--classes", "classes.txt"], "--classes names the classes of --weights FILE"),
    (["explain", CAT, *OWN, "--classes", "no.txt"], "--classes no.txt: "),
    (["explain", CAT, *OWN, "--rules", "epsilom"], "there is no preset 'epsilom'; presets: attnlrp"),
    (["explain", CAT, *OWN, "--rules", "broken.json"], "broken.json is not JSON"),
    (["explain", CAT, *OWN, "--rules", "list.json"], "list.json is not a JSON object"),
    (["explain", CAT, *OWN, "--rules", "no.json"], "--rules no.json: "),
    (["explain", CAT, *OWN, "--parameters", "epsilon"], "'epsilon' is not NAME=NUMBER"),
    (["explain", CAT, *OWN, "--rules", "epsilon", "--parameters", "gamma=1"], "has no parameter 'gamma'; it has epsi"),
    (["explain", CAT, *DIGITS, "--rules", "epsilon_gamma_box"], "needs low and high: --parameters low=NUMBER"),
    (["explain", CAT, *DIGITS, "--target", "three"], "no class has this name; the classes are zero, one"),
    (["explain", CAT, *DIGITS, "--target", "o"], "--target 'o' means 3 classes, such as"),
    (["explain", CAT, *DIGITS, "--target", "7"], "--target 7: the model has the classes 0 to 2"),
    (["explain", CAT, *OWN, "--target", "cat"], "the names of the classes are not known"),
    (["explain", CAT, *OWN, "--target", "5"], "--target 5: the model has the classes 0 to 4"),
    (["explain", CAT, *OWN, "--out", CAT], "--out images/cat.png is a file: give a folder"),
    (["explain", CAT, *OWN, "--device", "tpu9"], "--device tpu9: this machine has no such device"),
    (["explain", CAT, *OWN, "--device", "meta"], "--device meta: this machine has no such device"),
    (["explain", CAT, *OWN, "--batch", "0"], "'0' is not a whole number of at least 1"),
    (["explain", "no.txt", *WORDS], "there is no file or folder 'no.txt'"),
    (["explain", "no.png", *WORDS], "there is no file or folder 'no.png'"),
    (["explain", "a fine film " * 300, *OWN], "film a fine film '"),
    (
        ["explain", "images/pets/cat.png", *OWN, "--out", "images/pets"],
        "a picture would overwrite the image images/pets/cat.png",
    ),
    (["explain", "images", *OWN, "--out", "images"], "--out images is the folder of the images"),
    (["explain", CAT, "--model", "ends_the_process:model"], "the module ends the process (status 0)"),
    (["explain", CAT, "--model", "with_longer_name:model"], "No module named 'with_longer', at"),
    (["explain", CAT, "--model", f"{MODULE}.py:plain"], f"give the module by its name, as import does: {MODULE}:plain"),
    (["explain", CAT, "--model", f"./{MODULE}:plain"], f"give the module by its name, as import does: {MODULE}:plain"),
    (["explain", CAT, "--model", f"{MODULE}:five_classes"], "the names of the classes must be a list"),
    (["explain", CAT, "--model", f"{MODULE}:two_names"], "the model has 5 classes, and there are 2 names of classes"),
    (["explain", CAT, *OWN, "--classes", "classes.txt"], "the model has 5 classes, and there are 3 names of classes"),
    (["graph", f"{MODULE}:words", "--html", "page.html", "--only", "head"], "--html writes the whole graph: leave out"),
    (["graph", f"{MODULE}:digits", "--input", "images"], "--input images is a folder: give an image"),
    (["graph", f"{MODULE}:digits", "--input", "no_image.png"], "--input no_image.png: it is not an image"),
    (["graph", f"{MODULE}:digits", "--input", "no.png"], "given the text 'no.png', which is no file or folder"),
    (["graph", f"{MODULE}:plain", "--width", "9"], "hide some of them with --hide"),
    (["check", "torchvision:resnet18", "--rules", "rules.json", "--conserving"], "--conserving is for presets"),
    (["graph"], "the following arguments are required: MODEL"),
    (["graph", "resnet18"], "'resnet18' is not torchvision:NAME"),
    (["graph", "torchvision:resnet81"], "torchvision cannot make the model 'resnet81'"),
    (["graph", f"{MODULE}:plain", "--only", "layer9"], "only='layer9': no node and no module has this name"),
    (["graph", f"{MODULE}:plain", "--hide", "reason"], "hide='reason' is neither a column"),
    (["graph", f"{MODULE}:plain", "--width", "20"], "width=20 is too narrow"),
    (["graph", "torchvision:squeezenet1_1", "--input", CAT], "has an example of its own"),
    (["rules", "epsilom"], "there is no preset 'epsilom'"),
    (["rules", "epsilon", "--parameters", "epsilon=-1"], "epsilon must be"),
    (["check", "hf:no_such_family"], "no_such_family"),
    (["survey", "keras:vgg"], "unknown model 'keras:vgg'"),
]


@pytest.mark.parametrize(("arguments", "said"), CALLS, ids=[" ".join(arguments) or "-" for arguments, _ in CALLS])
def test_a_wrong_call(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments == ["check", "hf:no_such_family"]:
        pytest.importorskip("transformers")
    enter(tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ": error: " in line and said in line
    assert all(path.read_bytes() == content for path, content in before.items())


def test_there_are_enough_wrong_calls() -> None:
    assert len(CALLS) >= 40
