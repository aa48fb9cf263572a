/* What the server sent: the whole board at first, then what changes. */

export class Store {
  constructor(onChange, onState) {
    Object.assign(this, { onChange, onState, clusters: new Map(), seen: new Set(), taxonomy: null, trouble: null });
    this.source = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
  }

  open() {
    if (this.source) return;
    const source = new EventSource("/events");
    this.source = source;
    source.onmessage = (event) => {
      this.take(JSON.parse(event.data));
      this.onState("live");
    };
    source.onerror = () => {
      this.onState("lost");
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      this.close();
      setTimeout(() => document.hidden || this.open(), 5000);
    };
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  take({ whole, taxonomy, trouble, clusters }) {
    const first = whole && (taxonomy !== this.taxonomy || !this.clusters.size);
    if (whole) {
      this.clusters.clear();
      if (first) this.seen.clear();
    }
    const arrived = [];
    for (const update of clusters) {
      const cluster = { ...this.clusters.get(update.id), ...update };
      this.clusters.set(cluster.id, cluster);
      for (const item of update.pictures ?? []) {
        const name = `${item.tagged_at} ${item.id}`;
        if (!this.seen.has(name)) arrived.push({ ...item, name: cluster.name });
        this.seen.add(name);
      }
    }
    if (this.seen.size > 50000) this.seen = new Set([...this.seen].slice(-20000));
    arrived.sort((a, b) => b.tagged_at - a.tagged_at);
    Object.assign(this, { taxonomy, trouble });
    this.onChange({ first, arrived });
  }
}
