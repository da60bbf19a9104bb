"""``fxlrp survey``: try every model of torchvision, timm and transformers."""

from __future__ import annotations

from typing import Any

from fxlrp.command_line import add_command
from fxlrp.survey import __main__ as survey


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "survey",
        survey.run,
        help="try every model of torchvision, timm and transformers",
        examples=(
            "fxlrp survey",
            "fxlrp survey torchvision:resnet18 hf:bert",
            "fxlrp survey timm --workers 4 --timeout 600",
        ),
    )
    survey.add_arguments(parser)
