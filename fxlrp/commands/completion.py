"""``fxlrp completion``: the script with which a shell completes the command line."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any

from fxlrp.command_line import add_command
from fxlrp.extras import require
from fxlrp.rules.presets import PRESETS

SHELLS = ("bash", "zsh")
_RULES = "_fxlrp_rules"


def add(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Declare the command.

    Args:
        commands: As for the other commands.
        whole: The parser of all commands.
    """
    parser = add_command(
        commands,
        "completion",
        functools.partial(_run, whole),
        help="print the script that completes commands in bash or zsh",
        examples=(
            "fxlrp completion bash > ~/.local/share/bash-completion/completions/fxlrp",
            "fxlrp completion zsh > ~/.zfunc/_fxlrp",
        ),
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def _run(whole: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    shtab = require("shtab", "completion")
    for action in _actions(whole):
        # What an argument takes is its metavar. shtab reads the attribute `complete`.
        takes = set(str(action.metavar).split("|"))
        if "PRESET" in takes:
            vars(action)["complete"] = dict.fromkeys(SHELLS, _RULES)
        elif takes & {"FILE", "IMAGE"}:
            vars(action)["complete"] = shtab.FILE
        elif "FOLDER" in takes:
            vars(action)["complete"] = shtab.DIRECTORY
    print(shtab.complete(whole, options.shell, preamble=_preamble()))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _preamble() -> dict[str, str]:
    """Functions of the shells that complete the name of a preset or a file of rules."""
    names = " ".join(PRESETS)
    return {
        "bash": f'{_RULES}() {{\n  compgen -W "{names}" -- "$1"\n  compgen -f -- "$1"\n}}',
        "zsh": f"{_RULES}() {{\n  _alternative 'presets:preset:({names})' 'files:file:_files'\n}}",
    }
