"""What is measured: the cases, and which of them share a process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.explainers import PRESETS

MODELS = ("resnet18", "resnet50", "vgg16", "densenet121", "efficientnet_b0", "convnext_tiny", "vit_b_16")
EAGER = ("fxlrp", "zennit", "captum", "autolrp")

BATCH = 8
SMALLER_BATCH = {"vgg16": 2, "vit_b_16": 2}  # an image of theirs takes as long as several of the others'

# torch.compile takes minutes for a large graph, so not everything goes through it unless asked for: of the first model
# every preset does, of the others these.
COMPILED_PRESETS = ("epsilon_plus_flat",)
RECIPES = ("contiguous", "frozen")


@dataclass(frozen=True)
class Growth:
    """How the cost of one preset grows, one thing varied at a time and the others as they are here."""

    preset: str = "epsilon_plus_flat"
    contestants: tuple[str, ...] = ("gradient", "fxlrp", "zennit")
    model: str = "resnet18"
    batch: int = 2
    size: int = 224
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    sizes: tuple[int, ...] = (112, 160, 224, 320, 448)
    models: tuple[str, ...] = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


LENGTHS = ("length", "capture")  # the series of transformers


@dataclass(frozen=True)
class Lengths:
    """Transformers over lengths, in tokens; of images, in patches."""

    language_model: str = "language_model"
    tokens: tuple[int, ...] = (128, 512, 2048, 8192)
    presets: tuple[str, ...] = ("attnlrp", "cplrp")
    contestants: tuple[str, ...] = ("gradient", "fxlrp", "LRP-0", "lxt", "detached")
    encoder: str | None = "encoder"
    encoder_batch: int = 8
    encoder_tokens: int = 256
    vision: str | None = "vit_b_16"
    patches: tuple[int, ...] = (196, 784)
    captured: tuple[str, ...] = ("language_model", "language_model_16", "encoder")


@dataclass(frozen=True)
class Plan:
    """What a run covers."""

    models: tuple[str, ...] = MODELS
    presets: tuple[str, ...] = tuple(PRESETS)
    recipes: tuple[str, ...] = RECIPES
    compiled_presets: tuple[str, ...] | None = None
    batch: int | None = None
    size: int = 224
    growth: Growth | None = field(default_factory=Growth)
    lengths: Lengths | None = field(default_factory=Lengths)


@dataclass(frozen=True)
class Case:
    """One comparison: the contestants explain the same images of the same model. Without preset: gradients only."""

    series: str
    model: str
    preset: str | None
    batch: int
    size: int
    contestants: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What the size counts."""
        return "pixels" if self.series not in LENGTHS else "patches" if self.model.startswith("vit") else "tokens"


def layers(model: str) -> int:
    """How deep a model is, by its name."""
    return int("".join(filter(str.isdigit, model)) or 1)


QUICK = Plan(
    models=("tiny",),
    recipes=("aot_eager",),
    batch=2,
    size=16,
    growth=Growth(model="tiny", size=16, batches=(1, 2), sizes=(16, 24), models=("tiny",)),
    lengths=Lengths(
        language_model="tiny_language_model",
        tokens=(4, 8),
        encoder=None,
        vision=None,
        captured=("tiny_language_model",),
    ),
)


def jobs(plan: Plan) -> Mapping[str, list[Case]]:
    """The cases of each process, which are those of one model, by the model's name."""
    grouped = {model: list(_model(plan, model)) for model in plan.models}
    for case in [] if plan.growth is None else _growth(plan.growth):
        grouped.setdefault(case.model, []).append(case)
    # A process of their own for each length: one that needs too much memory ends only itself.
    for case in [] if plan.lengths is None else _lengths(plan.lengths):
        grouped.setdefault(f"{case.series}-{case.model}-{case.size}", []).append(case)
    return grouped


def _model(plan: Plan, model: str) -> Iterator[Case]:
    batch = plan.batch or SMALLER_BATCH.get(model, BATCH)
    # A training graph keeps its weights: "frozen" is as "contiguous" there.
    recipes = [recipe for recipe in plan.recipes if recipe != "frozen"]
    gradients = ("gradient", *(f"gradient {recipe}" for recipe in recipes))
    yield Case("gradient", model, None, batch, plan.size, gradients)
    for preset in plan.presets:
        recipes = [f"fxlrp {recipe}" for recipe in plan.recipes] if _compiled(plan, model, preset) else []
        yield Case("presets", model, preset, batch, plan.size, ("gradient", EAGER[0], *recipes, *EAGER[1:]))


def _compiled(plan: Plan, model: str, preset: str) -> bool:
    if plan.compiled_presets is not None:
        return preset in plan.compiled_presets
    return model == plan.models[0] or preset in COMPILED_PRESETS


def _growth(growth: Growth) -> Iterator[Case]:
    for batch in growth.batches:
        yield Case("batch", growth.model, growth.preset, batch, growth.size, growth.contestants)
    for size in growth.sizes:
        yield Case("size", growth.model, growth.preset, growth.batch, size, growth.contestants)
    for model in growth.models:
        yield Case("depth", model, growth.preset, growth.batch, growth.size, growth.contestants)


def _lengths(lengths: Lengths) -> Iterator[Case]:
    for tokens in lengths.tokens:
        for preset in lengths.presets:
            # The longest takes minutes: without the detached model, which is still what results are compared with.
            contestants = lengths.contestants[:-1] if tokens > 4096 else lengths.contestants
            yield Case("length", lengths.language_model, preset, 1, tokens, contestants)
    if lengths.encoder is not None:
        contestants = ("gradient", "fxlrp", "autolrp")
        for preset in lengths.presets:
            yield Case("length", lengths.encoder, preset, lengths.encoder_batch, lengths.encoder_tokens, contestants)
    for patches in lengths.patches if lengths.vision is not None else ():
        for preset in ("default", "attnlrp"):
            yield Case("length", str(lengths.vision), preset, 1, patches, ("gradient", "fxlrp", "autolrp"))
    for model in lengths.captured:
        yield Case("capture", model, "attnlrp", 1, lengths.tokens[0], ())
