/* The lists beside and below the map. Each function fills one element from the report and a state. */

const NEIGHBOURS = 8;
const LISTED = 60;

const swatch = (report, id) => el("span", { class: "swatch", "aria-hidden": "true", colour: colourOf(report, id) });
const nameless = (cluster) => cluster.name === null && cluster.id !== OTHER;
const STABILITY = "How well it is found again without a fifth of the images: 1 as it is; below 0.6 do not rely on it";
const named = (cluster) => el("bdi", { class: nameless(cluster) && "unnamed" }, cluster.label);

function fillHeadline(report) {
  byId("lede").textContent = report.lede;
  for (const { label, value, note } of report.tiles) {
    byId("tiles").append(el("div", {}, el("dt", {}, label), el("dd", {}, value, note ? el("small", {}, note) : null)));
  }
  byId("colophon").textContent = report.colophon;
}

function fillFigures(report) {
  for (const { title, rows } of report.sections) {
    const list = el("dl");
    for (const [label, value] of rows) list.append(el("div", {}, el("dt", {}, label), el("dd", {}, value)));
    byId("sheets").append(el("section", { class: "sheet" }, el("h3", {}, title), list));
  }
}

/** The legend is the filter: one button per cluster, largest first, "other" at the end. */
function fillLegend(report, { onToggle, onHot }) {
  const ordered = [...report.clusters.values()].sort((a, b) => (a.id === OTHER) - (b.id === OTHER) || b.size - a.size);
  const largest = Math.max(1, ...ordered.map((cluster) => cluster.size));
  const buttons = new Map();
  for (const cluster of ordered) {
    const button = el("button", {
      type: "button",
      class: "legend-row",
      "aria-pressed": "false",
      share: cluster.size / largest,
      colour: colourOf(report, cluster.id),
      onclick: () => onToggle(cluster.id),
      onpointerenter: (event) => event.pointerType === "mouse" && onHot(cluster.id),
      onpointerleave: () => onHot(null),
    },
    swatch(report, cluster.id),
    el("span", { class: "name" }, named(cluster), cluster.unsteady ? el("span", { class: "unsteady", title: STABILITY }, "unsteady") : null),
    el("span", { class: "n" }, integer.format(cluster.size)));
    buttons.set(cluster.id, button);
    byId("legend").append(button);
  }
  return buttons;
}

function fillFacets(report, onPick) {
  return report.facets.map((facet, index) => {
    const pick = (event) => onPick(index, Number(event.target.value));
    const select = el("select", { onchange: pick }, el("option", { value: -1 }, `Every ${facet.name}`));
    facet.values.forEach((value, code) => select.append(el("option", { value: code }, value)));
    byId("facets").append(el("label", { class: "field" }, el("span", { class: "visually-hidden" }, facet.name), select));
    return select;
  });
}

function ingredients({ makeUp }) {
  const top = makeUp.slice(0, 3).filter(([, share]) => share >= 0.05);
  if (!top.length) return null;
  return el("p", { class: "make-up" }, ...top.flatMap(([value, share], i) =>
    [i ? " · " : "", el("bdi", {}, value), ` ${percent(share)}`]));
}

function steadiness(cluster) {
  if ((cluster.stability ?? null) === null) return [];
  const value = el("span", { title: STABILITY }, ` · stability ${cluster.stability.toFixed(2)}`);
  return cluster.unsteady ? [value, el("span", { class: "unsteady" }, "unsteady")] : [value];
}

function fillCards(report, { onChoose, onToggle }) {
  const cards = new Map();
  const late = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      late.unobserve(target);
      for (const button of target.querySelectorAll("button[data-image]")) {
        button.append(picture(report, Number(button.dataset.image)));
      }
    }
  }, { rootMargin: "600px" });
  const total = report.total || 1;
  for (const cluster of report.clusters.values()) {
    if (cluster.id === OTHER) continue;
    const strip = el("div", { class: "pictures" }, ...cluster.pictures.map((i) => {
      const id = report.images.ids[i];
      return el("button", { type: "button", "data-image": i, title: id, "aria-label": id, onclick: () => onChoose(i) });
    }));
    const card = el("article", { class: "card", colour: colourOf(report, cluster.id), share: cluster.size / total },
      el("header", {},
        el("h3", {}, swatch(report, cluster.id), named(cluster), el("span", { class: "id" }, `#${cluster.id}`)),
        el("p", { class: "size" }, `${count(cluster.size, "picture")} · ${percent(cluster.size / total)}`, ...steadiness(cluster)),
        el("button", { type: "button", class: "quiet small", onclick: () => onToggle(cluster.id, true) }, "Show on map")),
      ingredients(cluster),
      cluster.pictures.length ? strip : el("p", { class: "make-up" }, "The model keeps no pictures of this cluster."));
    late.observe(card);
    cards.set(cluster.id, card);
  }
  return cards;
}

function sortCards(report, cards, by) {
  const names = new Intl.Collator(undefined, { numeric: true });
  const byName = (a, b) => (a.name === null) - (b.name === null) || names.compare(a.label, b.label);
  const bySize = (a, b) => b.size - a.size || a.id - b.id;
  const order = [...cards.keys()].map((id) => report.clusters.get(id)).sort(by === "name" ? byName : bySize);
  byId("cards").replaceChildren(...order.map(({ id }) => cards.get(id)));
}

function imageRow(report, i, onChoose, note = null) {
  const cluster = report.clusters.get(report.images.cluster[i]) ?? report.clusters.get(OTHER);
  return el("li", {}, el("button", { type: "button", class: "image-row", onclick: () => onChoose(i) },
    picture(report, i),
    el("span", { class: "image-text" }, el("bdi", { class: "image-id" }, report.images.ids[i]),
      el("span", { class: "sub" }, swatch(report, cluster.id), named(cluster), note ? ` · ${note}` : null))));
}

function fillResults(report, rows, onChoose) {
  const box = byId("results");
  const list = el("ul", { class: "image-list" }, ...rows.slice(0, LISTED).map((i) => imageRow(report, i, onChoose)));
  box.replaceChildren(el("h2", {}, count(rows.length, "picture")), list);
  if (rows.length > LISTED) box.append(el("p", { class: "sub" }, `The first ${LISTED} are listed; the map shows all.`));
  if (!rows.length) list.replaceWith(el("p", { class: "sub" }, "Nothing matches. Try a shorter word, or clear the filters."));
}

/** The images nearest on the map: what the model takes to be alike. */
function neighbours(report, chosen) {
  const { x, y, placed } = report.images;
  if (chosen >= placed) return [];
  const far = [];
  for (let i = 0; i < placed; i++) if (i !== chosen) far.push([(x[i] - x[chosen]) ** 2 + (y[i] - y[chosen]) ** 2, i]);
  return far.sort((a, b) => a[0] - b[0]).slice(0, NEIGHBOURS).map(([, i]) => i);
}

function meter(label, value, colour) {
  return el("div", { class: "meter", share: value, colour },
    el("span", {}, label), el("span", { class: "n" }, percent(value)), el("i", { "aria-hidden": "true" }));
}

/** The chosen picture: what it is, its prediction, and what lies beside it. */
function fillInspector(report, chosen, near, { onChoose, onClose, onToggle }) {
  const { images } = report;
  const cluster = report.clusters.get(images.cluster[chosen]) ?? report.clusters.get(OTHER);
  const note = images.notes.get(chosen) ?? {};
  const pictureless = near.some((i) => !images.thumbs.has(i));
  byId("inspector").replaceChildren(...[
    el("div", { class: "inspector-head" },
      el("h2", {}, "Chosen picture"),
      el("button", { type: "button", class: "quiet small", id: "close", onclick: onClose }, "Close")),
    el("div", { class: "hero" },
      picture(report, chosen, images.ids[chosen]),
      el("div", {},
        el("p", { class: "image-id" }, el("bdi", {}, images.ids[chosen])),
        el("button", {
          type: "button", class: "chip", colour: colourOf(report, cluster.id), onclick: () => onToggle(cluster.id, true),
        }, swatch(report, cluster.id), named(cluster)),
        note.novel ? el("span", { class: "flag" }, "unlike anything in training") : null,
        note.assigned ? el("span", { class: "flag" }, "assigned from between clusters") : null)),
    ...membership(report, chosen, cluster, note),
    attributeList(report, chosen, note),
    near.length ? el("h3", {}, "Nearest on the map") : el("p", { class: "sub" }, "This picture is not among those on the map."),
    el("ul", { class: "image-list" }, ...near.map((i) => imageRow(report, i, onChoose))),
    pictureless ? el("p", { class: "sub" }, "A model keeps pictures of its most typical images only.") : null,
  ].filter(Boolean));
}

/** How sure the model is of the cluster, and which others it thought of. */
function membership(report, chosen, cluster, note) {
  const probability = report.images.probability[chosen];
  const parts = [];
  if (probability !== 255 && cluster.id !== OTHER) {
    parts.push(meter("Probability", probability / 254, colourOf(report, cluster.id)));
  } else if (cluster.id === OTHER) {
    parts.push(el("p", { class: "sub" }, "In no cluster: too few pictures are like it."));
  }
  for (const [id, score] of note.candidates ?? []) {
    const other = report.clusters.get(id);
    const name = shortened(other?.label ?? `Cluster ${id}`, 40);
    if (id !== cluster.id) parts.push(meter(`or ${name}`, score, colourOf(report, id)));
  }
  return parts;
}

function attributeList(report, chosen, note) {
  const filters = report.facets.filter((facet) => facet.codes[chosen] < facet.values.length);
  const pairs = filters.map((facet) => [facet.name, facet.values[facet.codes[chosen]]]).concat(note.attributes ?? []);
  if (!pairs.length) return null;
  return el("dl", { class: "attributes" }, ...pairs.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, el("bdi", {}, value)))));
}
