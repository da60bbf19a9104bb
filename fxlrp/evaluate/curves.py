"""The results of pixel flipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.evaluate.picture import draw
from fxlrp.printing.html import Table, html_table, in_cells
from fxlrp.show.picture import Picture


@dataclass(frozen=True, eq=False)
class Curves:
    """The scores of one explanation while regions are flipped.

    Args:
        fractions: The fractions of the regions that are flipped, ``(samples, points)``, from 0 to 1.
        morf: The scores with the most relevant regions flipped first.
        lerf: The scores with the least relevant regions flipped first.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor

    @property
    def morf_area(self) -> Tensor:
        """The area under the curve of MoRF for each sample. Small values are good."""
        return torch.trapezoid(self.morf, self.fractions, dim=1)

    @property
    def lerf_area(self) -> Tensor:
        """The area under the curve of LeRF for each sample. Large values are good."""
        return torch.trapezoid(self.lerf, self.fractions, dim=1)

    @property
    def srg(self) -> Tensor:
        """The symmetric relevance gain of each sample: the area between the curves. Large values are good."""
        return self.lerf_area - self.morf_area


@dataclass(frozen=True, eq=False)
class Flipping:
    """The result of :func:`pixel_flipping`. Notebooks show it as a table.

    Args:
        curves: The curves by the name of the explanation.
        regions: The number of regions of each sample that may be flipped.
    """

    curves: Mapping[str, Curves]
    regions: Tensor

    def __getitem__(self, name: str) -> Curves:
        """Return the curves of an explanation."""
        return self.curves[name]

    def table(self) -> Table:
        """Return the areas of each explanation, in the mean over the samples, and the standard error of the SRG.

        Returns:
            A table with a row for each explanation; a string that notebooks show as HTML.
        """
        rows = self._rows()
        text = tabulate(rows, headers=_HEADERS, floatfmt=".4g", disable_numparse=[0])
        return Table(text, html_table(_HEADERS, in_cells(rows, ".4g"), right=_HEADERS[1:]))

    def __str__(self) -> str:
        """The table."""
        return self.table()

    def _repr_html_(self) -> str:
        return self.table().html

    def _rows(self) -> list[tuple[str, float, float, float, float | None]]:
        return [
            (
                name,
                float(each.morf_area.mean()),
                float(each.lerf_area.mean()),
                float(each.srg.mean()),
                float(each.srg.std() / len(each.srg) ** 0.5) if len(each.srg) > 1 else None,
            )
            for name, each in self.curves.items()
        ]

    def picture(self) -> Picture:
        """Draw the mean curves: MoRF as a line, LeRF as a dashed line. Needs matplotlib.

        Returns:
            A picture, which notebooks show.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw(
            {
                name: tuple(values.mean(0).tolist() for values in (each.fractions, each.morf, each.lerf))
                for name, each in self.curves.items()
            }
        )


_HEADERS = ("explanation", "MoRF", "LeRF", "SRG", "std. error")


def merged(results: Sequence[Flipping]) -> Flipping:
    """Merge the results of several batches.

    Args:
        results: The results, of the same explanations and with the same number of points.

    Returns:
        The result of all samples.

    Raises:
        InputError: There are none, or they have different explanations or numbers of points.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> explain = fxlrp.compile(model)
        >>> batches = torch.rand(2, 5, 4)
        >>> parts = [fxlrp.evaluate.pixel_flipping(model, x, {"LRP": explain}, target=1) for x in batches]
        >>> fxlrp.evaluate.merged(parts)["LRP"].srg.shape
        torch.Size([10])
    """
    is_list = isinstance(results, list | tuple)
    if not is_list or not all(isinstance(each, Flipping) for each in results):
        raise InputError(f"merged() takes a list of results of pixel_flipping, not {shown(results)}")
    if not results:
        raise InputError("there are no results to merge")
    first, *others = results
    for other in others:
        if list(other.curves) != list(first.curves):
            raise InputError(f"the results have different explanations: {list(first.curves)} and {list(other.curves)}")
    points = {each.fractions.shape[1] for result in results for each in result.curves.values()}
    if len(points) > 1:
        raise InputError(f"the results have different numbers of points: {sorted(points)}")
    curves = {
        name: Curves(
            *(
                torch.cat([getattr(result.curves[name], what) for result in results])
                for what in ("fractions", "morf", "lerf")
            )
        )
        for name in first.curves
    }
    return Flipping(curves, torch.cat([result.regions for result in results]))
