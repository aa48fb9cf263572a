/* Elements made by code alone: whatever a tag says is text, or the `src` of a picture that the server let pass. */

export const OTHER = -1;
const SMALL = 320; // px; drawings and stickers are shown whole, photographs fill their tile
export const byId = (id) => document.getElementById(id);
export const integer = new Intl.NumberFormat("en");
export const percent = (share) => (Number.isFinite(Number(share)) ? `${Math.round(Number(share) * 100)} %` : "–");
export const count = (n, what) => `${integer.format(n)} ${what}${n === 1 ? "" : "s"}`;

/** An element. `on…` are listeners, `hue` and `share` set what the style sheet reads, a false value leaves out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "cluster") colour(node, value);
    else if (name === "share") node.style.setProperty("--share", `${100 * Math.min(1, Math.max(0, Number(value) || 0))}%`);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Colours by number, a golden angle apart: neighbours in the count are far apart in hue. "Other" is grey. */
export function colour(node, cluster) {
  const other = Number(cluster) === OTHER;
  node.style.setProperty("--h", ((Number(cluster) || 0) * 137.508 + 255) % 360);
  node.style.setProperty("--chroma", other ? 0 : 0.15);
}

export const label = (cluster, name) => (Number(cluster) === OTHER ? "Other" : String(name ?? `Cluster ${cluster}`));

export function named(cluster, name) {
  return el("bdi", { class: (name === null || name === undefined) && Number(cluster) !== OTHER && "unnamed" }, label(cluster, name));
}

/** A picture, or a plain field of its cluster's colour where there is none or it cannot be loaded. */
export function picture(item, alt = "") {
  const blank = () => el("span", { class: "no-picture", role: alt && "img", "aria-label": alt || false });
  if (!item.image) return blank();
  const image = el("img", { alt, decoding: "async", referrerpolicy: "no-referrer", draggable: "false" });
  image.addEventListener("load", () => {
    const small = Math.max(image.naturalWidth, image.naturalHeight) <= SMALL;
    image.classList.add("there", ...(small ? ["small"] : []));
  }, { once: true });
  image.addEventListener("error", () => image.replaceWith(blank()), { once: true });
  image.src = item.image;
  return image;
}

export const key = (item) => `${item.tagged_at} ${item.id}`;

export function ago(ms) {
  const seconds = Math.max(0, (Date.now() - ms) / 1000);
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}
