"use strict";

const OVERVIEW_WIDTH = 76;

/** The whole graph in small at the side, with a frame around what the window shows. For the mouse only. */
class Overview {
  constructor(model, viewport) {
    this.model = model;
    this.viewport = viewport;
    this.element = document.getElementById("overview");
    this.frame = svg("rect", { class: "frame" });
    viewport.onChange = () => this.follow();
    this.element.addEventListener("pointerdown", (event) => {
      this.element.setPointerCapture(event.pointerId);
      this.go(event);
    });
    this.element.addEventListener("pointermove", (event) => event.buttons && this.go(event));
    new ResizeObserver(() => this.follow()).observe(viewport.canvas);
  }

  draw(places) {
    this.places = places;
    const clusters = [...places.clusters.values()].map((place) => svg("rect", { class: "cluster", ...place }));
    const boxes = [...places.boxes].map(([id, place]) => {
      const box = svg("rect", { class: "mark", ...place });
      const node = this.model.nodes.get(id);
      box.style.fill = node ? this.model.colorOfNode(node) : "var(--muted)";
      return box;
    });
    this.element.setAttribute("viewBox", `0 0 ${places.width} ${places.height}`);
    this.element.replaceChildren(...clusters, ...boxes, this.frame);
    this.follow();
  }

  /** Tall graphs are stretched to a width that can be seen and clicked. */
  follow() {
    if (!this.places) return;
    const { x, y, scale, canvas } = this.viewport;
    const [width, height] = [canvas.clientWidth / scale, canvas.clientHeight / scale];
    const fits = x >= 0 && y >= 0 && width - x / scale >= this.places.width && height - y / scale >= this.places.height;
    this.element.toggleAttribute("hidden", fits);
    const tall = (OVERVIEW_WIDTH * this.places.height) / this.places.width;
    this.element.style.width = `${OVERVIEW_WIDTH}px`;
    this.element.style.height = `${Math.min(canvas.clientHeight - 24, tall)}px`;
    const attributes = { x: -x / scale, y: -y / scale, width, height };
    for (const [name, value] of Object.entries(attributes)) this.frame.setAttribute(name, value);
  }

  /** Move the middle of the window to the place of the mouse. */
  go(event) {
    const box = this.element.getBoundingClientRect();
    const { canvas, scale } = this.viewport;
    const across = ((event.clientX - box.left) / box.width) * this.places.width;
    const down = ((event.clientY - box.top) / box.height) * this.places.height;
    const isNarrow = this.places.width * scale < canvas.clientWidth;
    this.viewport.moveTo(isNarrow ? this.viewport.x : canvas.clientWidth / 2 - across * scale, canvas.clientHeight / 2 - down * scale);
  }
}
