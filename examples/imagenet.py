"""Explain what a torchvision classifier sees in a photo: python examples/imagenet.py photo.jpg

Needs the extras vision and demo. The pretrained weights are downloaded on first use; where that is not
possible, --weights reads a state dict from a file, and --random-weights goes on without.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

import fxlrp
from fxlrp import show
from fxlrp.extras import import_torchvision, require

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="resnet50", help="a torchvision classifier (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="a state dict to read instead of the pretrained weights")
    parser.add_argument("--random-weights", action="store_true", help="go on if no trained weights can be had")
    parser.add_argument("--target", type=int, help="the class to explain (default: the model's first choice)")
    parser.add_argument("--size", type=int, default=224, help="of the square crop (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="the picture (default: PHOTO_MODEL.png)")
    return parser.parse_args()


def load_model(options: argparse.Namespace) -> tuple[torch.nn.Module, list[str] | None]:
    """The model in evaluation mode, and the names of its classes where they are known."""
    models = import_torchvision().models
    if options.weights is not None:
        model = models.get_model(options.model, weights=None)
        model.load_state_dict(torch.load(options.weights, map_location="cpu", weights_only=True))
        return model.eval(), None
    weights = models.get_model_weights(options.model).DEFAULT
    try:
        return models.get_model(options.model, weights=weights).eval(), weights.meta["categories"]
    except OSError as error:  # URLError is one
        print(f"The pretrained weights of {options.model} cannot be had here: {error}", file=sys.stderr)
    if not options.random_weights:
        sys.exit("Give a file with --weights, or go on without trained weights with --random-weights.")
    print("RANDOM WEIGHTS: the heatmap shows the mechanics, not what a trained model sees.", file=sys.stderr)
    torch.manual_seed(0)
    return models.get_model(options.model, weights=None).eval(), None


def load_photo(path: Path, size: int) -> torch.Tensor:
    """The middle square of the photo, (1, 3, size, size) with values in [0, 1]."""
    transforms = import_torchvision().transforms
    picture = require("PIL.ImageOps", "vision").exif_transpose(require("PIL.Image", "vision").open(path))
    tensor = transforms.functional.to_tensor(picture.convert("RGB"))
    square: torch.Tensor = transforms.functional.center_crop(transforms.functional.resize(tensor, size), size)
    return square.clamp(0, 1).unsqueeze(0)


def main() -> None:
    options = parse()
    try:
        photo = load_photo(options.photo, options.size)
    except OSError as error:
        sys.exit(f"{options.photo} cannot be read: {error}")
    model, categories = load_model(options)

    # A network sees normalized pixels: the box rule needs the range of those, channel by channel.
    mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
    low, high = (0 - mean) / deviation, (1 - mean) / deviation
    image = (photo - mean[:, None, None]) / deviation[:, None, None]

    started = time.perf_counter()
    explain = fxlrp.compile(model, rules=fxlrp.presets.epsilon_gamma_box(low.tolist(), high.tolist()))
    compiled = time.perf_counter()
    relevance = explain(image, target=options.target)
    finished = time.perf_counter()

    with torch.inference_mode():
        logits = model(image)[0]
    target = int(logits.argmax()) if options.target is None else options.target
    name = categories[target] if categories else f"class {target}"
    print(explain)
    print(f"\ncompiled in {compiled - started:.2f} s, explained in {finished - compiled:.2f} s")
    print(f"{name}: logit {logits[target]:.4f}, relevance at the pixels {relevance.sum():.4f}")

    output = options.output or Path(f"{options.photo.stem}_{options.model}.png")
    cells = [photo, show.heatmap(relevance), show.overlay(photo, relevance)]
    show.grid(cells, titles=["", name, ""], heading=f"{options.model} on {options.photo.name}").save(output)
    print(f"The picture is {output}")


if __name__ == "__main__":
    main()
