"""The command line: ``fxlrp explain``, ``dataset``, ``graph``, ``rules``, ``check``, ``survey`` and ``completion``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxlrp.command_line import Parser
from fxlrp.commands import check, completion, dataset, explain, graph, rules, survey
from fxlrp.version import __version__


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: The words of the command line; None means those of the process.

    Raises:
        SystemExit: The exit status is not 0: 1 if some files could not be explained, 2 for a wrong call.
    """
    parser().run(arguments)


def parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="fxlrp",
        description="Layer-wise relevance propagation as a compiler pass. fxlrp COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"fxlrp {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (explain, dataset, graph, rules, check, survey):
        command.add(commands)
    completion.add(commands, parser)
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
