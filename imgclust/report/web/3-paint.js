/* What the map looks like: dots or pictures, the chosen one with its neighbours, names. */

class PaintedMap extends MapView {
  constructor(report, canvas) {
    super(report, canvas);
    this.context = canvas.getContext("2d");
    this.hot = null; // a cluster under the pointer in a list
    this.chosen = -1;
    this.near = [];
    this.pictures = false;
    this.loaded = new Map();
    this.visibleClusters = new Set();
    this.byCluster = this.group();
    this.centres = this.findCentres();
  }

  /** Images by cluster, "other" first, so that it is painted below the rest. */
  group() {
    const groups = new Map();
    const { cluster, placed } = this.report.images;
    for (let i = 0; i < placed; i++) {
      if (!groups.has(cluster[i])) groups.set(cluster[i], []);
      groups.get(cluster[i]).push(i);
    }
    return new Map([...groups].sort((a, b) => (a[0] === OTHER ? -1 : b[0] === OTHER ? 1 : a[0] - b[0])));
  }

  /** Where a name belongs: above the member that lies nearest to all others, so never between two parts. */
  findCentres() {
    const { x, y } = this.report.images;
    const { width, height } = this.report.extent;
    const around = 0.025 * Math.max(width, height);
    const centres = [];
    for (const [id, rows] of this.byCluster) {
      if (id === OTHER) continue;
      const step = Math.ceil(rows.length / 160);
      const sample = rows.filter((_, k) => k % step === 0);
      const sums = sample.map((i) => sample.reduce((sum, j) => sum + Math.hypot(x[i] - x[j], y[i] - y[j]), 0));
      const middle = sample[sums.indexOf(Math.min(...sums))];
      let top = y[middle];
      for (const i of rows) {
        if (Math.abs(x[i] - x[middle]) < around && y[middle] - y[i] < around) top = Math.min(top, y[i]);
      }
      centres.push({ id, x: x[middle], y: top, n: rows.length });
    }
    return centres.sort((a, b) => b.n - a.n);
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.paint(); });
  }

  paint() {
    const { context: c, density } = this;
    const style = getComputedStyle(this.canvas);
    this.dark = style.colorScheme.trim() === "dark";
    this.ink = style.color;
    this.paper = style.backgroundColor;
    this.faint = this.dark ? "rgba(150,152,158,.16)" : "rgba(120,116,108,.15)";
    c.setTransform(density, 0, 0, density, 0, 0);
    c.clearRect(0, 0, this.w, this.h);
    this.paintDots();
    if (this.pictures) this.paintPictures();
    this.paintNames();
    this.paintChosen();
  }

  colour(id) {
    const cluster = this.report.clusters.get(id);
    return this.dark ? cluster.dark : cluster.light;
  }

  radius() {
    const base = Math.max(1.5, Math.min(4.6, 170 / Math.sqrt(this.report.images.placed + 1)));
    return base * Math.min(2.4, this.view.k ** 0.4) * (this.w < 480 ? 0.8 : 1);
  }

  paintDots() {
    const { context: c } = this;
    const { x, y } = this.report.images;
    const r = this.radius();
    const pass = (rows, wanted, colour, alpha) => {
      c.beginPath();
      for (const i of rows) {
        if (!wanted(i)) continue;
        const px = this.px(x[i]);
        const py = this.py(y[i]);
        if (px < -r || py < -r || px > this.w + r || py > this.h + r) continue;
        c.moveTo(px + r, py);
        c.arc(px, py, r, 0, 6.2832);
      }
      c.globalAlpha = alpha;
      c.fillStyle = colour;
      c.fill();
      c.globalAlpha = 1;
    };
    const lit = (id) => this.hot === null || this.hot === id;
    for (const [id, rows] of this.byCluster) {
      if (lit(id)) pass(rows, (i) => !this.shown[i], this.faint, 1);
      else pass(rows, () => true, this.faint, 1);
    }
    for (const [id, rows] of this.byCluster) {
      if (lit(id)) pass(rows, (i) => this.shown[i], this.colour(id), id === OTHER ? 0.55 : 0.85);
    }
  }

  /** As many pictures as have room, the most typical of every cluster first. */
  paintPictures() {
    const { context: c } = this;
    const { x, y, placed } = this.report.images;
    const size = Math.min(84, (this.w < 480 ? 26 : 34) * this.view.k ** 0.35);
    const cell = size + 3;
    const slots = new Map(); // a grid of the cells that hold a picture: only the eight around can overlap
    const crowded = (px, py, gx, gy) => [-1, 0, 1].some((a) => [-1, 0, 1].some((b) => {
      const other = slots.get(`${gx + a},${gy + b}`);
      return other && Math.abs(other[0] - px) < cell && Math.abs(other[1] - py) < cell;
    }));
    for (const i of this.pictureOrder ??= this.orderPictures()) {
      if (i >= placed || i === this.chosen || !this.shown[i]) continue;
      if (this.hot !== null && this.report.images.cluster[i] !== this.hot) continue;
      const [px, py] = [this.px(x[i]), this.py(y[i])];
      if (px < -size || py < -size || px > this.w + size || py > this.h + size) continue;
      const [gx, gy] = [Math.floor(px / cell), Math.floor(py / cell)];
      if (crowded(px, py, gx, gy)) continue;
      slots.set(`${gx},${gy}`, [px, py]); // also while it loads, or every picture would be asked for
      const image = this.load(i);
      if (image) this.stamp(image, px, py, size, this.colour(this.report.images.cluster[i]), 2);
    }
  }

  orderPictures() {
    const lists = [...this.report.clusters.values()].map((cluster) => cluster.pictures);
    const longest = Math.max(0, ...lists.map((list) => list.length));
    const order = [];
    for (let rank = 0; rank < longest; rank++) {
      order.push(...lists.filter((list) => rank < list.length).map((list) => list[rank]));
    }
    const { thumbs } = this.report.images;
    return [...new Set([...order, ...thumbs.keys()])].filter((i) => thumbs.has(i));
  }

  load(i) {
    if (!this.loaded.has(i)) {
      const source = thumbnail(this.report, i);
      if (!source) return null;
      const image = new Image();
      image.onload = () => this.draw();
      image.src = source;
      this.loaded.set(i, image);
    }
    const image = this.loaded.get(i);
    return image.complete && image.naturalWidth ? image : null;
  }

  stamp(image, px, py, size, colour, border) {
    const { context: c } = this;
    c.save();
    c.beginPath();
    c.roundRect(px - size / 2, py - size / 2, size, size, 5);
    c.fillStyle = "#fff";
    c.fill();
    c.save();
    c.clip();
    const fit = size / Math.max(image.naturalWidth, image.naturalHeight);
    const [w, h] = [image.naturalWidth * fit, image.naturalHeight * fit];
    c.drawImage(image, px - w / 2, py - h / 2, w, h);
    c.restore();
    c.strokeStyle = colour;
    c.lineWidth = border;
    c.stroke();
    c.restore();
  }

  paintChosen() {
    const { context: c, chosen } = this;
    const { x, y, cluster, placed } = this.report.images;
    if (chosen < 0 || chosen >= placed) return;
    const [px, py] = [this.px(x[chosen]), this.py(y[chosen])];
    c.strokeStyle = this.ink;
    c.lineWidth = 1;
    c.globalAlpha = 0.5;
    c.beginPath();
    for (const i of this.near) { c.moveTo(px, py); c.lineTo(this.px(x[i]), this.py(y[i])); }
    c.stroke();
    c.globalAlpha = 1;
    const r = this.radius() + 1.5;
    for (const i of [...this.near, chosen]) {
      const big = i === chosen;
      c.beginPath();
      c.arc(this.px(x[i]), this.py(y[i]), big ? r + 3 : r, 0, 6.2832);
      c.fillStyle = this.colour(cluster[i]);
      c.fill();
      c.lineWidth = big ? 2.5 : 1.5;
      c.stroke();
    }
    const image = this.load(chosen);
    if (image) this.stamp(image, px, py - r - 40, 64, this.ink, 2);
  }

  paintNames() {
    const { context: c } = this;
    const taken = [];
    c.textAlign = "center";
    c.textBaseline = "middle";
    c.lineJoin = "round";
    for (const { id, x, y, n } of this.centres) {
      if (this.hot !== null && this.hot !== id) continue;
      if (!this.visibleClusters.has(id)) continue;
      let px = this.px(x);
      let py = this.py(y);
      if (px < 0 || py < 0 || px > this.w || py > this.h) continue;
      const size = Math.max(11, Math.min(15, 8.5 + Math.log2(n) * 0.75)) * (this.w < 480 ? 0.92 : 1);
      const cluster = this.report.clusters.get(id);
      const weight = cluster.name === null ? 450 : 650;
      c.font = `${weight} ${size}px ${this.font ??= getComputedStyle(document.body).fontFamily}`;
      const text = shortened(cluster.label, this.w < 480 ? 18 : 26);
      const half = c.measureText(text).width / 2 + 3;
      px = Math.max(half + 4, Math.min(this.w - half - 4, px));
      py -= size * 0.7 + this.radius() + (this.pictures ? 10 : 0);
      const box = [px - half, py - size * 0.75, px + half, py + size * 0.75];
      if (taken.some((b) => box[0] < b[2] && box[2] > b[0] && box[1] < b[3] && box[3] > b[1])) continue;
      taken.push(box);
      c.strokeStyle = this.paper;
      c.globalAlpha = 0.88;
      c.lineWidth = 4;
      c.strokeText(text, px, py);
      c.globalAlpha = 1;
      c.fillStyle = this.ink;
      c.fillText(text, px, py);
    }
  }
}
