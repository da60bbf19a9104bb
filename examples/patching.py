"""Patch a small language model: true activation patching, relevance patching (RelP) and attribution patching.

The model retrieves: it reads pairs of a key and a value, then a key again, and predicts its value. A prompt and a
corrupted prompt have different answers. Activation patching runs the corrupted prompt with one value of the clean run
at one node, and measures how much of the difference of the answers' logits comes back: one run for each node. Relevance
patching (Jafari et al., 2025) estimates the same for all nodes with one explanation of the corrupted run: the change of
the value times its coefficient. Attribution patching takes the gradient in place of the coefficient.

Run it from the repository with the demo's extra installed: python examples/patching.py
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp.extras import require
from fxlrp.targets import contrast

TOKENS, PAIRS = 30, 6
"""The number of different tokens, and of pairs of a key and a value in a prompt."""

METHODS = ("RelP", "attribution patching")
CORRUPTIONS = ("values", "key")
"""What differs in a corrupted prompt: the value of the key, which is swapped with another, or the key asked for."""


class Attention(nn.Module):
    """Causal attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inputs(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """Attention and an MLP that add to the residual stream, as in GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class LanguageModel(nn.Module):
    """A language model in the shape of GPT-2."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(TOKENS, width), nn.Parameter(torch.randn(4 * PAIRS, width) / 50)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(ids) + self.positions[: ids.shape[1]])))
        return logits

    def nodes(self) -> dict[str, list[str]]:
        """The paths of the modules whose outputs are patched, by their kind."""
        paths = [f"blocks.{layer}" for layer in range(len(self.blocks))]
        kinds = {"attention": ".attention", "MLP": ".mlp", "residual": ""}
        return {kind: [path + suffix for path in paths] for kind, suffix in kinds.items()}


def random_pairs(count: int) -> Tensor:
    """Pairs of a key and a value, `(count, PAIRS, 2)`: all tokens of a prompt are different."""
    return torch.rand(count, TOKENS).argsort(1)[:, : 2 * PAIRS].reshape(count, PAIRS, 2)


def train(model: LanguageModel, steps: int = 600) -> float:
    """Train with the pairs, and the same pairs in another order; return the accuracy of the last 50 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.98))
    accuracies = []
    for _ in range(steps):
        pairs = random_pairs(64)
        order = torch.rand(pairs.shape[:2]).argsort(1)
        ids = torch.cat([pairs, pairs.gather(1, order[..., None].expand_as(pairs))], 1).flatten(1)
        # A second key is followed by its value.
        logits, values = model(ids[:, :-1])[:, 2 * PAIRS :: 2], ids[:, 2 * PAIRS + 1 :: 2]
        loss = F.cross_entropy(logits.flatten(0, 1), values.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracies.append((logits.argmax(-1) == values).float().mean())
    model.eval().requires_grad_(False)
    return float(torch.stack(accuracies[-50:]).mean())


@dataclass(frozen=True)
class Prompts:
    """Clean and corrupted prompts, with the answers of both: `(count, length)` and `(count,)`."""

    clean: Tensor
    corrupted: Tensor
    answer: Tensor
    corrupted_answer: Tensor

    def difference(self, logits: Tensor) -> Tensor:
        """The logit of the clean answer less that of the corrupted answer, behind the last token."""
        last, rows = logits[:, -1], torch.arange(len(logits))
        return last[rows, self.answer] - last[rows, self.corrupted_answer]


def prompts(count: int, corruption: str) -> Prompts:
    """Prompts that ask for a random key; what is corrupted is one of `CORRUPTIONS`."""
    pairs, rows = random_pairs(count), torch.arange(count)
    asked = torch.randint(PAIRS, (count,))
    other = (asked + torch.randint(1, PAIRS, (count,))) % PAIRS
    corrupted, last = pairs.clone(), pairs[rows, other if corruption == "key" else asked, 0]
    if corruption == "values":
        corrupted[rows, asked, 1], corrupted[rows, other, 1] = pairs[rows, other, 1], pairs[rows, asked, 1]
    return Prompts(
        torch.cat([pairs.flatten(1), pairs[rows, asked, :1]], 1),
        torch.cat([corrupted.flatten(1), last[:, None]], 1),
        pairs[rows, asked, 1],
        pairs[rows, other, 1],
    )


def record(model: nn.Module, ids: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and the outputs of modules."""
    values: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: values.update({name: output}))
        for name in names
    ]
    logits = model(ids)
    for hook in hooks:
        hook.remove()
    return logits, values


@torch.no_grad()
def activation_patching(model: nn.Module, pairs: Prompts, names: Sequence[str]) -> dict[str, Tensor]:
    """What changes in the corrupted run with one clean value, `(count, length)` for each module: a run for each."""
    _, clean = record(model, pairs.clean, names)
    corrupted = pairs.difference(model(pairs.corrupted))

    def run(name: str, position: int) -> Tensor:
        def patched(_: nn.Module, __: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, position] = clean[name][:, position]
            return output

        hook = model.get_submodule(name).register_forward_hook(patched)
        logits = model(pairs.corrupted)
        hook.remove()
        return pairs.difference(logits) - corrupted

    length = pairs.clean.shape[1]
    return {name: torch.stack([run(name, position) for position in range(length)], 1) for name in names}


def relevance_patching(
    model: nn.Module, pairs: Prompts, names: Sequence[str], explain: fxlrp.Explainer
) -> dict[str, Tensor]:
    """Clean less corrupted value, times the coefficient in the corrupted run: one explanation for all nodes."""
    target = contrast((-1, pairs.answer), (-1, pairs.corrupted_answer))
    return times_change(model, pairs, explain(pairs.corrupted, target=target, at=names, coefficients=True))


def attribution_patching(model: nn.Module, pairs: Prompts, names: Sequence[str]) -> dict[str, Tensor]:
    """Clean less corrupted value, times the gradient in the corrupted run."""
    model.requires_grad_(True)
    logits, values = record(model, pairs.corrupted, names)
    gradients = torch.autograd.grad(pairs.difference(logits).sum(), [values[name] for name in names])
    model.requires_grad_(False)
    return times_change(model, pairs, dict(zip(names, gradients, strict=True)))


@torch.no_grad()
def times_change(model: nn.Module, pairs: Prompts, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Clean less corrupted value, times a factor, summed over the features: `(count, length)` for each module."""
    names = list(factors)
    (_, clean), (_, corrupted) = record(model, pairs.clean, names), record(model, pairs.corrupted, names)
    return {name: ((clean[name] - corrupted[name]) * factors[name]).sum(-1) for name in names}


@dataclass(frozen=True)
class Effects:
    """True effects and their estimates by method, `(layers, prompts, positions)`."""

    true: Tensor
    estimates: Mapping[str, Tensor]

    @property
    def changes(self) -> Tensor:
        """The nodes that change the output of a prompt. At the others every method is right, which proves nothing."""
        return self.true.abs() > 1e-4

    def of_prompts(self) -> dict[str, float]:
        """Pearson's correlation of each estimate with the true effects, over the nodes of all prompts."""
        nodes = self.changes
        return {method: pearson(self.true[nodes], each[nodes]) for method, each in self.estimates.items()}

    def of_means(self) -> dict[str, float]:
        """The same over layers and positions, of effects that are averaged over the prompts."""
        return {method: pearson(self.true.mean(1), each.mean(1)) for method, each in self.estimates.items()}

    def slopes(self) -> dict[str, float]:
        """The slope of the best line through zero: 1 if an estimate has the size of the true effects."""
        square = (self.true * self.true).sum()
        return {method: float((each * self.true).sum() / square) for method, each in self.estimates.items()}


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of all elements."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def compare(model: LanguageModel, pairs: Prompts, explain: fxlrp.Explainer) -> dict[str, Effects]:
    """The effects of all nodes, by their kind; `explain` is compiled with the preset `relp`."""
    nodes = model.nodes()
    names = [name for kind in nodes.values() for name in kind]
    true = activation_patching(model, pairs, names)
    found = (relevance_patching(model, pairs, names, explain), attribution_patching(model, pairs, names))
    estimates = dict(zip(METHODS, found, strict=True))
    return {
        kind: Effects(
            torch.stack([true[name] for name in own]),
            {method: torch.stack([each[name] for name in own]) for method, each in estimates.items()},
        )
        for kind, own in nodes.items()
    }


def save_plot(path: str, effects: Mapping[str, Mapping[str, Effects]]) -> None:
    """Draw estimates against true effects: a row for each method, a column for each kind of node."""
    figure = require("matplotlib.figure", "demo").Figure(figsize=(9, 6), dpi=160, layout="constrained")
    kinds = list(next(iter(effects.values())))
    grid = figure.subplots(len(METHODS), len(kinds), squeeze=False, sharex="col", sharey="col")
    for row, method in zip(grid, METHODS, strict=True):
        row[0].set_ylabel(method)
        for axes, kind in zip(row, kinds, strict=True):
            axes.axline((0, 0), slope=1, color="#9aa0a8", linewidth=0.8)
            for color, (corruption, found) in zip(("#d7301f", "#2b6cb5"), effects.items(), strict=True):
                each = found[kind]
                true, estimate = each.true[each.changes], each.estimates[method][each.changes]
                label = f"{corruption}: r = {each.of_prompts()[method]:.3f}"
                axes.scatter(true.tolist(), estimate.tolist(), s=5, color=color, alpha=0.4, linewidths=0, label=label)
            axes.set_title(kind, loc="left", fontsize=10)
            axes.legend(frameon=False, fontsize=8, markerscale=2)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("activation patching")
    figure.savefig(path)


def main() -> None:
    torch.manual_seed(0)
    start, model = time.perf_counter(), LanguageModel()
    accuracy = train(model)
    print(f"trained in {time.perf_counter() - start:.0f} s, accuracy {accuracy:.1%}")
    explain = fxlrp.compile(model, "relp", example_inputs=prompts(2, "key").clean)
    found = {corruption: compare(model, prompts(256, corruption), explain) for corruption in CORRUPTIONS}
    print("Against activation patching: correlation over all prompts / of the averages over prompts / slope")
    print(f"{'corrupted':10} {'node':10} {'nodes':>6}  " + "  ".join(f"{method:>22}" for method in METHODS))
    for corruption, effects in found.items():
        for kind, each in effects.items():
            own, means, slopes = each.of_prompts(), each.of_means(), each.slopes()
            row = "  ".join(f"{own[method]:7.3f} / {means[method]:.3f} / {slopes[method]:.2f}" for method in METHODS)
            print(f"{corruption:10} {kind:10} {int(each.changes.sum()):6}  {row}")
    save_plot("patching.png", found)


if __name__ == "__main__":
    main()
