/* The page: the store feeds the lists; the address says what is shown. */

import { byId, count, el, integer, OTHER, percent } from "./dom.js";
import { Cards, One, River } from "./lists.js";
import { showTag } from "./sheet.js";
import { Store } from "./store.js";

const STEP_MS = 900;

const store = new Store(changed, state);
const river = new River();
const cards = new Cards(store);
const one = new One(store);

function changed(news) {
  byId("trouble").hidden = store.trouble === null;
  byId("trouble").textContent = store.trouble ?? "";
  river.take(news);
  cards.take();
  one.take();
  headline();
  byId("empty").hidden = store.clusters.size > 0 || store.trouble !== null;
  document.documentElement.dataset.ready = "true";
}

function headline() {
  const all = [...store.clusters.values()];
  const total = all.reduce((sum, { count: n }) => sum + n, 0);
  const recent = all.reduce((sum, { recent: n }) => sum + n, 0);
  const other = store.clusters.get(OTHER)?.count ?? 0;
  const tiles = [
    ["Pictures", integer.format(total)],
    ["Clusters", integer.format(all.filter(({ id }) => id !== OTHER).length)],
    ["In no cluster", total ? percent(other / total) : "–"],
    ["Last minute", integer.format(recent)],
  ];
  const box = byId("tiles");
  if (!box.childElementCount) box.append(...tiles.map(([name]) => el("div", {}, el("dt", {}, name), el("dd"))));
  tiles.forEach(([, value], i) => {
    const place = box.children[i].lastElementChild;
    if (place.textContent !== value) place.textContent = value;
  });
  const models = new Set(all.map(({ model }) => model));
  byId("colophon").textContent = store.taxonomy
    ? `Taxonomy ${store.taxonomy} · ${models.size === 1 ? "model" : "models"} ${[...models].slice(0, 3).join(", ")} · the view keeps the newest 10,000 of each cluster`
    : "";
}

function state(now) {
  byId("pulse").dataset.state = now === "live" && store.trouble ? "lost" : now;
  byId("state").textContent = now === "live" ? (store.trouble ? "Redis is down" : "Live") : "Connection lost, trying again";
}

/* ---- what the address says ---- */

const wish = () => {
  const [what, ...rest] = location.hash.slice(1).split("=");
  try {
    return [what, decodeURIComponent(rest.join("="))];
  } catch {
    return ["", ""];
  }
};
let behind = "#"; // what the upload's sheet lies over

function route() {
  const [what, value] = wish();
  if (what === "tag") return void showTag(value);
  if (what === "clusters") return;
  behind = location.hash || "#";
  if (byId("tag").open) byId("tag").close();
  const id = what === "cluster" && /^-?\d{1,10}$/.test(value) ? Number(value) : null;
  byId("all").hidden = id !== null;
  byId("one").hidden = id === null;
  byId("sorting").hidden = id !== null;
  if (id === null) one.hide();
  else if (one.id !== id) {
    one.show(id);
    window.scrollTo(0, 0);
  }
}

addEventListener("hashchange", route);
document.addEventListener("click", (event) => {
  const chosen = event.target.closest?.("button[data-id]");
  if (chosen) location.hash = `tag=${encodeURIComponent(chosen.dataset.id)}`;
});
byId("tag").addEventListener("close", () => {
  byId("tag").dataset.id = "";
  if (wish()[0] === "tag") history.replaceState(null, "", behind);
  route();
});
byId("tag").addEventListener("click", (event) => event.target === byId("tag") && byId("tag").close());
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest?.("input, select, dialog")) return;
  event.preventDefault();
  byId("search").focus();
});
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("search").value;
  if (!id) return;
  if (location.hash === `#tag=${encodeURIComponent(id)}`) route();
  else location.hash = `tag=${encodeURIComponent(id)}`;
});
byId("sort").addEventListener("change", (event) => cards.sort(event.target.value));

/* ---- colours ---- */

const themes = ["auto", "light", "dark"];
function setTheme(theme) {
  document.documentElement.style.colorScheme = theme === "auto" ? "light dark" : theme;
  byId("theme").lastElementChild.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
  byId("theme").setAttribute("aria-label", `Colours: ${theme === "auto" ? "system default" : theme}`);
  byId("theme").dataset.theme = theme;
}
byId("theme").addEventListener("click", () => {
  const theme = themes[(themes.indexOf(byId("theme").dataset.theme) + 1) % themes.length];
  setTheme(theme);
  try { localStorage.setItem("theme", theme); } catch { /* a private window */ }
});
let kept = null;
try { kept = localStorage.getItem("theme"); } catch { /* a private window */ }
setTheme(themes.includes(kept) ? kept : "auto");

byId("lede").textContent = "Uploads as they are tagged, grouped by what they show.";
setInterval(() => {
  if (document.hidden) return;
  river.step();
  cards.step();
}, STEP_MS);
route();
store.open();
