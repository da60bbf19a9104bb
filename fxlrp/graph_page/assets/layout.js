"use strict";

// With more edges Graphviz may search for the best places for minutes, so its search is limited.
const LARGE = 2000;

/** Where everything is: the visible graph as DOT, laid out by Graphviz, in pixels with y downward. */
class Layout {
  constructor(viz, model) {
    this.viz = viz;
    this.model = model;
    this.context = document.createElement("canvas").getContext("2d");
  }

  of(view) {
    const sizes = new Map(view.boxes.map((box) => [box.id, this.size(box.id)]));
    const result = this.viz.render(this.dot(view, sizes), { format: "json0", engine: "dot" });
    if (result.status !== "success") throw new Error(result.errors.map((error) => error.message).join("; "));
    return placed(JSON.parse(result.output), view, sizes);
  }

  textWidth(text, font) {
    this.context.font = `${font} system-ui, -apple-system, "Segoe UI", Roboto, sans-serif`;
    return this.context.measureText(text).width;
  }

  /** The size of a box: its two lines of text, and the sign of a group. */
  size(id) {
    const [label, detail] = linesOf(this.model, id);
    const text = Math.max(this.textWidth(label, "600 13px"), this.textWidth(detail, "400 11px"));
    const isGroup = this.model.groups.has(id);
    return { width: Math.ceil(Math.max(76, text + (isGroup ? 46 : 24))), height: isGroup ? 48 : detail ? 40 : 30 };
  }

  dot(view, sizes) {
    const names = new Map([...view.boxes, ...view.clusters].map((each, index) => [each.id, index]));
    const inside = new Map([[null, []], ...view.clusters.map((group) => [group.id, []])]);
    for (const box of view.boxes) {
      const { width, height } = sizes.get(box.id);
      inside.get(box.parent).push(`n${names.get(box.id)} [width=${width / 72}, height=${height / 72}];`);
    }
    // A group follows the group around it, so the innermost are written first.
    for (const group of [...view.clusters].reverse()) {
      const width = Math.ceil(this.textWidth(headerOf(group), "600 13px") + 40);
      const label = `label=<${spacer(width, 18)}>; labeljust=l; margin=12;`;
      const text = `subgraph cluster_${names.get(group.id)} { ${label} ${inside.get(group.id).join(" ")} }`;
      inside.get(group.parent).unshift(text);
    }
    const isChain = chains(view.edges);
    const edges = view.edges.map((edge, index) => {
      const label = labelOf(this.model, view, edge);
      const room = label ? `, label=<${spacer(Math.ceil(this.textWidth(label, "400 11px")) + 6, 15)}>` : "";
      const width = this.model.width(edge);
      const ends = `n${names.get(edge.source)} -> n${names.get(edge.target)}`;
      const weight = isChain(edge) ? 8 : edge.carries ? 2 : 1;
      return `${ends} [id=${index}, penwidth=${width.toFixed(2)}, weight=${weight}${room}];`;
    });
    const effort = view.edges.length > LARGE ? "nslimit=1; nslimit1=1; mclimit=0.3;" : "";
    const graph = `rankdir=TB; nodesep=0.34; ranksep=0.36; splines=true; ${effort}`;
    const defaults = 'node [shape=box, fixedsize=true, label=""]; edge [arrowsize=0.75];';
    return `digraph { ${graph} ${defaults} ${inside.get(null).join(" ")} ${edges.join(" ")} }`;
  }
}

/** Whether an edge is the only one from its source and the only one to its target. Such edges are drawn straight. */
function chains(edges) {
  const ends = (end) => {
    const counts = new Map();
    for (const edge of edges) counts.set(edge[end], (counts.get(edge[end]) ?? 0) + 1);
    return counts;
  };
  const [sources, targets] = [ends("source"), ends("target")];
  return (edge) => sources.get(edge.source) === 1 && targets.get(edge.target) === 1;
}

/** Text of a size that is known here, in place of text that Graphviz would measure in other fonts. */
function spacer(width, height) {
  return `<TABLE BORDER="0" CELLBORDER="0" FIXEDSIZE="TRUE" WIDTH="${width}" HEIGHT="${height}"><TR><TD></TD></TR></TABLE>`;
}

function placed(output, view, sizes) {
  const [, , width, height] = output.bb.split(",").map(Number);
  const point = (text) => {
    const [x, y] = text.split(",").map(Number);
    return { x, y: height - y };
  };
  const ids = [...view.boxes, ...view.clusters].map((each) => each.id);
  const boxes = new Map();
  const clusters = new Map();
  for (const each of output.objects ?? []) {
    if (each.name.startsWith("cluster_")) {
      const [left, bottom, right, top] = each.bb.split(",").map(Number);
      const place = { x: left, y: height - top, width: right - left, height: top - bottom };
      clusters.set(ids[Number(each.name.slice("cluster_".length))], place);
    } else {
      const id = ids[Number(each.name.slice(1))];
      const { x, y } = point(each.pos);
      const size = sizes.get(id);
      boxes.set(id, { x: x - size.width / 2, y: y - size.height / 2, ...size });
    }
  }
  const edges = new Map();
  for (const each of output.edges ?? []) {
    const parts = each.pos.split(" ");
    const end = parts[0].startsWith("e,") ? point(parts.shift().slice(2)) : null;
    edges.set(view.edges[Number(each.id)], { points: parts.map(point), end, label: each.lp ? point(each.lp) : null });
  }
  return { width, height, boxes, clusters, edges };
}

/** The text of a box: what it is called, and a line of details. */
function linesOf(model, id) {
  const group = model.groups.get(id);
  if (group) {
    const count = model.members.get(id).filter((node) => model.isShown(node)).length;
    return [group.label, `${group.module} · ${count} nodes`];
  }
  const node = model.nodes.get(id);
  const operation = node.label === node.operation ? "" : node.operation;
  return [node.label, [operation, node.shape].filter(Boolean).join(" · ")];
}

function headerOf(group) {
  return `${group.label}  ${group.module}`;
}

/** Where relevance branches, an edge states its share of the explained output. */
function labelOf(model, view, edge) {
  if (edge.relevance === null || !edge.carries) return "";
  const branches = view.edges.filter((each) => each.carries && each.target === edge.target).length > 1;
  const joins = view.edges.filter((each) => each.carries && each.source === edge.source).length > 1;
  const isStart = model.nodes.get(edge.target)?.kind === "output";
  return branches || joins || isStart ? model.share(edge.relevance) : "";
}
