"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Draws a view at its places. */
class Drawing {
  constructor(model, handlers) {
    this.model = model;
    this.handlers = handlers;
    this.elements = new Map();
  }

  draw(view, places) {
    this.elements = new Map();
    this.edges = view.edges.map((edge) => ({ edge, element: this.edge(view, edge, places.edges.get(edge)) }));
    // The widest edges lie below, so that thin ones stay visible.
    const order = [...this.edges].sort((a, b) => this.model.width(b.edge) - this.model.width(a.edge));
    const clusters = view.clusters.map((group) => this.cluster(places.clusters.get(group.id)));
    const headers = view.clusters.map((group) => this.header(group, places.clusters.get(group.id)));
    const boxes = view.boxes.map((box) => this.box(box.id, places.boxes.get(box.id)));
    document.getElementById("clusters").replaceChildren(...clusters);
    document.getElementById("edges").replaceChildren(...order.map((each) => each.element));
    document.getElementById("boxes").replaceChildren(...headers, ...boxes);
  }

  box(id, place) {
    const group = this.model.groups.get(id);
    const [label, detail] = linesOf(this.model, id);
    const body = svg("rect", { class: "body", width: place.width, height: place.height, rx: group ? 8 : 6 });
    const element = svg("g", { class: "box", transform: `translate(${place.x} ${place.y})` });
    const center = place.width / 2 + (group ? 9 : 0);
    const first = group ? 19 : detail ? 17 : place.height / 2 + 4.5;
    if (group) {
      element.append(svg("rect", { class: "behind", x: 4, y: 4, width: place.width, height: place.height, rx: 8 }), body);
      element.append(svg("text", { class: "sign", x: 15, y: 24 }, "▸"), this.strip(id, place));
    } else {
      element.append(body);
      element.style.setProperty("--color", this.model.colorOfNode(this.model.nodes.get(id)));
    }
    element.append(svg("text", { x: center, y: first, "text-anchor": "middle" }, label));
    if (detail) element.append(svg("text", { class: "detail", x: center, y: first + 15, "text-anchor": "middle" }, detail));
    element.classList.add(...this.classes(id));
    const says = group ? `module ${group.path}, closed, ${detail}` : this.describe(this.model.nodes.get(id));
    return this.interactive(element, id, says);
  }

  classes(id) {
    if (this.model.groups.has(id)) return ["group"];
    const node = this.model.nodes.get(id);
    return [node.kind === "operation" ? "operation" : "end", node.is_reached ? "reached" : "unreached"];
  }

  describe(node) {
    const rule = node.rule ?? (node.is_reached ? node.kind : "no relevance");
    return [node.id, node.operation, rule, node.shape].filter(Boolean).join(", ");
  }

  /** The rules inside a closed group, each as wide as it has nodes. */
  strip(id, place) {
    const rules = this.model.members.get(id).filter((node) => node.rule !== null);
    const strip = svg("g", { class: "strip" });
    let x = 10;
    for (const { rule } of this.model.data.rules) {
      const count = rules.filter((node) => node.rule === rule).length;
      const width = ((place.width - 20) * count) / rules.length;
      if (!count) continue;
      const part = svg("rect", { x, y: place.height - 8, width, height: 4 });
      part.style.fill = this.model.colors.get(rule);
      strip.append(part);
      x += width;
    }
    return strip;
  }

  cluster(place) {
    return svg("rect", { class: "cluster", ...place, rx: 10 });
  }

  /** The name of an open group, above the edges that cross it, and its frame for the keyboard. */
  header(group, place) {
    const element = svg("g", { class: "header", transform: `translate(${place.x} ${place.y})` });
    const label = svg("text", { x: 26, y: 18 }, `${group.label} `);
    label.append(svg("tspan", { class: "detail" }, group.module));
    const frame = svg("rect", { class: "frame", width: place.width, height: place.height, rx: 10 });
    const bar = svg("rect", { class: "bar", width: place.width, height: 26 });
    element.append(frame, bar, svg("text", { class: "sign", x: 14, y: 18 }, "▾"), label);
    return this.interactive(element, group.id, `module ${group.path}, open, ${group.module}`);
  }

  interactive(element, id, says) {
    const group = this.model.groups.has(id);
    element.dataset.id = id;
    for (const [name, value] of Object.entries({ tabindex: 0, role: "button", "aria-label": says }))
      element.setAttribute(name, value);
    if (group) element.setAttribute("aria-expanded", this.model.open.has(id));
    element.addEventListener("click", () => this.handlers.activate(id));
    element.addEventListener("keydown", (event) => this.handlers.key(id, event));
    element.prepend(svg("title", {}, says));
    this.elements.set(id, element);
    return element;
  }

  edge(view, edge, { points, end, label }) {
    const width = this.model.width(edge);
    const finite = edge.relevance === null || Number.isFinite(edge.relevance);
    const sign = !finite ? "not-finite" : edge.relevance > 0 ? "positive" : edge.relevance < 0 ? "negative" : "zero";
    const element = svg("g", { class: `edge ${edge.carries ? "carries" : "without"} ${edge.relevance === null ? "" : sign}` });
    element.dataset.source = edge.source;
    element.dataset.target = edge.target;
    const [first, ...rest] = points;
    const last = rest[rest.length - 1];
    const curve = rest.map((point) => `${point.x},${point.y}`).join(" ");
    element.append(svg("path", { class: "line", d: `M${first.x},${first.y}C${curve}`, "stroke-width": width }));
    if (end) element.append(svg("path", { class: "head", d: headOf(last, end, width) }));
    const text = labelOf(this.model, view, edge);
    if (text && label) element.append(svg("text", { x: label.x, y: label.y + 4 }, text));
    element.prepend(svg("title", {}, this.says(edge)));
    return element;
  }

  says(edge) {
    const ends = [edge.source, edge.target].map((id) => this.model.groups.get(id)?.path ?? id).join(" → ");
    if (!edge.carries) return `${ends}: no relevance`;
    if (edge.relevance === null) return `${ends}: relevance flows from ${ends.split(" → ")[1]} back`;
    return `${ends}: relevance ${number(edge.relevance)} ${this.model.share(edge.relevance)}`;
  }

  /** Mark the selected box or group, and the edges at it. */
  select(id) {
    for (const [each, element] of this.elements) element.classList.toggle("selected", each === id);
    for (const { edge, element } of this.edges) element.classList.toggle("near", [edge.source, edge.target].includes(id));
  }

  /** Let the boxes that contain these nodes stand out; null shows all alike. */
  filter(nodes) {
    document.getElementById("scene").classList.toggle("filtered", nodes !== null);
    const boxes = new Set((nodes ?? []).map((node) => this.model.boxOf(node)));
    for (const [id, element] of this.elements) element.classList.toggle("match", boxes.has(id));
  }
}

/** A triangle from the end of a line to a point. */
function headOf(from, to, width) {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const half = (Math.max(7, width + 4) / 2) / length;
  const [x, y] = [(to.y - from.y) * half, (from.x - to.x) * half];
  return `M${to.x},${to.y}L${from.x + x},${from.y + y}L${from.x - x},${from.y - y}Z`;
}
