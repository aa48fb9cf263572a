/* The river of what is just in, and a card for each cluster. Both take in new pictures at a pace that eyes and
   networks can follow, however fast the stream is. */

import { byId, colour, count, el, integer, key, label, named, percent, picture, OTHER } from "./dom.js";

const RIVER = 36; // pictures that stay
const RIVER_STEP = 3; // that join at a time
const CARD_STEP = 14; // new pictures on all cards together, at a time

const tile = (item, cluster) =>
  el("button", { type: "button", class: item.novel ? "tile novel" : "tile", cluster: cluster.id, "data-id": item.id, "aria-label": `${item.id}, ${label(cluster.id, cluster.name)}`, title: item.id }, picture(item));

export class River {
  constructor() {
    this.box = byId("river");
    this.waiting = [];
  }

  take({ first, arrived }) {
    if (first) {
      this.waiting = [];
      this.box.replaceChildren(...arrived.slice(0, RIVER).map((item) => this.drop(item)));
    } else {
      this.waiting = [...arrived, ...this.waiting].slice(0, RIVER); // of a flood, the newest
    }
    byId("river-section").hidden = !this.box.childElementCount && !this.waiting.length;
  }

  drop(item) {
    const cluster = { id: item.cluster, name: item.name };
    return el("div", { class: "drop", cluster: item.cluster },
      tile(item, cluster),
      el("a", { class: "drop-name", href: `#cluster=${item.cluster}`, tabindex: "-1" }, el("span", { class: "swatch" }), named(item.cluster, item.name)));
  }

  step() {
    if (!this.waiting.length || this.box.matches(":hover")) return;
    const next = this.waiting.splice(-RIVER_STEP);
    byId("river-section").hidden = false;
    for (const item of next.reverse()) {
      const drop = this.drop(item);
      drop.classList.add("arrives");
      this.box.prepend(drop);
    }
    while (this.box.childElementCount > RIVER) this.box.lastElementChild.remove();
  }
}

const grouped = (cluster) => (cluster.group ?? null) !== null;

/** The pictures of a cluster's group; of a cluster in no group, its own: by size, a group stays together. */
function groupSizes(clusters) {
  const sizes = new Map();
  for (const { group, count } of clusters.filter(grouped)) sizes.set(group, (sizes.get(group) ?? 0) + count);
  return (cluster) => (grouped(cluster) ? sizes.get(cluster.group) : cluster.count);
}

class Card {
  constructor(id) {
    this.id = id;
    this.title = el("h3");
    this.size = el("p", { class: "size" });
    this.rate = el("span", { class: "rate" });
    this.strip = el("div", { class: "strip" });
    this.tiles = new Map();
    this.paintedAt = 0;
    this.root = el("article", { class: "card", cluster: id },
      el("header", {},
        el("a", { class: "card-link", href: `#cluster=${id}` }, this.title),
        this.rate, this.size),
      this.strip);
  }

  facts(cluster, total) {
    if (this.name !== cluster.name || this.group !== cluster.group || !this.title.childElementCount) {
      this.name = cluster.name;
      this.group = cluster.group;
      this.title.replaceChildren(el("span", { class: "swatch", "aria-hidden": "true" }), named(cluster.id, cluster.name), el("span", { class: "id" }, cluster.id === OTHER ? "in no cluster" : `#${cluster.id}${grouped(cluster) ? ` · group ${cluster.group}` : ""}`));
    }
    const size = `${count(cluster.count, "picture")} · ${percent(cluster.count / (total || 1))}`;
    if (this.size.textContent !== size) this.size.textContent = size;
    const rate = cluster.recent ? `${integer.format(cluster.recent)} / min` : "";
    if (this.rate.textContent !== rate) this.rate.textContent = rate;
  }

  fresh(cluster) {
    return cluster.pictures.filter((item) => !this.tiles.has(key(item))).length;
  }

  /** Bring the strip up to date; the tiles that stay keep their pictures. */
  paint(cluster, quietly) {
    const tiles = new Map();
    for (const item of cluster.pictures) {
      let node = this.tiles.get(key(item));
      if (!node) {
        node = tile(item, cluster);
        if (!quietly) node.classList.add("arrives");
      }
      tiles.set(key(item), node);
    }
    this.strip.replaceChildren(...tiles.values());
    this.tiles = tiles;
    this.paintedAt = performance.now();
  }
}

export class Cards {
  constructor(store) {
    this.store = store;
    this.cards = new Map();
    this.stale = new Set();
    this.near = new Set(); // clusters whose card is on the screen, or nearly
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const id = Number(target.dataset.cluster);
        if (isIntersecting) this.near.add(id);
        else this.near.delete(id);
      }
      this.step(true);
    }, { rootMargin: "400px" });
  }

  take() {
    const { clusters } = this.store;
    const total = [...clusters.values()].reduce((sum, cluster) => sum + cluster.count, 0);
    for (const [id, card] of this.cards) {
      if (clusters.has(id)) continue;
      this.observer.unobserve(card.root);
      card.root.remove();
      this.cards.delete(id);
      this.near.delete(id);
    }
    for (const cluster of clusters.values()) {
      if (!this.cards.has(cluster.id)) {
        const card = new Card(cluster.id);
        card.root.dataset.cluster = cluster.id;
        this.cards.set(cluster.id, card);
        this.observer.observe(card.root);
      }
      const card = this.cards.get(cluster.id);
      card.facts(cluster, total);
      if (card.fresh(cluster) || card.tiles.size !== cluster.pictures.length) this.stale.add(cluster.id);
    }
    this.sort();
  }

  /** Put the cards in order. A card that nobody moves stays the same element, so nothing loads again. */
  sort(by = this.by ?? "size") {
    const changed = by !== this.by;
    this.by = by;
    const names = new Intl.Collator(undefined, { numeric: true });
    const whole = groupSizes([...this.store.clusters.values()]);
    const order = {
      size: (a, b) => whole(b) - whole(a) || (a.group ?? -1) - (b.group ?? -1) || b.count - a.count,
      recent: (a, b) => b.recent - a.recent || b.count - a.count,
      name: (a, b) => (a.name === null) - (b.name === null) || names.compare(label(a.id, a.name), label(b.id, b.name)),
    }[by];
    const wanted = [...this.store.clusters.values()].sort((a, b) => (a.id === OTHER) - (b.id === OTHER) || order(a, b) || a.id - b.id).map(({ id }) => id);
    const box = byId("cards");
    const there = [...box.children].map((node) => Number(node.dataset.cluster));
    if (wanted.join() === there.join()) return;
    // while people look, order changes only for a new card or a new wish: nothing jumps under the pointer
    if (!changed && there.length === wanted.length && performance.now() - (this.sortedAt ?? 0) < 15000) return;
    this.sortedAt = performance.now();
    wanted.forEach((id, index) => {
      const root = this.cards.get(id).root;
      if (box.children[index] !== root) box.insertBefore(root, box.children[index] ?? null);
    });
  }

  /** Paint what is stale and near, those that waited longest first, within the step's measure. */
  step(first = false) {
    const ready = [...this.stale].filter((id) => this.near.has(id) && !(this.cards.get(id)?.root.matches(":hover") && this.cards.get(id).tiles.size));
    ready.sort((a, b) => this.cards.get(a).paintedAt - this.cards.get(b).paintedAt);
    let left = CARD_STEP;
    for (const id of ready) {
      const card = this.cards.get(id);
      const cluster = this.store.clusters.get(id);
      if (!cluster) continue;
      const unseen = !card.paintedAt; // a card that comes into sight is filled at once
      if (left <= 0 && !unseen) continue;
      if (first && !unseen) continue;
      if (!unseen) left -= card.fresh(cluster);
      card.paint(cluster, unseen);
      this.stale.delete(id);
    }
  }
}

/** One cluster, page by page. */
export class One {
  constructor(store) {
    this.store = store;
    this.id = null;
    this.observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.more(), { rootMargin: "800px" });
    byId("more").addEventListener("click", () => this.more());
    byId("newer").addEventListener("click", () => this.show(this.id));
  }

  show(id) {
    Object.assign(this, { id, cursor: undefined, loading: false, top: null });
    byId("pictures").replaceChildren();
    byId("newer").hidden = true;
    byId("one-end").hidden = true;
    byId("more").hidden = false;
    this.take();
    this.observer.observe(byId("more"));
    return this.more();
  }

  hide() {
    this.id = null;
    this.observer.disconnect();
    byId("pictures").replaceChildren();
  }

  take() {
    if (this.id === null) return;
    const cluster = this.store.clusters.get(this.id) ?? { id: this.id, name: null, count: 0, pictures: [] };
    byId("one-title").replaceChildren(el("span", { class: "swatch", cluster: this.id, "aria-hidden": "true" }), named(this.id, cluster.name));
    byId("one-size").textContent = count(cluster.count, "picture");
    colour(byId("one"), this.id);
    const newest = cluster.pictures?.[0];
    if (this.top !== null && newest && key(newest) !== this.top) byId("newer").hidden = false;
  }

  async more() {
    if (this.loading || this.id === null || this.cursor === null) return;
    this.loading = true;
    const { id, cursor } = this;
    const asked = new URLSearchParams({ id });
    if (cursor) asked.set("cursor", cursor);
    try {
      const answer = await fetch(`/cluster?${asked}`);
      const page = await answer.json();
      if (this.id !== id || this.cursor !== cursor) return;
      if (!answer.ok) throw new Error(page.error);
      const cluster = { id, name: this.store.clusters.get(id)?.name ?? null };
      byId("pictures").append(...page.tags.map((item) => tile(item, cluster)));
      if (cursor === undefined) this.top = page.tags.length ? key(page.tags[0]) : "";
      this.cursor = page.cursor;
      byId("more").hidden = page.cursor === null;
      if (page.cursor === null) this.end(page.tags.length || cursor ? "Redis keeps no older uploads of this cluster." : "This cluster is empty.");
    } catch (error) {
      if (this.id === id) this.end(`Loading failed: ${error.message}`);
    } finally {
      this.loading = false;
    }
    // the button may still be in sight, and the observer does not report it twice
    this.observer.unobserve(byId("more"));
    if (this.id !== null && this.cursor !== null) this.observer.observe(byId("more"));
  }

  end(text) {
    byId("one-end").textContent = text;
    byId("one-end").hidden = false;
  }
}
