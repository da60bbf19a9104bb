"""The code of zennit on the page "Coming from ..." runs, and gives the relevance of the code of fxlrp beside it."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

import zoo  # noqa: F401 - before zennit: it makes torchvision importable
from helpers import ROOT
from oracles import assert_relevance

BLOCK = re.compile(r"^```(py|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_code_of_zennit_gives_the_same_relevance() -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "migration.md").read_text())
    (_, network), (language, theirs), (_, ours) = blocks[:3]
    assert language == "py"
    page: dict[str, Any] = {}
    exec(network, page)
    model, images = page["model"].double(), page["images"].double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            # The canonizer leaves `eps` behind: the same function without it.
            module.running_var += module.eps
            module.eps = 0.0

    def relevance(code: str) -> Tensor:
        scope = {**page, "model": model, "images": images}
        exec(code, scope)
        found = scope["relevance"]
        assert isinstance(found, Tensor)
        return found.detach()

    seeded = ours.replace("torch.eye(10)", "torch.eye(10).double()")
    assert seeded != ours
    assert_relevance(relevance(seeded), relevance(theirs), 1e-12)
