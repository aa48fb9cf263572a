/* What the reader has asked for, and how the parts follow it. */

function start() {
  const report = readReport();
  const { images } = report;
  const state = { query: "", only: new Set(), facet: report.facets.map(() => -1), chosen: -1, results: false };

  let theme = "auto";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  dress();
  fillHeadline(report);
  fillFigures(report);

  const map = new ImageMap(report, byId("map"), (i) => choose(i), hover);
  const legend = fillLegend(report, { onToggle: toggle, onHot: (id) => { map.hot = id; map.draw(); } });
  const selects = fillFacets(report, (index, code) => { state.facet[index] = code; update(); });
  const cards = fillCards(report, { onChoose: (i) => choose(i, true), onToggle: toggle });
  fillOther(report, { onChoose: (i) => choose(i, true), onToggle: toggle });
  const sort = byId("sort");
  sort.addEventListener("change", () => sortCards(report, cards, sort.value));
  sortCards(report, cards, "size");

  // ---- search and filters -------------------------------------------------------------------------

  function matches() {
    const words = state.query.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
    const mask = new Uint8Array(images.n);
    for (let i = 0; i < images.n; i++) {
      mask[i] = Number((!state.only.size || state.only.has(images.cluster[i]))
        && report.facets.every((facet, f) => state.facet[f] < 0 || facet.codes[i] === state.facet[f])
        && words.every((word) => report.haystack[i].includes(word)));
    }
    return mask;
  }

  function update() {
    const mask = matches();
    const rows = [];
    const clusters = new Set();
    for (let i = 0; i < images.n; i++) if (mask[i]) { rows.push(i); clusters.add(images.cluster[i]); }
    const searching = Boolean(state.query.trim()) || state.facet.some((code) => code >= 0);
    const filtering = searching || state.only.size > 0;
    map.show(mask);
    for (const [id, button] of legend) {
      button.setAttribute("aria-pressed", String(state.only.has(id)));
      button.classList.toggle("faded", filtering && !clusters.has(id) && !state.only.has(id));
    }
    for (const [id, card] of cards) card.hidden = filtering && !clusters.has(id);
    byId("clear").hidden = !filtering;
    const groups = clusters.size - Number(clusters.has(OTHER));
    const inNone = rows.filter((i) => images.cluster[i] === OTHER).length;
    const where = whereabouts(rows.length - inNone, groups, inNone);
    byId("found").textContent = filtering ? where + (report.sampled ? ", of those on the map" : "") : "";
    state.results = searching;
    if (searching) fillResults(report, rows, (i) => choose(i, true));
    arrange();
  }

  function toggle(id, alone = false) {
    if (alone) state.only = new Set([id]);
    else if (!state.only.delete(id)) state.only.add(id);
    update();
    map.fit([...state.only].flatMap((c) => map.byCluster.get(c) ?? []));
    if (alone) { choose(-1); byId("map-card").scrollIntoView({ block: "nearest" }); }
  }

  function clear() {
    Object.assign(state, { query: "", only: new Set(), facet: state.facet.map(() => -1) });
    byId("search").value = "";
    for (const select of selects) select.value = "-1";
    update();
    map.fit([]);
  }

  let typing = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.query = event.target.value; update(); }, 80);
  });
  byId("clear").addEventListener("click", () => { clear(); byId("search").focus(); });

  // ---- one picture --------------------------------------------------------------------------------

  let cameFrom = null;

  function choose(i, bring = false) {
    if (i >= 0 && state.chosen < 0) cameFrom = document.activeElement;
    state.chosen = i;
    map.chosen = i;
    map.near = i < 0 ? [] : neighbours(report, i);
    if (i >= 0) {
      fillInspector(report, i, map.near, { onChoose: (j) => choose(j, true), onClose: () => choose(-1), onToggle: toggle });
      byId("announce").textContent = `Chosen: ${images.ids[i]}, in ${report.clusters.get(images.cluster[i])?.label ?? "other"}`;
      if (bring && i < images.placed) map.fit([i, ...map.near], Math.max(5, map.view.k));
      if (!bring && narrow.matches) byId("map-card").scrollIntoView(); // above the sheet that opens
    }
    arrange();
    byId("inspector").scrollTop = 0;
    if (bring) {
      byId("inspector").focus({ preventScroll: true });
      if (!narrow.matches) byId("map-card").scrollIntoView({ block: "nearest" });
    } else if (i < 0 && cameFrom?.isConnected) {
      cameFrom.focus({ preventScroll: true });
      cameFrom = null;
    }
    map.draw();
  }

  function arrange() {
    byId("inspector").hidden = state.chosen < 0;
    byId("results").hidden = state.chosen >= 0 || !state.results;
    byId("legend").hidden = state.chosen >= 0 || state.results;
  }

  function hover(i, px = 0, py = 0) {
    const tip = byId("tip");
    tip.hidden = i < 0;
    map.canvas.style.cursor = i < 0 ? "" : "pointer";
    if (i < 0) { tip.dataset.image = ""; return; }
    if (tip.dataset.image !== String(i)) {
      tip.dataset.image = i;
      const cluster = report.clusters.get(images.cluster[i]);
      tip.replaceChildren(picture(report, i), el("div", {},
        el("bdi", { class: "image-id" }, images.ids[i]),
        el("span", { class: "sub" }, swatch(report, cluster.id), named(cluster))));
    }
    const right = px > map.w / 2;
    tip.style.left = right ? "" : `${px + 14}px`;
    tip.style.right = right ? `${map.w - px + 14}px` : "";
    tip.style.top = `${Math.max(8, Math.min(map.h - tip.offsetHeight - 8, py - 20))}px`;
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.chosen >= 0) choose(-1);
    const typingNow = event.target.closest?.("input, select, textarea");
    if (event.key === "/" && !typingNow && !event.ctrlKey && !event.metaKey) { event.preventDefault(); byId("search").focus(); }
  });

  // ---- how the map looks --------------------------------------------------------------------------

  function look(pictures) {
    map.pictures = pictures;
    byId("as-dots").setAttribute("aria-pressed", String(!pictures));
    byId("as-pictures").setAttribute("aria-pressed", String(pictures));
    map.draw();
  }
  byId("as-dots").addEventListener("click", () => look(false));
  byId("as-pictures").addEventListener("click", () => look(true));
  byId("zoom-in").addEventListener("click", () => map.zoomAt(map.w / 2, map.h / 2, 1.6));
  byId("zoom-out").addEventListener("click", () => map.zoomAt(map.w / 2, map.h / 2, 1 / 1.6));
  byId("zoom-reset").addEventListener("click", () => map.fit([]));

  const narrow = window.matchMedia("(max-width: 860px)");
  const themes = ["auto", "light", "dark"];
  byId("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    dress();
    map.draw();
  });
  system.addEventListener("change", () => { dress(); map.draw(); });

  function dress() {
    const shown = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    document.documentElement.style.colorScheme = shown;
    document.documentElement.dataset.theme = shown;
    byId("theme").lastElementChild.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
    byId("theme").setAttribute("aria-label", `Colours: ${theme === "auto" ? "system default" : theme}`);
  }

  update();
  map.paint();
  document.documentElement.dataset.ready = "true";
}

start();
