/* Where things are on the map: coordinates to pixels and back, zoom and pan. */

const MAX_ZOOM = 60;

class MapView {
  constructor(report, canvas) {
    Object.assign(this, { report, canvas });
    this.view = { k: 1, x: 0, y: 0 }; // zoom, and where the map's corner is, in pixels
    this.shown = new Uint8Array(report.images.n).fill(1); // a mask over all images
  }

  resize() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    const density = Math.min(window.devicePixelRatio || 1, 2.5);
    if (!w || !h || (w === this.w && h === this.h && density === this.density)) return;
    this.canvas.width = Math.round(w * density);
    this.canvas.height = Math.round(h * density);
    const margin = Math.min(w, h) < 480 ? 18 : 36;
    const { width, height } = this.report.extent;
    this.scale = Math.min((w - 2 * margin) / width, (h - 2 * margin) / height);
    this.left = (w - width * this.scale) / 2;
    this.top = (h - height * this.scale) / 2;
    Object.assign(this, { w, h, density });
    this.clamp();
    this.paint(); // at once: a canvas of another size is blank
  }

  px(value) { return (value * this.scale + this.left) * this.view.k + this.view.x; }
  py(value) { return (value * this.scale + this.top) * this.view.k + this.view.y; }

  clamp() {
    const { view, w, h } = this;
    view.k = Math.max(1, Math.min(MAX_ZOOM, view.k));
    view.x = Math.max(w - w * view.k, Math.min(0, view.x));
    view.y = Math.max(h - h * view.k, Math.min(0, view.y));
    // The whole map lets a finger scroll the page; a part of it follows the finger.
    this.canvas.style.touchAction = view.k > 1.01 ? "none" : "pan-y";
  }

  zoomAt(x, y, factor) {
    const { view } = this;
    const k = Math.max(1, Math.min(MAX_ZOOM, view.k * factor));
    view.x = x - (x - view.x) * (k / view.k);
    view.y = y - (y - view.y) * (k / view.k);
    view.k = k;
    this.clamp();
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.clamp();
    this.draw();
  }

  /** Bring the rows into view, gently unless the reader asked for no motion; zoom at most so far. */
  fit(rows, limit = 14) {
    const { x, y } = this.report.images;
    if (!rows.length) return this.fly({ k: 1, x: 0, y: 0 });
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const i of rows) {
      x0 = Math.min(x0, x[i]); x1 = Math.max(x1, x[i]);
      y0 = Math.min(y0, y[i]); y1 = Math.max(y1, y[i]);
    }
    const pad = 70;
    const across = (this.w - 2 * pad) / ((x1 - x0) * this.scale || 1);
    const down = (this.h - 2 * pad) / ((y1 - y0) * this.scale || 1);
    const k = Math.max(1, Math.min(limit, across, down));
    const cx = ((x0 + x1) / 2) * this.scale + this.left;
    const cy = ((y0 + y1) / 2) * this.scale + this.top;
    return this.fly({ k, x: this.w / 2 - cx * k, y: this.h / 2 - cy * k });
  }

  fly(target) {
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const from = { ...this.view };
    const flight = (this.flight = {});
    const begin = performance.now();
    const step = (now) => {
      if (this.flight !== flight) return;
      const t = still ? 1 : Math.min(1, (now - begin) / 420);
      const s = 1 - (1 - t) ** 3;
      for (const key of ["k", "x", "y"]) this.view[key] = from[key] + (target[key] - from[key]) * s;
      this.clamp();
      this.draw();
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  /** The shown point nearest to a place of the canvas, or -1. */
  at(px, py, reach) {
    const { x, y, placed } = this.report.images;
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < placed; i++) {
      if (!this.shown[i]) continue;
      const dx = this.px(x[i]) - px;
      const dy = this.py(y[i]) - py;
      const d = dx * dx + dy * dy;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
}
