"""Pages in a headless Chromium: what a person sees, clicks and types."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import fxlrp
from browser import Browser, find_chromium
from fxlrp.graph_page import GraphPage
from fxlrp.graph_page.data import Edge, Graph, Group, Kind, Node
from shown_models import Gated, Twice, small_resnet, small_transformer

pytestmark = pytest.mark.browser

WIDEST = 13


@dataclass(frozen=True)
class Saved:
    path: Path
    page: GraphPage

    @property
    def graph(self) -> Graph:
        return self.page.graph

    def node(self, name: str) -> Node:
        (found,) = (node for node in self.graph.nodes if node.id == name)
        return found

    def group(self, path: str) -> str:
        (found,) = (group.id for group in self.graph.groups if group.path == path)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


def saved(page: GraphPage, path: Path) -> Saved:
    page.save(path)
    return Saved(path, page)


@pytest.fixture(scope="module")
def resnet(folder: Path) -> Saved:
    torch.manual_seed(0)
    return saved(fxlrp.compile(small_resnet()).graph(None, torch.rand(1, 3, 32, 32)), folder / "resnet.html")


@pytest.fixture(scope="module")
def transformer(folder: Path) -> Saved:
    torch.manual_seed(0)
    explain = fxlrp.compile(small_transformer(), rules="attnlrp")
    return saved(explain.graph(None, torch.rand(1, 3, 16, 16)), folder / "transformer.html")


@pytest.fixture(scope="module")
def gated(folder: Path) -> Saved:
    return saved(fxlrp.compile(Gated().eval()).graph(), folder / "gated.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_chromium()
    assert executable is not None
    started = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def quiet(browser: Browser) -> Iterator[Browser]:
    """The browser; afterwards nothing may be on the console, and nothing but the page may have been requested."""
    browser.dark(False)
    browser.evaluate("0")
    yield browser
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.endswith(".html")] == []
    assert browser.evaluate("document.documentElement.dataset.state") == "ready"


def box(name: str) -> str:
    return f"#boxes [data-id={json.dumps(name)}]"


def boxes(browser: Browser) -> set[str]:
    """The names of the visible boxes, without the open groups."""
    found = names(browser, ".box")
    assert len(found) == len(set(found))
    return set(found)


def names(browser: Browser, selector: str) -> list[str]:
    """The first texts of elements, or the names of the boxes that they are."""
    each = "each.dataset.id ?? each.firstChild?.textContent"
    found: list[str] = browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => {each})")
    return found


def text_of(browser: Browser, name: str) -> str:
    return str(browser.evaluate(f"document.getElementById({json.dumps(name)}).innerText"))


def panel(browser: Browser) -> str:
    return " ".join(text_of(browser, "panel").split())


def expected_boxes(graph: Graph, opened: set[str]) -> set[str]:
    """For each node the outermost closed group around it, or the node itself."""
    parents = {group.id: group.parent for group in graph.groups}
    found = set()
    for node in graph.nodes:
        shown, around = node.id, node.group
        while around is not None:
            shown, around = (shown if around in opened else around), parents[around]
        if not node.is_aside:
            found.add(shown)
    return found


@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_the_first_view_shows_every_box_once(quiet: Browser, name: str, request: pytest.FixtureRequest) -> None:
    shown: Saved = request.getfixturevalue(name)
    quiet.open(shown.path)
    opened = {group.id for group in shown.graph.groups if group.is_open}
    assert boxes(quiet) == expected_boxes(shown.graph, opened)
    assert len(boxes(quiet)) <= 26
    assert set(names(quiet, ".header")) == opened
    overlapping = quiet.evaluate("""
        (() => {
          const all = [...page.places.boxes.values()];
          const before = (a, b) => a.x + a.width <= b.x || a.y + a.height <= b.y;
          return all.filter((a) => all.some((b) => a !== b && !before(a, b) && !before(b, a))).length;
        })()
    """)
    assert overlapping == 0


def test_edges_are_as_wide_as_their_relevance(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.click("#open-all")
    drawn = quiet.evaluate("""
        [...document.querySelectorAll('.edge.carries')].map((each) => [
          each.dataset.source, each.dataset.target, Number(each.querySelector('.line').getAttribute('stroke-width')),
          each.classList.contains('positive')])
    """)
    flows = {(edge.source, edge.target): edge.relevance for edge in resnet.graph.edges if edge.relevance is not None}
    largest = max(abs(flow) for flow in flows.values())
    assert {(source, target) for source, target, *_ in drawn} == set(flows)
    for source, target, width, is_positive in drawn:
        flow = flows[source, target]
        assert width == pytest.approx(1 + (WIDEST - 1) * abs(flow) / largest)
        assert is_positive == (flow > 0)


def test_an_edge_between_closed_groups_sums_the_relevance(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.click("#close-all")
    inside = {node.id: node.path.split(".")[0] for node in resnet.graph.nodes}
    crossing = [
        edge for edge in resnet.graph.edges if inside[edge.source] == "layer1" and inside[edge.target] == "layer2"
    ]
    assert len(crossing) == 2  # the block and its skip connection
    drawn = quiet.evaluate("page.view.edges.map((edge) => [edge.source, edge.target, edge.relevance])")
    flows = {(source, target): relevance for source, target, relevance in drawn}
    summed = flows[resnet.group("layer1"), resnet.group("layer2")]
    assert summed == pytest.approx(sum(edge.relevance or 0.0 for edge in crossing))


def test_a_click_opens_a_module_and_a_click_on_its_name_closes_it(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.click("#close-all")
    before, group = boxes(quiet), resnet.group("layer1")
    quiet.click(box(group))
    assert boxes(quiet) == expected_boxes(resnet.graph, {group})
    assert quiet.evaluate(f"document.querySelector({json.dumps(box(group))}).getAttribute('aria-expanded')") == "true"
    assert "layer1 Sequential" in panel(quiet) and "Close this module" in panel(quiet)
    quiet.click(f"{box(group)} .sign")
    assert boxes(quiet) == before


def test_a_click_on_a_node_shows_what_is_known_of_it(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.evaluate(f"page.toggle({json.dumps(resnet.group('layer1.0'))})")
    quiet.click(box("layer1_0_conv2"))
    node = resnet.node("layer1_0_conv2")
    assert node.balance is not None and node.balance.passed_on is not None
    text = panel(quiet)
    assert text.startswith("✕ layer1_0_conv2 conv2d rule ZPlus() reason preset default: conv2d")
    assert "module layer1.0.conv2 (Conv2d)" in text and f"shape {node.shape}" in text
    assert "layer1.0.conv2.weight 64x64x3x3" in text
    assert "resnet.py:" in text and "out = self.conv2(out)" in text
    shown = quiet.evaluate("[...document.querySelectorAll('#panel td.number')].map((each) => each.innerText)")
    assert float(shown[0]) == pytest.approx(node.balance.received, rel=1e-4)
    assert shown[1].endswith(" %") and float(shown[2]) == pytest.approx(node.balance.passed_on, rel=1e-4)
    quiet.click("#panel .close")
    assert quiet.evaluate("document.getElementById('panel').hidden")


def test_the_color_of_a_node_is_that_of_its_rule_in_the_legend(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    colors = quiet.evaluate("""
        (() => {
          const found = {};
          for (const each of document.querySelectorAll('#legend .rules button'))
            found[each.childNodes[1].textContent] = getComputedStyle(each.querySelector('.swatch')).borderTopColor;
          return found;
        })()
    """)
    assert set(colors) == {entry.rule for entry in resnet.graph.rules} and len(set(colors.values())) == len(colors)
    for name in ("conv1", "relu", "maxpool"):
        node = resnet.node(name)
        stroke = quiet.evaluate(f"getComputedStyle(document.querySelector({json.dumps(box(name) + ' .body')})).stroke")
        assert stroke == colors[node.rule]


def test_the_transformer_opens_whole_and_down_to_one_attention(quiet: Browser, transformer: Saved) -> None:
    quiet.open(transformer.path)
    quiet.click("#open-all")
    assert boxes(quiet) == {node.id for node in transformer.graph.nodes if not node.is_aside}
    name = "encoder_layers_encoder_layer_7_mlp_0"
    quiet.evaluate(f"page.openAll(false), page.reveal('{name}')")
    assert name in boxes(quiet) and len(boxes(quiet)) < 60
    assert "linear rule Epsilon(epsilon=1e-06)" in panel(quiet)
    where = quiet.evaluate(
        f"JSON.parse(JSON.stringify(document.querySelector({json.dumps(box(name))}).getBoundingClientRect()))"
    )
    assert where["top"] > 0 and where["bottom"] < 900


def test_sizes_appear_on_request(quiet: Browser, transformer: Saved) -> None:
    quiet.open(transformer.path)
    aside = {node.id for node in transformer.graph.nodes if node.is_aside and node.group is None}
    assert aside and not aside & boxes(quiet)
    quiet.click("#aside")
    assert aside <= boxes(quiet)


def test_the_keyboard_is_enough(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.evaluate("page.focus('conv1')")
    quiet.press("ArrowDown")
    assert quiet.evaluate("document.activeElement.dataset.id") == "relu"
    quiet.press("Enter")
    assert panel(quiet).startswith("✕ relu relu rule PassThrough()")
    group = resnet.group("layer1.1")
    quiet.evaluate(f"page.focus({json.dumps(group)})")
    quiet.press("ArrowRight")
    assert "layer1_1_conv1" in boxes(quiet)
    quiet.press("ArrowLeft")
    assert "layer1_1_conv1" not in boxes(quiet)
    assert quiet.evaluate("document.activeElement.dataset.id") == group
    quiet.press("Escape")
    assert quiet.evaluate("document.getElementById('panel').hidden")
    scale = quiet.evaluate("page.viewport.scale")
    quiet.press("+")
    assert quiet.evaluate("page.viewport.scale") == pytest.approx(1.25 * scale)


def test_a_search_finds_what_is_closed(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.press("/")
    for letter in "layer2 add":
        quiet.press(letter)
    found = quiet.evaluate(
        "[...document.querySelectorAll('#results button')].map((each) => each.firstChild.textContent)"
    )
    assert found == ["layer2_0_add", "layer2_1_add"]
    assert set(names(quiet, ".box.match")) == {resnet.group("layer2.0"), resnet.group("layer2.1")}
    quiet.press("Enter")
    assert "layer2_0_add" in boxes(quiet)
    assert panel(quiet).startswith("✕ layer2_0_add add rule")


def test_in_a_narrow_window_the_panel_does_not_cover_the_node(quiet: Browser, resnet: Saved) -> None:
    quiet.send("Emulation.setDeviceMetricsOverride", width=640, height=700, deviceScaleFactor=1, mobile=False)
    try:
        quiet.open(resnet.path)
        quiet.click(box("conv1"))
        node, side = f"document.querySelector({json.dumps(box('conv1'))})", "document.getElementById('panel')"
        assert quiet.evaluate(
            f"{node}.getBoundingClientRect().right <= {side}.getBoundingClientRect().left"
            f" && {node}.getBoundingClientRect().left >= 0"
        )
        assert not quiet.evaluate("document.getElementById('legend').open")
    finally:
        quiet.send("Emulation.clearDeviceMetricsOverride")


def test_the_overview_shows_where_the_window_is(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    quiet.click("#open-all")
    frame = "document.querySelector('#overview .frame').getBoundingClientRect()"
    whole = "document.querySelector('#overview').getBoundingClientRect()"
    assert quiet.evaluate(f"{frame}.top <= {whole}.top && {frame}.bottom < {whole}.top + {whole}.height / 2")
    assert len(names(quiet, "#overview .mark")) == len(boxes(quiet))
    quiet.click("#overview")
    middle = quiet.evaluate("(page.viewport.canvas.clientHeight / 2 - page.viewport.y) / page.viewport.scale")
    assert middle == pytest.approx(quiet.evaluate("page.places.height") / 2, rel=0.02)
    quiet.click("#close-all")
    quiet.click("#fit")
    assert quiet.evaluate("document.getElementById('overview').hasAttribute('hidden')")


def test_a_rule_of_the_legend_shows_where_it_applies(quiet: Browser, gated: Saved) -> None:
    quiet.open(gated.path)
    quiet.click("#legend .rules button:nth-child(1)")
    (rule, *_) = gated.graph.rules
    assert set(names(quiet, ".box.match")) == {node.id for node in gated.graph.nodes if node.rule == rule.rule}
    quiet.click("#legend .rules button:nth-child(1)")
    assert not quiet.evaluate("document.querySelector('.filtered')")


def test_a_gate_is_dashed_and_there_is_no_relevance_without_inputs(quiet: Browser, gated: Saved) -> None:
    quiet.open(gated.path)
    assert set(names(quiet, ".box.unreached")) == {"gate", "sigmoid"}
    quiet.click(box("sigmoid"))
    assert "sigmoid sigmoid rule none" in panel(quiet) and "Relevance" not in panel(quiet)
    assert "no inputs, so no relevance" in text_of(quiet, "summary")


def test_light_and_dark(quiet: Browser, gated: Saved) -> None:
    def brightness() -> tuple[float, ...]:
        """The brightness of the canvas, the header and the box of the input, then that of its text."""
        colors = (
            "getComputedStyle(document.body).backgroundColor",
            "getComputedStyle(document.querySelector('header')).backgroundColor",
            "getComputedStyle(document.querySelector('.box.end .body')).fill",
            "getComputedStyle(document.querySelector('.box.end text')).fill",
        )
        read = quiet.evaluate(f"[{', '.join(colors)}].map((color) => color.match(/\\d+/g).map(Number))")
        return tuple(sum(color[:3]) / 765 for color in read)

    def is_light() -> bool:
        *grounds, ink = brightness()
        assert (min(grounds) > 0.9 and ink < 0.2) or (max(grounds) < 0.2 and ink > 0.85)
        return ink < 0.2

    quiet.open(gated.path)
    assert is_light()
    quiet.dark(True)
    assert not is_light()
    quiet.click("#theme")
    assert is_light()


def test_zoom_and_pan(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    before = quiet.evaluate("[page.viewport.x, page.viewport.y, page.viewport.scale]")
    quiet.send("Input.dispatchMouseEvent", type="mouseWheel", x=600, y=400, deltaX=0, deltaY=100)
    quiet.wait_for(f"page.viewport.y === {before[1] - 100}")
    quiet.send("Input.dispatchMouseEvent", type="mouseWheel", x=600, y=400, deltaX=0, deltaY=-100, modifiers=2)
    quiet.wait_for(f"page.viewport.scale > {before[2]}")
    now = quiet.evaluate("[page.viewport.x, page.viewport.y]")
    for kind, x in (("mousePressed", 900), ("mouseMoved", 950), ("mouseReleased", 950)):
        quiet.send("Input.dispatchMouseEvent", type=kind, x=x, y=300, button="left", buttons=1, clickCount=1)
    assert quiet.evaluate("[page.viewport.x, page.viewport.y]") == [pytest.approx(now[0] + 50), pytest.approx(now[1])]
    quiet.click("#fit")
    top, bottom = quiet.evaluate("[page.viewport.y, page.viewport.y + page.places.height * page.viewport.scale]")
    assert top >= 0 and bottom <= 900


def test_a_button_that_is_released_elsewhere_ends_the_drag(quiet: Browser, resnet: Saved) -> None:
    quiet.open(resnet.path)
    before = quiet.evaluate("[page.viewport.x, page.viewport.y]")
    quiet.send("Input.dispatchMouseEvent", type="mousePressed", x=900, y=300, button="left", buttons=1, clickCount=1)
    for x in (950, 990):
        quiet.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=300, button="none", buttons=0)
    assert quiet.evaluate("[page.viewport.x, page.viewport.y]") == before


def test_text_of_a_model_is_text(quiet: Browser, folder: Path) -> None:
    shown = saved(fxlrp.compile(Twice().eval()).graph(None, torch.ones(2, 4), target=0), folder / "text.html")
    quiet.open(shown.path)
    quiet.evaluate("page.reveal('head')")
    assert "return self.head(torch.tanh(x)) # </script><!-- <b>a comment that is in the page</b>" in panel(quiet)


def test_relevance_that_is_not_finite_is_shown_as_such(quiet: Browser, gated: Saved, folder: Path) -> None:
    broken = [replace(edge, relevance=float("nan") if edge.carries else None) for edge in gated.graph.edges]
    graph = replace(gated.graph, edges=tuple(broken), explained=float("nan"), at_inputs=float("inf"))
    quiet.open(saved(GraphPage(graph), folder / "broken.html").path)
    assert "explained NaN, of which Infinity at the inputs" in quiet.evaluate(
        "document.getElementById('summary').innerText"
    )
    assert quiet.evaluate("document.querySelectorAll('.edge.not-finite').length") == sum(e.carries for e in graph.edges)


def large(graph: Graph, count: int) -> Graph:
    """A chain of nodes in groups of twenty, in which a third of the nodes are also read from further away."""
    generator = random.Random(0)
    operation = next(node for node in graph.nodes if node.kind is Kind.OPERATION)
    groups = [Group(f"group {index}", f"g{index}", f"g{index}", "Block", None, False) for index in range(count // 20)]
    nodes = [replace(operation, id=f"n{index}", group=f"group {index // 20}") for index in range(count)]
    edges = [Edge(f"n{index}", f"n{index + 1}", 0, True, None) for index in range(count - 1)]
    for source in generator.choices(range(count - 20), k=count // 3):
        edges.append(Edge(f"n{source}", f"n{source + generator.randrange(2, 20)}", 1, True, None))
    return replace(graph, groups=tuple(groups), nodes=tuple(nodes), edges=tuple(edges))


@pytest.mark.slow
def test_a_large_graph_opens_whole(quiet: Browser, gated: Saved, folder: Path) -> None:
    quiet.open(saved(GraphPage(large(gated.graph, 3000)), folder / "large.html").path)
    assert len(boxes(quiet)) == 150
    quiet.click("#open-all")
    assert len(boxes(quiet)) == 3000


def test_the_summary_names_the_places_where_relevance_ends(quiet: Browser, folder: Path) -> None:
    page = fxlrp.compile(Gated().eval(), "epsilon").graph(None, torch.ones(2, 4), at=["body.0", "x"])
    quiet.open(saved(page, folder / "places.html").path)
    assert text_of(quiet, "summary").endswith(" at body.0, x")


def test_the_frame_of_a_notebook_shows_the_page(quiet: Browser, gated: Saved, folder: Path) -> None:
    notebook = folder / "notebook.html"
    frame = gated.page._repr_html_()
    notebook.write_text(
        f"<!doctype html><html data-state=ready><link rel=icon href=data:,><body>{frame}", encoding="utf-8"
    )
    inside = "document.querySelector('iframe').contentDocument"
    quiet.open(
        notebook, until=f"document.querySelector('iframe') && {inside}.documentElement?.dataset.state !== undefined"
    )
    assert quiet.evaluate(f"{inside}.documentElement.dataset.state") == "ready"
    assert quiet.evaluate(f"{inside}.querySelectorAll('.box').length") == len(gated.graph.nodes)


def test_a_page_that_cannot_be_drawn_says_so(browser: Browser, gated: Saved, folder: Path) -> None:
    broken = folder / "failed.html"
    broken.write_text(
        gated.page.html.replace("const viz = await Viz.instance();", "const viz = null;"), encoding="utf-8"
    )
    browser.open(broken)
    assert browser.evaluate("document.documentElement.dataset.state") == "failed"
    assert "The graph cannot be shown" in text_of(browser, "failure")
    assert browser.complaints
