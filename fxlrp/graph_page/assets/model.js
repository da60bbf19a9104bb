"use strict";

/** The data of the page, and what of it is visible while some groups are closed. */
class Model {
  constructor(data) {
    this.data = data;
    this.nodes = new Map(data.nodes.map((node) => [node.id, node]));
    this.groups = new Map(data.groups.map((group) => [group.id, group]));
    this.colors = new Map(data.rules.map((rule) => [rule.rule, colorOf(rule.color)]));
    this.open = new Set(data.groups.filter((group) => group.is_open).map((group) => group.id));
    this.showsAside = false;
    this.hasRelevance = data.explained !== null;
    this.members = new Map(data.groups.map((group) => [group.id, []]));
    for (const node of data.nodes)
      for (const group of this.around(node.group)) this.members.get(group.id).push(node);
    // Relevance may be NaN or infinite, which JSON states as strings.
    for (const edge of data.edges) if (edge.relevance !== null) edge.relevance = Number(edge.relevance);
    const amounts = data.edges.map((edge) => Math.abs(edge.relevance)).filter(Number.isFinite);
    this.largest = Math.max(...amounts, 0);
  }

  /** The group with an identifier and those around it, outermost first. */
  around(id) {
    const found = [];
    for (let group = this.groups.get(id); group; group = this.groups.get(group.parent)) found.unshift(group);
    return found;
  }

  /** What stands for a node: the outermost closed group around it, or the node itself. */
  boxOf(node) {
    const closed = this.around(node.group).find((group) => !this.open.has(group.id));
    return closed ? closed.id : node.id;
  }

  isShown(node) {
    return this.showsAside || !node.is_aside;
  }

  /** The visible boxes in order of execution, the open groups, and an edge for each pair of boxes. */
  view() {
    const boxes = new Map();
    const clusters = new Map();
    for (const node of this.data.nodes.filter((each) => this.isShown(each))) {
      const id = this.boxOf(node);
      const inside = this.around(node.group).filter((group) => group.id !== id);
      const open = inside.slice(0, this.groups.has(id) ? this.around(id).length - 1 : inside.length);
      open.forEach((group) => clusters.set(group.id, group));
      boxes.set(id, { id, parent: open.length ? open[open.length - 1].id : null });
    }
    const edges = new Map();
    for (const edge of this.data.edges) {
      const [source, target] = [this.nodes.get(edge.source), this.nodes.get(edge.target)];
      if (!this.isShown(source) || !this.isShown(target)) continue;
      const [from, to] = [this.boxOf(source), this.boxOf(target)];
      if (from === to) continue;
      const key = JSON.stringify([from, to]);
      if (!edges.has(key)) edges.set(key, { source: from, target: to, carries: false, relevance: null, parts: [] });
      const merged = edges.get(key);
      merged.parts.push(edge);
      merged.carries ||= edge.carries;
      if (edge.relevance !== null) merged.relevance = (merged.relevance ?? 0) + edge.relevance;
    }
    return { boxes: [...boxes.values()], clusters: [...clusters.values()], edges: [...edges.values()] };
  }

  /** The width of an edge: in proportion to its relevance, the largest of the graph being the widest. */
  width(edge) {
    if (!this.hasRelevance || edge.relevance === null) return 1.4;
    if (!Number.isFinite(edge.relevance)) return WIDEST;
    const share = this.largest ? Math.abs(edge.relevance) / this.largest : 0;
    return Math.min(1 + (WIDEST - 1) * share, 1.5 * WIDEST);
  }

  colorOfNode(node) {
    return node.rule === null ? "var(--grey)" : this.colors.get(node.rule);
  }

  /** A relevance as a share of the explained output. */
  share(relevance) {
    const explained = Number(this.data.explained);
    return explained && Number.isFinite(relevance / explained) ? percent(relevance / explained) : "";
  }
}

const WIDEST = 13;
const COLORS = [
  ["#2a8f86", "#4cc2b5"], ["#d98a1f", "#f0b04f"], ["#7c5cc4", "#ab90ee"], ["#5c9a3b", "#8fce6a"],
  ["#c2578f", "#ee8fbf"], ["#a3703f", "#cf9d6c"], ["#3d86b8", "#6fbbe8"], ["#94912a", "#cdc95a"],
  ["#b35c6b", "#e394a1"], ["#4f6fb0", "#8aa7e6"], ["#3c8f5e", "#6fca93"], ["#9455a8", "#cc8ee0"],
];

/** The color of a rule, for light and for dark. After the last color, hues are at the golden angle. */
function colorOf(number) {
  if (number < 0) return "var(--grey)";
  if (number < COLORS.length) return `light-dark(${COLORS[number].join(", ")})`;
  const hue = Math.round(number * 137.5) % 360;
  return `light-dark(hsl(${hue} 45% 45%), hsl(${hue} 55% 68%))`;
}

function percent(share) {
  const size = Math.abs(100 * share);
  if (size < 0.0005) return share === 0 ? "0 %" : "≈ 0 %";
  return `${size < 0.095 ? (100 * share).toPrecision(1) : (100 * share).toFixed(size < 9.95 ? 1 : 0)} %`;
}

function number(value) {
  const read = Number(value);
  return Number.isFinite(read) ? String(Number(read.toPrecision(5))) : String(read);
}
