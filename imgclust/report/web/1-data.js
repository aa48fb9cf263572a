/* The payload → typed arrays and lists, and the few helpers that every part uses.
   Everything in it is somebody else's text: it reaches the page as text nodes, never as markup. */

const OTHER = -1;
const MOSTLY = 0.6; // a share that makes "mostly" true without a doubt

/** Make an element. Text goes in as text; there is no way to pass markup. */
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "colour") node.style.setProperty("--c", value);
    else if (key === "share") node.style.setProperty("--share", `${(100 * value).toFixed(2)}%`);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);
const integer = new Intl.NumberFormat("en-US");
const count = (n, one, many = `${one}s`) => `${integer.format(n)} ${n === 1 ? one : many}`;
/** Where the pictures are: "16 pictures: 12 in 3 clusters, 4 in no cluster". */
function whereabouts(inClusters, clusters, inNone) {
  const all = count(inClusters + inNone, "picture");
  if (!inClusters) return inNone ? `${all} in no cluster` : "No pictures";
  if (!inNone) return `${all} in ${count(clusters, "cluster")}`;
  return `${all}: ${integer.format(inClusters)} in ${count(clusters, "cluster")}, ${integer.format(inNone)} in no cluster`;
}

const percent = (x) => (x > 0 && x < 0.001 ? "< 0.1 %" : `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`);

/** A name for one line of a canvas: no control or direction characters, not long. */
function shortened(text, limit) {
  const line = text.replace(/[\p{C}\p{Zl}\p{Zp}]+/gu, " ").trim();
  const letters = Array.from(line);
  return letters.length > limit ? `${letters.slice(0, limit - 1).join("")}…` : line;
}

function unpack(base64, Type) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Type(bytes.buffer);
}

/** Read the payload. Images are numbered; the first `placed` of them have a place on the map. */
function readReport() {
  const raw = JSON.parse(byId("report-data").textContent);
  const ids = raw.images.ids;
  const images = {
    ids,
    n: ids.length,
    placed: raw.images.placed,
    x: unpack(raw.images.x, Uint16Array),
    y: unpack(raw.images.y, Uint16Array),
    cluster: unpack(raw.images.cluster, Int32Array),
    probability: unpack(raw.images.probability, Uint8Array), // 255: not known
    thumbs: new Map(raw.images.thumbs),
    notes: new Map(raw.images.notes),
  };
  const facets = raw.facets.map((facet) => ({ ...facet, codes: unpack(facet.codes, Uint16Array) }));
  const clusters = new Map();
  for (const cluster of raw.clusters) {
    cluster.makeUp = makeUp(images, facets[0], cluster.id);
    cluster.label = cluster.name ?? stopgap(cluster);
    clusters.set(cluster.id, cluster);
  }
  clusters.set(OTHER, {
    id: OTHER, name: null, label: "Other", size: raw.other, pictures: [], borderline: [], random: [], light: "#a8a39b", dark: "#5d6067",
  });
  const haystack = ids.map((id, i) => {
    const facetValues = facets.map((facet) => facet.values[facet.codes[i]] ?? "").join("\n");
    const others = (images.notes.get(i)?.attributes ?? []).map(([, value]) => value).join("\n");
    const label = clusters.get(images.cluster[i])?.label ?? "";
    return [id, label, facetValues, others].join("\n").normalize("NFC").toLowerCase();
  });
  return { ...raw, images, clusters, facets, haystack };
}

/** Which values of a facet a cluster is made of, as [value, share], the largest first: birds 0.92, fish 0.05. */
function makeUp({ cluster, placed }, facet, id) {
  const tally = new Map();
  let total = 0;
  for (let i = 0; i < placed; i++) {
    if (cluster[i] !== id || !facet || facet.codes[i] >= facet.values.length) continue;
    tally.set(facet.codes[i], (tally.get(facet.codes[i]) ?? 0) + 1);
    total++;
  }
  return [...tally].sort((a, b) => b[1] - a[1]).map(([code, n]) => [facet.values[code], n / total]);
}

/** What to call a cluster that has no name: by what most of it is, if that is known, else by its number. */
function stopgap({ id, makeUp: [most] }) {
  return most && most[1] >= MOSTLY ? `mostly ${most[0]}` : `Cluster ${id}`;
}

function thumbnail(report, i) {
  const data = report.images.thumbs.get(i);
  return data ? `data:image/webp;base64,${data}` : null;
}

/** A picture of image i, or a quiet square in its cluster's colour where the model keeps none. */
function picture(report, i, alt = "") {
  const source = thumbnail(report, i);
  if (source) return el("img", { src: source, alt, loading: "lazy", decoding: "async", width: 128, height: 128 });
  return el("span", { class: "no-picture", "aria-hidden": "true", colour: colourOf(report, report.images.cluster[i]) });
}

/** The colour of a cluster as a CSS value that follows the theme. */
function colourOf(report, id) {
  const cluster = report.clusters.get(id) ?? report.clusters.get(OTHER);
  return `light-dark(${cluster.light}, ${cluster.dark})`;
}
