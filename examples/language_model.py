"""Why does a language model answer "blue"? The relevance of the words of a prompt, for the answer and for a contrast.

Run it from the repository: python examples/language_model.py

A small transformer learns to look things up: it reads names with their colors, then one of the names again, and
continues with its color. So what should be relevant is known: the color behind the name, and the name. The same code
explains a language model of transformers: `fxlrp.compile(model, "attnlrp", example_inputs={"input_ids": ids})`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import show
from fxlrp.targets import contrast

NAMES = ("Anna", "Ben", "Cora", "Dan", "Eva", "Finn", "Gita", "Hugo")
COLORS = ("red", "blue", "green", "pink", "gold", "gray", "black", "white")
WORDS, FACTS, QUESTIONS, WIDTH = NAMES + COLORS, 4, 8, 64


class LanguageModel(nn.Module):
    """Three layers of causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(len(WORDS), WIDTH), nn.Parameter(torch.randn(30, WIDTH) / 50)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(WORDS), bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        x = self.words(ids) + self.positions[:length]
        for layer in self.layers:
            x = layer(x, src_mask=later)
        logits: Tensor = self.head(self.norm(x))
        return logits


def texts(count: int) -> Tensor:
    """Names with their colors, and behind them some of the same names with their colors again."""
    names, colors = (torch.rand(count, 8).argsort(1)[:, :FACTS] for _ in range(2))
    facts = torch.stack((names, colors + len(NAMES)), -1)
    asked = torch.randint(FACTS, (count, QUESTIONS, 1)).expand(-1, -1, 2)
    return torch.cat((facts, facts.gather(1, asked)), 1).flatten(1)


def train(model: nn.Module, steps: int) -> float:
    """Train on the answers; return the accuracy of the last step."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.98))
    accuracy = 0.0
    for _ in range(steps):
        ids = texts(64)
        logits, answers = model(ids[:, :-1])[:, 2 * FACTS :: 2], ids[:, 2 * FACTS + 1 :: 2]
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = float((logits.argmax(-1) == answers).float().mean())
    return accuracy


torch.manual_seed(0)
model = LanguageModel()
print(f"trained: {train(model, 300):.1%} of the answers are correct")

prompt = ["Anna", "red", "Ben", "blue", "Cora", "green", "Dan", "pink", "Ben"]
ids = torch.tensor([[WORDS.index(word) for word in prompt]])
explain = fxlrp.compile(model.eval(), "attnlrp", example_inputs=ids)
logits = model(ids)[0, -1].detach()
answer, other = int(logits.argmax()), WORDS.index("green")
print(f"the answer is {WORDS[answer]}, with a probability of {logits.softmax(0)[answer]:.3f}\n")

of_answer = explain(ids, target=(-1, answer))
print(f"{WORDS[answer]}:\n{show.tokens(prompt, of_answer)}\n")
against = show.tokens(prompt, explain(ids, target=contrast((-1, answer), (-1, other))))
print(f"{WORDS[answer]} rather than {WORDS[other]}:\n{against}\n")
against.save("language_model.html")
print("The picture of the contrast is language_model.html")
