/* One upload: the picture, what its tag says, and why. */

import { byId, el, label, named, percent, picture } from "./dom.js";

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function when(text) {
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? String(text) : moment.format(ms);
}

function meter(title, share, cluster) {
  return el("div", { class: "meter", share, cluster }, el("span", {}, title), el("span", { class: "n" }, percent(share)), el("i", { "aria-hidden": "true" }));
}

const row = (name, value) => el("div", {}, el("dt", {}, el("bdi", {}, name)), el("dd", {}, el("bdi", {}, String(value))));

/** What the numbers mean, in a sentence. */
function why(tag) {
  const best = tag.candidates[0];
  if (tag.from_class) return ["It belongs to the class ", named(tag.cluster, tag.name), ", which was defined by examples or a phrase, and comes before the clusters."];
  if (tag.assigned) return ["It lies between clusters, and was put into the nearest, ", named(tag.cluster, tag.name), "."];
  if (tag.cluster >= 0) {
    const sure = tag.probability >= 0.9 ? "It lies well within" : tag.probability >= 0.5 ? "It lies within" : "It lies at the edge of";
    return [sure, " ", named(tag.cluster, tag.name), ", where pictures like it were when the model was trained."];
  }
  if (!best) return ["No cluster is near it."];
  return ["It lies in no cluster; the nearest is ", named(best.cluster, best.name), "."];
}

function fill(box, tag) {
  const close = el("button", { type: "button", class: "quiet small close", onclick: () => box.close() }, "Close");
  const where = el("a", { class: "chip", cluster: tag.cluster, href: `#cluster=${tag.cluster}` }, el("span", { class: "swatch", "aria-hidden": "true" }), named(tag.cluster, tag.name));
  const attributes = Object.entries(tag.attributes ?? {});
  box.replaceChildren(
    close,
    el("figure", { class: "hero", cluster: tag.cluster }, picture(tag, `the picture of upload ${tag.id}`)),
    el("div", { class: "details" },
      el("h2", {}, el("bdi", {}, tag.id)),
      el("p", { class: "chips" }, where, tag.novel && el("span", { class: "chip flag" }, "Novel"), tag.assigned && el("span", { class: "chip flag" }, "Assigned"), tag.from_class && el("span", { class: "chip flag" }, "Class")),
      el("p", { class: "why" }, why(tag), tag.novel && " It is unlike anything that the model was trained on."),
      meter("Probability", tag.probability, tag.cluster),
      tag.candidates.length > 0 && el("h3", {}, "Candidates"),
      tag.candidates.map((candidate) => meter(named(candidate.cluster, candidate.name), candidate.score, candidate.cluster)),
      el("h3", {}, "Tag"),
      el("dl", { class: "facts" },
        row("Uploaded", when(tag.uploaded_at)),
        row("Tagged", `${when(tag.tagged_at)}, ${tag.delay < 0 ? "at once" : `${tag.delay < 10 ? tag.delay.toFixed(2) : Math.round(tag.delay)} s later`}`),
        row("Model", tag.model),
        row("Taxonomy", tag.taxonomy),
        row("URL", tag.url ?? "left out of the tag")),
      attributes.length > 0 && el("h3", {}, "Attributes"),
      attributes.length > 0 && el("dl", { class: "facts" }, attributes.map(([name, value]) => row(name, value)))),
  );
}

function refuse(box, id, reason) {
  box.replaceChildren(
    el("button", { type: "button", class: "quiet small close", onclick: () => box.close() }, "Close"),
    el("div", { class: "details" }, el("h2", {}, el("bdi", {}, id)), el("p", { class: "why" }, reason)),
  );
}

/** Show an upload; the address keeps its id, so that it can be sent to somebody. */
export async function showTag(id) {
  const box = byId("tag");
  box.dataset.id = id;
  let answer;
  try {
    answer = await fetch(`/tag?${new URLSearchParams({ id })}`);
    const tag = await answer.json();
    if (box.dataset.id !== id) return; // another was asked for meanwhile
    if (answer.ok) fill(box, tag);
    else refuse(box, id, `${tag.error}`);
  } catch (error) {
    refuse(box, id, `Loading failed: ${error.message}`);
  }
  box.setAttribute("aria-label", `Upload ${id}, ${label(0, "its tag")}`);
  if (!box.open) box.showModal();
  box.scrollTop = 0;
}
