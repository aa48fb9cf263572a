/* The map as the reader uses it: mouse, fingers, wheel, keys. It knows nothing of searches, only a mask. */

class ImageMap extends PaintedMap {
  constructor(report, canvas, onChoose, onHover) {
    super(report, canvas);
    Object.assign(this, { onChoose, onHover });
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  /** Take a new mask over all images; names stay only where a point is shown. */
  show(mask) {
    this.shown = mask;
    this.visibleClusters = new Set();
    for (const [id, rows] of this.byCluster) if (rows.some((i) => mask[i])) this.visibleClusters.add(id);
    this.draw();
  }

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    let moved = 0;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      this.flight = null;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
      if (fingers.size === 1) moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = place(event);
      const before = fingers.get(event.pointerId);
      if (!before) {
        if (event.pointerType === "mouse") this.onHover(this.at(...now, 14), ...now);
        return;
      }
      const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (others.length === 1) {
        const [anchor] = others;
        const apart = (p) => Math.hypot(p[0] - anchor[0], p[1] - anchor[1]) || 1;
        this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
        this.zoomAt((now[0] + anchor[0]) / 2, (now[1] + anchor[1]) / 2, apart(now) / apart(before));
      } else if (moved > 4) {
        canvas.classList.add("dragging");
        this.onHover(-1);
        this.pan(now[0] - before[0], now[1] - before[1]);
      }
      fingers.set(event.pointerId, now);
    });
    const release = (event) => {
      if (!fingers.delete(event.pointerId)) return;
      canvas.classList.remove("dragging");
      if (event.type === "pointerup" && moved <= 4 && !fingers.size) {
        this.onChoose(this.at(...place(event), event.pointerType === "touch" ? 26 : 14));
      }
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => this.onHover(-1));
    canvas.addEventListener("dblclick", (event) => this.zoomAt(...place(event), 2));
    canvas.addEventListener("wheel", (event) => {
      // The wheel belongs to the page until the map has been clicked, or Ctrl (a pinch) is held.
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
      if (!event.ctrlKey && this.view.k <= 1 && event.deltaY > 0) return; // all is shown: scroll on
      event.preventDefault();
      this.zoomAt(...place(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [cx, cy] = [this.w / 2, this.h / 2];
    const actions = {
      ArrowLeft: () => this.pan(60, 0), ArrowRight: () => this.pan(-60, 0),
      ArrowUp: () => this.pan(0, 60), ArrowDown: () => this.pan(0, -60),
      "+": () => this.zoomAt(cx, cy, 1.5), "=": () => this.zoomAt(cx, cy, 1.5), "-": () => this.zoomAt(cx, cy, 1 / 1.5),
      "0": () => this.fit([]),
      Enter: () => this.onChoose(this.at(cx, cy, Infinity)),
      Escape: () => this.onChoose(-1),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }
}
