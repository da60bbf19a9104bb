"use strict";

const READABLE = 0.8;
const RESULTS = 40;
// In narrower windows the panel lies over the graph.
const NARROW = 760;

/** The page: what is open and selected, and what the controls do. */
class Page {
  constructor(viz, data) {
    this.model = new Model(data);
    this.layout = new Layout(viz, this.model);
    this.viewport = new Viewport(element("canvas"), element("scene"), element("panel"));
    this.overview = new Overview(this.model, this.viewport);
    const handlers = {
      activate: (id) => this.viewport.wasDragged || this.activate(id),
      key: (id, event) => this.key(id, event),
      select: (id) => this.select(id),
      toggle: (id) => this.toggle(id),
      reveal: (id) => this.reveal(id),
    };
    this.drawing = new Drawing(this.model, handlers);
    this.panel = new Panel(this.model, handlers);
    this.selected = null;
    this.matches = null;
    this.controls();
    legend(this.model, (rule) => this.filter(rule && this.model.data.nodes.filter((node) => node.rule === rule)));
    element("summary").textContent = summary(data);
    this.update();
    this.viewport.fit(this.places, READABLE);
  }

  /** Lay out what is visible now. `fixed` is a box or a group that stays where it is on the screen. */
  update(fixed = null) {
    const before = fixed && this.viewport.onScreen(this.placeOf(fixed));
    this.view = this.model.view();
    this.places = this.layout.of(this.view);
    this.drawing.draw(this.view, this.places);
    this.overview.draw(this.places);
    this.drawing.select(this.selected);
    this.drawing.filter(this.matches);
    const after = fixed && this.placeOf(fixed);
    if (after) {
      const now = this.viewport.onScreen(after);
      this.viewport.pan(before.x - now.x, before.y - now.y);
      this.viewport.reveal(after);
    }
  }

  placeOf(id) {
    return this.places.boxes.get(id) ?? this.places.clusters.get(id);
  }

  activate(id) {
    if (this.model.groups.has(id)) this.toggle(id);
    this.select(id);
  }

  toggle(id) {
    const { open } = this.model;
    open.has(id) ? open.delete(id) : open.add(id);
    this.update(id);
    this.select(id);
    this.drawing.elements.get(id).focus({ preventScroll: true });
  }

  select(id) {
    const covers = id !== null && this.panel.element.hidden;
    this.selected = id;
    id === null ? this.panel.hide() : this.panel.show(id);
    this.drawing.select(id);
    // The panel takes a part of the canvas, in which the selection may have been.
    if (covers && this.model.nodes.has(id)) this.viewport.reveal(this.placeOf(id));
  }

  /** Open the groups around a node, select it and move it into view. */
  reveal(id) {
    const node = this.model.nodes.get(id);
    this.model.around(node.group).forEach((group) => this.model.open.add(group.id));
    if (node.is_aside) element("aside").checked = this.model.showsAside = true;
    this.update();
    this.select(id);
    this.viewport.reveal(this.placeOf(id));
    this.drawing.elements.get(id).focus({ preventScroll: true });
  }

  filter(nodes) {
    this.matches = nodes;
    this.drawing.filter(nodes);
  }

  key(id, event) {
    const order = this.view.boxes.map((box) => box.id);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const isGroup = this.model.groups.has(id);
    const inside = this.model.around(this.model.nodes.get(id)?.group ?? this.model.groups.get(id)?.parent);
    if (event.key === "Enter" || event.key === " ") this.activate(id);
    else if (event.key === "ArrowRight" && isGroup && !this.model.open.has(id)) this.toggle(id);
    else if (event.key === "ArrowLeft" && isGroup && this.model.open.has(id)) this.toggle(id);
    else if (event.key === "ArrowLeft" && inside.length) this.toggle(inside[inside.length - 1].id);
    else if (step && order.includes(id)) this.focus(order[order.indexOf(id) + step]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  focus(id) {
    if (id === undefined) return;
    this.viewport.reveal(this.placeOf(id));
    this.drawing.elements.get(id).focus({ preventScroll: true });
  }

  openAll(isOpen) {
    this.model.open = new Set(isOpen ? this.model.groups.keys() : []);
    if (this.model.groups.has(this.selected)) this.select(null);
    this.update();
    this.viewport.fit(this.places, READABLE);
  }

  controls() {
    const on = (id, name, handle) => element(id).addEventListener(name, handle);
    on("open-all", "click", () => this.openAll(true));
    on("close-all", "click", () => this.openAll(false));
    on("zoom-in", "click", () => this.viewport.zoom(1.25));
    on("zoom-out", "click", () => this.viewport.zoom(0.8));
    on("fit", "click", () => this.viewport.fit(this.places));
    on("theme", "click", switchTheme);
    on("aside", "change", (event) => {
      this.model.showsAside = event.target.checked;
      this.update();
    });
    element("aside-toggle").hidden = !this.model.data.nodes.some((node) => node.is_aside);
    on("canvas", "click", (event) => {
      if (event.target === event.currentTarget && !this.viewport.wasDragged) this.select(null);
    });
    document.addEventListener("keydown", (event) => this.shortcut(event));
    new Search(this.model, { filter: (nodes) => this.filter(nodes), reveal: (id) => this.reveal(id) });
  }

  shortcut(event) {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const far = 60;
    const actions = {
      "/": () => element("query").focus(),
      "+": () => this.viewport.zoom(1.25),
      "=": () => this.viewport.zoom(1.25),
      "-": () => this.viewport.zoom(0.8),
      0: () => this.viewport.fit(this.places),
      Escape: () => this.select(null),
      ArrowUp: () => this.viewport.pan(0, far),
      ArrowDown: () => this.viewport.pan(0, -far),
      ArrowLeft: () => this.viewport.pan(far, 0),
      ArrowRight: () => this.viewport.pan(-far, 0),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/** The search field and its results. */
class Search {
  constructor(model, handlers) {
    this.model = model;
    this.handlers = handlers;
    this.field = element("query");
    this.results = element("results");
    this.field.addEventListener("input", () => this.search());
    this.field.addEventListener("focus", () => this.search());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.results.querySelector("button")?.click();
      if (event.key === "ArrowDown") this.results.querySelector("button")?.focus();
      if (event.key === "Escape") this.clear();
    });
    this.results.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") (event.target.nextElementSibling ?? event.target).focus();
      if (event.key === "ArrowUp") (event.target.previousElementSibling ?? this.field).focus();
      if (event.key === "Escape") this.clear();
      if (["ArrowDown", "ArrowUp", "Escape"].includes(event.key)) event.preventDefault();
      event.stopPropagation();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!element("search").contains(event.target)) this.results.hidden = true;
    });
  }

  clear() {
    this.field.value = "";
    this.search();
    this.field.focus();
  }

  search() {
    const words = this.field.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.results.hidden = !words.length;
    if (!words.length) return this.handlers.filter(null);
    const matches = this.model.data.nodes.filter((node) => words.every((word) => textOf(node).includes(word)));
    this.handlers.filter(matches.filter((node) => this.model.isShown(node)));
    const more = matches.length > RESULTS ? `, the first ${RESULTS} are` : "";
    const count = html("p", {}, matches.length ? `${matches.length} found${more}:` : "nothing found");
    this.results.replaceChildren(count, ...matches.slice(0, RESULTS).map((node) => this.result(node)));
  }

  result(node) {
    const detail = [node.operation, node.rule].filter(Boolean).join(", ");
    const button = html("button", {}, html("span", {}, node.id), html("small", {}, detail));
    button.addEventListener("click", () => {
      this.results.hidden = true;
      this.handlers.filter(null);
      this.handlers.reveal(node.id);
    });
    return button;
  }
}

function textOf(node) {
  return [node.id, node.label, node.operation, node.path, node.module, node.rule ?? ""].join(" ").toLowerCase();
}

/** The rules with their colors, and what the edges mean. A click on a rule shows where it applies. */
function legend(model, choose) {
  const rules = html("div", { class: "rules" });
  for (const { rule, nodes } of model.data.rules) {
    const swatch = html("span", { class: "swatch" });
    swatch.style.setProperty("--color", model.colors.get(rule));
    const button = html("button", { "aria-pressed": "false", title: "Show where it applies" }, swatch, rule);
    button.append(html("span", { class: "count" }, String(nodes)));
    button.addEventListener("click", () => {
      const isOn = button.getAttribute("aria-pressed") === "true";
      for (const each of rules.children) each.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!isOn));
      choose(isOn ? null : rule);
    });
    rules.append(button);
  }
  const edges = model.hasRelevance
    ? [
        sample("var(--positive)", WIDEST, `relevance ${number(model.largest)}, the largest flow`),
        sample("var(--positive)", model.width({ relevance: model.largest / 4 }), "a quarter of it"),
        sample("var(--negative)", model.width({ relevance: -model.largest / 4 }), "negative relevance"),
      ]
    : [sample("var(--edge)", 1.4, "relevance flows, from the output back")];
  edges.push(sample("var(--edge)", 1.4, "no relevance", "3 4"));
  const heading = (text) => html("h2", {}, text);
  const parts = [heading("Rules"), rules, heading("Edges"), ...edges];
  element("legend").replaceChildren(html("summary", {}, "Legend"), ...parts);
  element("legend").open = window.innerWidth > NARROW;
}

function sample(color, width, text, dashes = "none") {
  const line = svg("line", { x1: 0, x2: 30, y1: 8, y2: 8, "stroke-width": width, "stroke-dasharray": dashes });
  line.style.stroke = color;
  return html("p", {}, svg("svg", { width: 30, height: 16, "aria-hidden": "true" }, line), text);
}

function summary(data) {
  const count = data.nodes.filter((node) => node.kind === "operation" && !node.is_aside).length;
  const size = `${count} operations`;
  if (data.explained === null) return `${size}; no inputs, so no relevance`;
  const ends = data.at.join(", ") || "the inputs";
  return `${size}; explained ${number(data.explained)}, of which ${number(data.at_inputs)} at ${ends}`;
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = isDark ? "light" : "dark";
}

function element(id) {
  return document.getElementById(id);
}

/** The state of the page for those who drive it: "ready" or "failed". */
async function start() {
  try {
    const viz = await Viz.instance();
    window.page = new Page(viz, JSON.parse(element("data").textContent));
    document.documentElement.dataset.state = "ready";
  } catch (error) {
    element("failure").textContent = `The graph cannot be shown: ${error.message}`;
    element("failure").hidden = false;
    document.documentElement.dataset.state = "failed";
    throw error;
  }
}

start();
