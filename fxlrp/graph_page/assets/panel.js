"use strict";

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** The details of a node or a module. */
class Panel {
  constructor(model, handlers) {
    this.model = model;
    this.handlers = handlers;
    this.element = document.getElementById("panel");
  }

  hide() {
    this.element.hidden = true;
  }

  show(id) {
    const group = this.model.groups.get(id);
    const close = html("button", { class: "close", "aria-label": "Close", title: "Close (Esc)" }, "✕");
    close.addEventListener("click", () => this.handlers.select(null));
    this.element.replaceChildren(close, ...(group ? this.group(group) : this.node(this.model.nodes.get(id))));
    this.element.hidden = false;
    this.element.scrollTop = 0;
  }

  node(node) {
    const [place, code] = splitSource(node.source);
    const module = node.path ? `${node.path} (${node.module})` : "";
    const rows = [
      ["rule", node.rule === null ? (node.kind === "output" ? "" : "none") : this.rule(node.rule)],
      [node.rule === null ? "note" : "reason", node.why],
      ["module", module],
      ["shape", node.shape],
      ["parameters", node.parameters.length && html("span", {}, ...node.parameters.map((each) => html("div", {}, each)))],
      ["source", place && html("span", {}, ...breakable(place))],
    ];
    const parts = [html("h2", {}, ...breakable(node.id)), html("p", { class: "kind" }, node.operation), list(rows)];
    if (code) parts.push(html("pre", {}, html("code", {}, code)));
    if (node.balance) parts.push(...this.balance(node.balance));
    const edges = this.model.data.edges;
    return [
      ...parts,
      ...this.neighbors("Reads", edges.filter((edge) => edge.target === node.id), "source"),
      ...this.neighbors("Read by", edges.filter((edge) => edge.source === node.id), "target"),
    ];
  }

  group(group) {
    const members = this.model.members.get(group.id);
    const inside = new Set(members.map((node) => node.id));
    const isOpen = this.model.open.has(group.id);
    const toggle = html("button", { class: "toggle" }, isOpen ? "Close this module" : "Open this module");
    toggle.addEventListener("click", () => this.handlers.toggle(group.id));
    const rows = [["path", html("code", {}, group.path)], ["nodes", String(members.length)]];
    const rules = this.model.data.rules
      .map(({ rule }) => [rule, members.filter((node) => node.rule === rule).length])
      .filter(([, count]) => count);
    const parts = [html("h2", {}, group.label), html("p", { class: "kind" }, group.module), list(rows), toggle];
    if (this.model.hasRelevance) {
      const flow = (edges) => edges.reduce((sum, edge) => sum + (edge.relevance ?? 0), 0);
      const edges = this.model.data.edges;
      const received = flow(edges.filter((edge) => inside.has(edge.source) && !inside.has(edge.target)));
      const passed = flow(edges.filter((edge) => !inside.has(edge.source) && inside.has(edge.target)));
      parts.push(...this.amounts([["received", received], ["passed on", passed], ["absorbed", received - passed]]));
    }
    const table = html("table", {}, ...rules.map(([rule, count]) => row(this.rule(rule), String(count))));
    return rules.length ? [...parts, html("h3", {}, "Rules"), table] : parts;
  }

  rule(rule) {
    const swatch = html("span", { class: "swatch" });
    swatch.style.setProperty("--color", this.model.colors.get(rule));
    return html("span", {}, swatch, ` ${rule}`);
  }

  balance(balance) {
    return this.amounts([
      ["received", balance.received],
      ["passed on", balance.passed_on],
      ["absorbed", balance.absorbed],
      ["  by the bias", balance.by_bias],
      ["  by the stabilizer", balance.by_stabilizer],
      ["  at zeros", balance.at_zeros],
    ]);
  }

  amounts(amounts) {
    const known = amounts.filter(([, value]) => value !== null);
    const rows = known.map(([name, value]) => row(name.replace(/^ {2}/, "\u2003"), number(value), this.model.share(Number(value))));
    return [html("h3", {}, "Relevance, in % of the explained output"), html("table", {}, ...rows)];
  }

  neighbors(title, edges, end) {
    const rows = edges.map((edge) => {
      const link = html("button", { class: "link" }, ...breakable(edge[end]));
      link.addEventListener("click", () => this.handlers.reveal(edge[end]));
      if (!edge.carries) return row(link, "no relevance");
      return edge.relevance === null ? row(link, "") : row(link, number(edge.relevance), this.model.share(edge.relevance));
    });
    return rows.length ? [html("h3", {}, title), html("table", {}, ...rows)] : [];
  }
}

/** A name or a path that may break into lines where its parts end. */
function breakable(text) {
  return text.split(/(?<=[_./\\])/).flatMap((part) => [part, html("wbr")]);
}

/** A source line as its place and its code. */
function splitSource(source) {
  const found = /^(.*?:\d+): (.*)$/.exec(source);
  return found ? [found[1], found[2]] : [source, ""];
}

function list(rows) {
  const known = rows.filter(([, value]) => value);
  return html("dl", {}, ...known.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
}

function row(name, ...values) {
  return html("tr", {}, html("td", {}, name), ...values.map((value) => html("td", { class: "number" }, value)));
}
