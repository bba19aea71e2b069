// Parts that show one entry, wherever it stands.

import { get } from "/knowledge/api.js";
import { el, lazy, quoted, when } from "/knowledge/dom.js";
import { may } from "/knowledge/me.js";
import { evidenceWords, findingWords, kindWords, sourceWords } from "/knowledge/words.js";

/** What the entry speaks of, for a heading. */
export function titleOf(entry) {
  const [first] = Object.values(entry.payload);
  return el("span", {}, el("span", { class: "kind" }, kindWords(entry.kind)), " ", quoted(String(first)));
}

/** Who said it, when, and what it is for. */
export function about(entry, times) {
  const parts = [
    `from ${sourceWords(entry.source)}: ${entry.by}`,
    when(entry.at),
    `trust: ${entry.trust}`,
    entry.area ? `area: ${entry.area}` : "all areas",
  ];
  if (times !== undefined) parts.unshift(times === 1 ? "seen once" : `seen ${times} times`);
  if (entry.valid_from || entry.valid_to) {
    parts.push(`valid ${entry.valid_from || "…"} to ${entry.valid_to || "…"}`);
  }
  return el("p", { class: "about" }, quoted(parts.join(" · ")));
}

/** The payload, a field a row. */
export function fieldsOf(entry) {
  const list = el("dl");
  const add = (name, text) => text && list.append(el("dt", {}, name), el("dd", {}, quoted(text)));
  for (const [name, value] of Object.entries(entry.payload)) {
    add(name, Array.isArray(value) ? value.join("\n") : value);
  }
  add("triggers", entry.triggers.join("\n"));
  add("depends on", entry.depends_on.map((item) => item.name).join(", "));
  add("made from", entry.parents.join(", "));
  return list;
}

/** What the lint found; null without anything. */
export function findingsOf(findings) {
  if (!findings.length) return null;
  const items = findings.map((code) => el("li", {}, findingWords(code), " ", el("code", {}, code)));
  return el(
    "div",
    { class: "findings" },
    el("p", {}, "It cannot be confirmed as it stands. Edit it, or reject it."),
    el("ul", {}, ...items),
  );
}

/** What speaks for it and against it, oldest first; the same again is counted. */
export function evidenceOf(evidence) {
  const counts = new Map();
  for (const one of evidence) {
    const words = `${evidenceWords(one.what)} (${one.by})`;
    counts.set(words, (counts.get(words) ?? 0) + 1);
  }
  const parts = [...counts].map(([words, times]) => (times > 1 ? `${words} ${times} times` : words));
  return el("p", { class: "about evidence" }, quoted(`Evidence: ${parts.join(" · ") || "none"}`));
}

/** Where an entry can be erased; empty where the key may not. */
export function eraseLink(entry) {
  if (!may("POST erase")) return "";
  return el("p", {}, el("a", { href: `#erase/${encodeURIComponent(entry.id)}` }, "Erase …"));
}

/** An entry by its id, loaded when it is opened. `extra`: more parts for it. */
export function entryById(id, extra = () => []) {
  const fill = async () => {
    const { entry, evidence, findings } = await get(`entries/${encodeURIComponent(id)}`);
    const parts = [about(entry), findingsOf(findings), fieldsOf(entry), evidenceOf(evidence)];
    return [...parts.filter(Boolean), ...extra(entry), eraseLink(entry)];
  };
  return lazy(el("code", {}, id), fill, { class: "entry" });
}
