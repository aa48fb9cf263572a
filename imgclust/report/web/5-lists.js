/* The lists beside and below the map. Each function fills one element from the report and a state. */

const NEIGHBOURS = 8;
const LISTED = 60;

const swatch = (report, id) => el("span", { class: "swatch", "aria-hidden": "true", colour: colourOf(report, id) });
const nameless = (cluster) => cluster.name === null && cluster.id !== OTHER;
const STABILITY = "How well it is found again when a fifth of the images is left out. 1: exactly; below 0.6: do not rely on it";
const CLASS = "Defined by people, and decided before the clusters";
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

/** Clusters under their groups, the largest group first; those in no group, and "other", come last. */
function underGroups(report, ordered) {
  const parts = report.groups.map((group) => ({ group, clusters: ordered.filter((cluster) => cluster.group === group.id) }));
  const size = (part) => part.clusters.reduce((sum, cluster) => sum + cluster.size, 0);
  const filled = parts.filter((part) => part.clusters.length).sort((a, b) => size(b) - size(a));
  const inside = new Set(filled.flatMap((part) => part.clusters));
  return [...filled, { group: null, clusters: ordered.filter((cluster) => !inside.has(cluster)) }];
}

/** The heading of a group's clusters; none where the model has one level. */
function groupHeading(report, group, tag) {
  if (!report.groups.length) return [];
  const text = group === null ? "In no group" : group.name ?? `Group ${group.id}`;
  return [el(tag, { class: "group-heading" }, el("bdi", {}, text))];
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
    el("span", { class: "name" }, named(cluster), cluster.unsteady ? el("span", { class: "unsteady", title: STABILITY }, "unsteady") : null, cluster.class ? el("span", { class: "unsteady", title: CLASS }, "class") : null),
    el("span", { class: "n" }, integer.format(cluster.size)));
    buttons.set(cluster.id, button);
  }
  for (const { group, clusters } of underGroups(report, ordered)) {
    byId("legend").append(...groupHeading(report, group, "p"), ...clusters.map(({ id }) => buttons.get(id)));
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
  if (cluster.class) return [el("span", { class: "unsteady", title: CLASS }, "class")];
  if ((cluster.stability ?? null) === null) return [];
  const value = el("span", { title: STABILITY }, ` · stability ${cluster.stability.toFixed(2)}`);
  return cluster.unsteady ? [value, el("span", { class: "unsteady" }, "unsteady")] : [value];
}

/** Buttons with a picture each, which are drawn when they come near the screen. */
class PictureGrid {
  constructor(report, onChoose) {
    Object.assign(this, { report, onChoose });
    this.late = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        this.late.unobserve(target);
        target.append(picture(report, Number(target.dataset.image)));
      }
    }, { rootMargin: "600px" });
  }

  buttons(images) {
    return images.map((i) => {
      const id = this.report.images.ids[i];
      const button = el("button", { type: "button", "data-image": i, title: id, "aria-label": id, onclick: () => this.onChoose(i) });
      this.late.observe(button);
      return button;
    });
  }
}

const KINDS = {
  pictures: "the most typical pictures",
  borderline: "the pictures at the edge of the cluster, the least certain first",
  random: "a random choice of its pictures",
};

function fillCards(report, { onChoose, onToggle }) {
  const cards = new Map();
  const grid = new PictureGrid(report, onChoose);
  const total = report.total || 1;
  for (const cluster of report.clusters.values()) {
    if (cluster.id === OTHER) continue;
    const trained = cluster.trained === cluster.size ? "" : ` · ${integer.format(cluster.trained)} trained on`;
    const card = el("article", { class: "card", colour: colourOf(report, cluster.id), share: cluster.size / total },
      el("header", {},
        el("h3", {}, swatch(report, cluster.id), named(cluster), el("span", { class: "id" }, `#${cluster.id}`)),
        el("p", { class: "size" }, `${count(cluster.size, "picture")} · ${percent(cluster.size / total)}${trained}`, ...steadiness(cluster)),
        el("button", { type: "button", class: "quiet small", onclick: () => onToggle(cluster.id, true) }, "Show on map")),
      ingredients(cluster),
      el("div", { class: "pictures" }));
    cards.set(cluster.id, card);
  }
  showPictures(report, cards, grid, "pictures");
  const kind = byId("kind");
  kind.addEventListener("change", () => showPictures(report, cards, grid, kind.value));
  return cards;
}

/** Fill all cards with one kind of pictures: typical, borderline or random ones. */
function showPictures(report, cards, grid, kind) {
  const known = (i) => report.images.thumbs.has(i);
  const clusters = [...cards.keys()].map((id) => report.clusters.get(id));
  const drawn = clusters.some((cluster) => cluster[kind].some(known));
  byId("kind-note").textContent = drawn || kind === "pictures"
    ? `Shown: ${KINDS[kind]}.`
    : `Shown: ${KINDS[kind]}. The model keeps only typical pictures. With --images EMBEDDINGS/ the report has the others too.`;
  for (const cluster of clusters) {
    const strip = cards.get(cluster.id).lastElementChild;
    if (cluster[kind].length) strip.replaceChildren(...grid.buttons(cluster[kind]));
    else strip.replaceChildren(el("p", { class: "make-up none" }, kind === "pictures" ? "The model keeps no pictures of this cluster." : "None is known."));
  }
}

/** The pictures in no cluster, to be browsed by why that is and by the cluster that each is nearest to. */
function fillOther(report, { onChoose, onToggle }) {
  const { images } = report;
  const rows = [...images.cluster.keys()].filter((i) => images.cluster[i] === OTHER);
  byId("other").hidden = !rows.length;
  const grid = new PictureGrid(report, onChoose);
  const reasonOf = (i) => images.notes.get(i)?.reason ?? -1;
  const nearestOf = (i) => images.notes.get(i)?.candidates?.[0]?.[0] ?? OTHER;
  rows.sort((a, b) => byKey(reasonOf(a), reasonOf(b)) || byKey(nearestOf(a), nearestOf(b)) || a - b);
  const state = { reason: null, nearest: null, shown: LISTED };
  const fits = (i) => (state.reason === null || reasonOf(i) === state.reason)
    && (state.nearest === null || nearestOf(i) === state.nearest);
  const reason = choice(rows, reasonOf, "Any reason", (key) => report.reasons[key]?.label ?? "Not known");
  const nearest = choice(rows, nearestOf, "Near any cluster",
    (key) => (key === OTHER ? "Near none" : `Near ${shortened(report.clusters.get(key)?.label ?? `#${key}`, 40)}`));
  const draw = () => {
    const found = rows.filter(fits);
    byId("other-pictures").replaceChildren(...grid.buttons(found.slice(0, state.shown)));
    const about = report.reasons[state.reason]?.about;
    byId("other-note").textContent = `${count(found.length, "picture")} in no cluster${about ? `: ${about}` : ""}`;
    byId("other-more").hidden = found.length <= state.shown;
  };
  const pick = (name, select) => select.addEventListener("change", () => {
    Object.assign(state, { [name]: select.value === "" ? null : Number(select.value), shown: LISTED });
    draw();
  });
  pick("reason", reason);
  pick("nearest", nearest);
  byId("other-filters").append(labelled("Reason", reason), labelled("Nearest cluster", nearest));
  byId("other-more").addEventListener("click", () => { state.shown += LISTED; draw(); });
  byId("other-map").addEventListener("click", () => onToggle(OTHER, true));
  draw();
}

const byKey = (a, b) => (a < 0) - (b < 0) || a - b; // what is not known, below 0, comes last
const labelled = (label, field) => el("label", { class: "field" }, el("span", { class: "visually-hidden" }, label), field);

/** A select of the keys that rows have, the most frequent first, each with how many. */
function choice(rows, keyOf, all, textOf) {
  const tally = new Map();
  for (const i of rows) tally.set(keyOf(i), (tally.get(keyOf(i)) ?? 0) + 1);
  const options = [...tally].sort((a, b) => (a[0] < 0) - (b[0] < 0) || b[1] - a[1] || a[0] - b[0]);
  return el("select", {}, el("option", { value: "" }, `${all} (${integer.format(rows.length)})`),
    ...options.map(([key, n]) => el("option", { value: key }, `${textOf(key)} (${integer.format(n)})`)));
}

function sortCards(report, cards, by) {
  const names = new Intl.Collator(undefined, { numeric: true });
  const byName = (a, b) => (a.name === null) - (b.name === null) || names.compare(a.label, b.label);
  const bySize = (a, b) => b.size - a.size || a.id - b.id;
  const order = [...cards.keys()].map((id) => report.clusters.get(id)).sort(by === "name" ? byName : bySize);
  byId("cards").replaceChildren(...underGroups(report, order).flatMap(({ group, clusters }) =>
    clusters.length ? [...groupHeading(report, group, "h3"), ...clusters.map(({ id }) => cards.get(id))] : []));
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
        note.novel && cluster.id !== OTHER ? el("span", { class: "flag" }, "unlike anything in training") : null,
        note.assigned ? el("span", { class: "flag" }, "assigned from between clusters") : null)),
    ...membership(report, chosen, cluster, note),
    attributeList(report, chosen, note),
    near.length ? el("h3", {}, "Nearest on the map") : el("p", { class: "sub" }, "This picture is not among those on the map."),
    el("ul", { class: "image-list" }, ...near.map((i) => imageRow(report, i, onChoose))),
    pictureless ? el("p", { class: "sub" }, "Some pictures are not in this report: the model keeps only typical ones, or there was no room.") : null,
  ].filter(Boolean));
}

/** How sure the model is of the cluster, and which others it thought of. */
function membership(report, chosen, cluster, note) {
  const probability = report.images.probability[chosen];
  const parts = [];
  if (probability !== 255 && cluster.id !== OTHER) {
    parts.push(meter("Probability", probability / 254, colourOf(report, cluster.id)));
  } else if (cluster.id === OTHER) {
    const reason = report.reasons[note.reason];
    parts.push(el("p", { class: "sub" }, reason ? `In no cluster: ${reason.about}.` : "In no cluster."));
    if (note.candidates?.length) parts.push(el("h3", {}, "Nearest clusters"));
  }
  for (const [id, score] of note.candidates ?? []) {
    const other = report.clusters.get(id);
    const name = shortened(other?.label ?? `Cluster ${id}`, 40);
    const label = cluster.id === OTHER ? name : `or ${name}`;
    if (id !== cluster.id) parts.push(meter(label, score, colourOf(report, id)));
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
