"""Classifiers of images and of texts by transformers: a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.commands.reasons import because
from fxlrp.commands.subject import Kind, Normalization, Subject
from fxlrp.commands.weights import DEFAULT, fill
from fxlrp.errors import InputError
from fxlrp.extras import import_torchvision, require
from fxlrp.pictures import rgb

_KINDS: Mapping[str, Kind] = {"ForImageClassification": "image", "ForSequenceClassification": "text"}
_INPUT = "input_ids"


def load(name: str, weights: str, path: Path | None, count: int | None) -> Subject:
    """Return a classifier.

    Args:
        name: ``hf:`` and a folder or the name of a model.
        weights: As for :func:`fxlrp.commands.subjects.load`.
        path: The file of the weights, if they are in one.
        count: The number of classes; the configuration of the model decides it, so it is not used.

    Raises:
        InputError: There is no such model, it is not a classifier, or its weights cannot be read or do not fit.
    """
    import_torchvision()
    library = require("transformers", "text")
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    source = name.partition(":")[2]
    config = _read(name, library.AutoConfig, source)
    kind = _kind(name, config)
    auto = library.AutoModelForImageClassification if kind == "image" else library.AutoModelForSequenceClassification
    if weights == DEFAULT:
        model, loaded = _read(name, auto, source, output_loading_info=True)
        if loaded["missing_keys"]:
            missing = ", ".join(sorted(loaded["missing_keys"])[:3])
            raise InputError(f"the weights of {name} lack {missing}: it is not trained as a classifier")
    else:
        model = auto.from_config(config)
        if path is not None:
            fill(model, path, name)
    names = config.id2label or {}
    classes = tuple(str(names.get(index, index)) for index in range(config.num_labels))
    if kind == "image":
        return _images(name, library, source, model, classes)
    return _texts(name, library, source, model, classes)


def _read(name: str, auto: Any, source: str, **options: Any) -> Any:
    try:
        return auto.from_pretrained(source, **options)
    except ImportError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} cannot be read: {because(error)} A model is a folder that save_pretrained wrote, or a name on "
            "the Hugging Face hub"
        ) from error


def _kind(name: str, config: Any) -> Kind:
    architectures = config.architectures or ()
    for architecture in architectures:
        for ending, kind in _KINDS.items():
            if architecture.endswith(ending):
                return kind
    raise InputError(
        f"{name} is a {', '.join(architectures) or type(config).__name__}, not a classifier of images or texts "
        f"({', '.join(f'*{ending}' for ending in _KINDS)})"
    )


def _images(name: str, library: Any, source: str, model: Any, classes: tuple[str, ...]) -> Subject:
    processor = _read(name, library.AutoImageProcessor, source)
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    return Subject(
        model,
        functools.partial(_image, processor),
        "image",
        classes,
        {"output": "logits"},
        Normalization(tuple(mean), tuple(std)) if processor.do_normalize and mean and std else None,
        f"by its {type(processor).__name__}",
    )


def _image(processor: Any, image: Any) -> Tensor:
    made: Tensor = processor(images=rgb(image), return_tensors="pt")["pixel_values"]
    return made[0]


def _texts(name: str, library: Any, source: str, model: Any, classes: tuple[str, ...]) -> Subject:
    tokenizer = _read(name, library.AutoTokenizer, source)
    taken = [each for each in tokenizer.model_input_names if each != _INPUT]
    return Subject(
        model,
        functools.partial(_text, tokenizer),
        "text",
        classes,
        {"output": "logits", "constants": taken},
        preparation=f"by its {type(tokenizer).__name__}",
    )


def _text(tokenizer: Any, text: str) -> tuple[list[str], dict[str, Tensor]]:
    """The tokens of a text, and the inputs of the model.

    Raises:
        InputError: The text is longer than the model can read.
    """
    made = tokenizer(text, return_tensors="pt")
    ids = made[_INPUT][0].tolist()
    if len(ids) > tokenizer.model_max_length:
        raise InputError(f"it has {len(ids)} tokens, and the model reads at most {tokenizer.model_max_length}")
    return tokenizer.convert_ids_to_tokens(ids), {key: torch.as_tensor(value) for key, value in made.items()}
