// Unified diffs of the server, side by side or in lines.

import { el, quoted } from "/knowledge/dom.js";

/** Two columns: `old` on the left. Lines that changed together stand beside each other. */
export function sideBySide(text, { old, fresh }) {
  const body = el("tbody");
  let gone = [];
  let come = [];
  const flush = () => {
    for (let i = 0; i < Math.max(gone.length, come.length); i++) {
      body.append(el("tr", {}, cell(gone[i], "gone"), cell(come[i], "come")));
    }
    gone = [];
    come = [];
  };
  for (const line of text.split("\n").slice(2)) {
    if (line.startsWith("-")) gone.push(line.slice(1));
    else if (line.startsWith("+")) come.push(line.slice(1));
    else {
      flush();
      if (line.startsWith(" ")) body.append(el("tr", {}, cell(line.slice(1)), cell(line.slice(1), "same")));
    }
  }
  flush();
  const head = el("tr", {}, el("th", { scope: "col" }, old), el("th", { scope: "col" }, fresh));
  return el("table", { class: "sides" }, el("thead", {}, head), body);
}

function cell(line, kind = "") {
  if (line === undefined) return el("td", { class: "none" });
  const mark = { gone: "− ", come: "+ " }[kind] ?? "";
  return el("td", { class: kind }, el("span", { class: "mark" }, mark), quoted(line.replace(/^\| /, "")));
}

/** As it is, with colours. */
export function inLines(text) {
  if (!text.trim()) return el("p", { class: "note" }, "No difference.");
  const lines = text.replace(/\n+$/, "").split("\n");
  return el("pre", { class: "diff", tabindex: "0", "aria-label": "Difference" }, ...lines.map(lineOf));
}

function lineOf(line) {
  let kind = "";
  if (/^(---|\+\+\+) \S/.test(line) && line.includes(".md")) kind = "file";
  else if (line.startsWith("@@")) kind = "place";
  else if (line.startsWith("+")) kind = "come";
  else if (line.startsWith("-")) kind = "gone";
  return el("span", { class: kind }, quoted(line), "\n");
}
