"""Image classifiers of torchvision and timm, with the images and classes of their weights."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fxlrp.arguments import similar
from fxlrp.commands.reasons import because
from fxlrp.commands.subject import Normalization, Subject
from fxlrp.commands.weights import DEFAULT, fill
from fxlrp.errors import InputError
from fxlrp.extras import import_torchvision, require
from fxlrp.pictures import rgb


def load(name: str, weights: str, path: Path | None, count: int | None) -> Subject:
    """Return an image classifier.

    Args:
        name: Its name, such as ``timm:resnet18``.
        weights: As for :func:`fxlrp.commands.subjects.load`.
        path: The file of the weights, if they are in one.
        count: The number of classes; None for that of the library.

    Raises:
        InputError: There is no such model, or its weights cannot be read or do not fit.
    """
    library, _, model = name.partition(":")
    if weights == DEFAULT and count is not None:
        raise InputError("--classes names the classes of --weights FILE; the default weights have their own")
    subject = (_torchvision if library == "torchvision" else _timm)(model, weights == DEFAULT, count)
    if path is not None:
        fill(subject.model, path, name)
    return subject


def _made(name: str, pretrained: bool, build: Callable[[], Any]) -> nn.Module:
    """The model that a library builds.

    Raises:
        InputError: It fails, for instance because there is no network.
    """
    try:
        with warnings.catch_warnings():
            # That a later torchvision initializes random weights in another way concerns no explanation.
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = build()
    except ImportError:
        raise
    except Exception as error:
        what = f"the default weights of {name} cannot be loaded" if pretrained else f"{name} cannot be made"
        hint = "; --weights FILE reads them from a file, --weights RANDOM explains an untrained model" * pretrained
        raise InputError(f"{what}: {because(error)}{hint}") from error
    return model


def _check(name: str, library: str, names: Iterable[str]) -> None:
    known = list(names)
    if name not in known:
        raise InputError(f"{library} has no image classifier {name!r}{similar(name, known)}")


def _torchvision(name: str, pretrained: bool, count: int | None) -> Subject:
    models = import_torchvision().models
    _check(name, "torchvision", models.list_models(module=models))
    weights = models.get_model_weights(name).DEFAULT
    options: dict[str, Any] = {"weights": weights if pretrained else None}
    if count is not None:
        options["num_classes"] = count
    model: Any = _made(f"torchvision:{name}", pretrained, functools.partial(models.get_model, name, **options))
    if hasattr(model, "transform_input"):
        # The published weights of these models expect images that the model normalizes in another way.
        model.transform_input = True
    transform, classes = weights.transforms(), tuple(weights.meta["categories"])
    size = " to ".join(str(each[0]) for each in (transform.resize_size, transform.crop_size))
    return Subject(
        model,
        functools.partial(_converted, transform),
        "image",
        classes if count in (None, len(classes)) else (),
        normalization=Normalization(tuple(transform.mean), tuple(transform.std)),
        preparation=f"as for {type(weights).__name__}.{weights.name}: resized and cropped, {size} pixels",
    )


def _timm(name: str, pretrained: bool, count: int | None) -> Subject:
    import_torchvision()
    timm = require("timm", "survey")
    if not timm.is_model(name.partition(".")[0]):
        _check(name, "timm", timm.list_models())
    options: dict[str, Any] = {} if count is None else {"num_classes": count}
    build = functools.partial(timm.create_model, name, pretrained=pretrained, **options)
    model: Any = _made(f"timm:{name}", pretrained, build)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    subset = timm.data.infer_imagenet_subset(model)
    info = timm.data.ImageNetInfo(subset) if subset else None
    classes = tuple(info.index_to_description(index) for index in range(model.num_classes)) if info else ()
    return Subject(
        model,
        functools.partial(_converted, transform),
        "image",
        classes if count is None else (),
        normalization=Normalization(tuple(config["mean"]), tuple(config["std"])),
        preparation=f"by timm's data configuration: {'x'.join(map(str, config['input_size'][1:]))} pixels, "
        f"crop_pct {config['crop_pct']:g}",
    )


def _converted(transform: Callable[[Any], Tensor], image: Any) -> Tensor:
    return transform(rgb(image))
