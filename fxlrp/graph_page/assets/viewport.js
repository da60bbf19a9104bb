"use strict";

/** Pan and zoom: drag, wheel, pinch, and what moves the view to a place. */
class Viewport {
  constructor(canvas, scene, panel) {
    this.canvas = canvas;
    this.scene = scene;
    this.panel = panel;
    [this.x, this.y, this.scale] = [0, 0, 1];
    this.pointers = new Map();
    this.moved = 0;
    this.onChange = () => {};
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
  }

  show() {
    this.scene.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.scale})`);
    this.onChange();
  }

  moveTo(x, y) {
    [this.x, this.y] = [x, y];
    this.show();
  }

  /** The wheel scrolls; with Ctrl, and on a touchpad by pinching, it zooms. */
  wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 20 : 1;
    if (event.ctrlKey || event.metaKey) {
      const box = this.canvas.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * unit * 0.004), event.clientX - box.left, event.clientY - box.top);
    } else this.pan(-(event.shiftKey ? event.deltaY : event.deltaX) * unit, event.shiftKey ? 0 : -event.deltaY * unit);
  }

  pan(dx, dy) {
    this.moveTo(this.x + dx, this.y + dy);
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, 0.02), 4);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.show();
  }

  down(event) {
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 1) this.moved = 0;
  }

  move(event) {
    // The button may have been released outside of the window.
    if (!event.buttons) this.up(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    const now = { x: event.clientX, y: event.clientY };
    this.pointers.set(event.pointerId, now);
    this.moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (others.length) {
      const distance = (point) => Math.hypot(point.x - others[0].x, point.y - others[0].y);
      const box = this.canvas.getBoundingClientRect();
      this.zoom(distance(now) / (distance(before) || 1), others[0].x - box.left, others[0].y - box.top);
    } else if (this.moved > 4) {
      this.canvas.setPointerCapture(event.pointerId);
      this.canvas.classList.add("dragging");
      this.pan(now.x - before.x, now.y - before.y);
    }
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    this.canvas.classList.remove("dragging");
  }

  /** Whether the last press moved the graph, and is no click. */
  get wasDragged() {
    return this.moved > 4;
  }

  /** Show everything, or the upper part in a readable size. */
  fit(places, least = 0) {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const across = width / (places.width + 48);
    const whole = Math.min(across, (height - 40) / places.height, 1.25);
    this.scale = Math.max(whole, Math.min(least, across));
    this.x = (width - places.width * this.scale) / 2;
    this.y = Math.max(20, (height - places.height * this.scale) / 2);
    this.show();
  }

  /** Where a point of the graph is on the screen. */
  onScreen(place) {
    return { x: place.x * this.scale + this.x, y: place.y * this.scale + this.y };
  }

  /** The width of the canvas that the panel does not cover. */
  get freeWidth() {
    const right = this.panel.hidden ? Infinity : this.panel.getBoundingClientRect().left;
    return Math.min(this.canvas.clientWidth, right - this.canvas.getBoundingClientRect().left);
  }

  /** Move a place into view, if it is not there. */
  reveal(place) {
    const { x, y } = this.onScreen(place);
    const [right, bottom] = [x + place.width * this.scale, y + place.height * this.scale];
    const [width, height] = [this.freeWidth, this.canvas.clientHeight];
    if (x < 20 || right > width - 20) this.x += width / 2 - (x + right) / 2;
    if (y < 20 || bottom > height - 20) this.y += bottom - y > height - 40 ? 20 - y : height / 2 - (y + bottom) / 2;
    this.show();
  }
}
