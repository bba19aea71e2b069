// Taking an entry out of everything that is kept.

import { get, post } from "/knowledge/api.js";
import { about, fieldsOf, titleOf } from "/knowledge/entry.js";
import { act, chooser, count, el, labelled, refusalPlace } from "/knowledge/dom.js";
import { only } from "/knowledge/me.js";

const list = document.querySelector("#erase .list");

/** `#erase/ID` names the entry. */
export async function load() {
  const place = refusalPlace();
  const shown = el("div", { id: "to-erase" });
  const field = el("input", { id: "erase-id", type: "text", autocomplete: "off", spellcheck: "false" });
  field.value = decodeURIComponent(location.hash.split("/")[1] ?? "");
  const button = el("button", { type: "submit" }, "Show it");
  const look = () =>
    act(button, place, async () => {
      shown.replaceChildren();
      const id = field.value.trim();
      const { entry, history } = await get(`entries/${encodeURIComponent(id)}`);
      shown.replaceChildren(...confirmed(entry, history));
    });
  const submit = (event) => {
    event.preventDefault();
    look();
  };
  const form = el(
    "form",
    { submit },
    el("label", { for: field.id }, "Id of the entry"),
    el("div", { class: "row" }, field, button),
    place,
  );
  list.replaceChildren(form, shown);
  if (field.value) await look();
}

/** The entry, and a form that wants its id typed. */
function confirmed(entry, history) {
  const place = refusalPlace();
  const releases = history.filter((one) => one.markdown).map((one) => one.release);
  const which = chooser("erase-history", {
    keep: "Out of use; older releases in git still hold it and show it to nobody",
    erase: "Out of older releases too: they are written anew",
  });
  const typed = el("input", { id: "erase-typed", type: "text", autocomplete: "off", spellcheck: "false" });
  const button = only("POST erase", el("button", { type: "submit", class: "danger" }, "Erase"));
  const step = async () => {
    if (typed.value.trim() !== entry.id) throw new Error(`Type ${entry.id} to erase it.`);
    report(entry.id, which.value, await post("erase", { id: entry.id, history: which.value }));
  };
  const submit = (event) => {
    event.preventDefault();
    act(button, place, step);
  };
  const came = releases.length ? `It came with ${releases.join(", ")}.` : "It was never released.";
  const form = el(
    "form",
    { submit },
    ...labelled("What is done", which),
    ...labelled(`Type ${entry.id}: it cannot come back`, typed),
    button,
    place,
  );
  return [
    el("article", { "data-erase": entry.id }, el("h3", {}, titleOf(entry)), about(entry), fieldsOf(entry), el("p", {}, came), form),
  ];
}

/** What the server says was done, and what is left to others. */
function report(id, history, { derived, notes, kv_chunks: chunks }) {
  const rows = [
    history === "erase"
      ? "Its rows, words and vectors are gone, and every release is written anew without it."
      : "Its rows, words and vectors are gone. Older releases in git still hold it and show it to nobody.",
    `${count(notes, "note of a session", "notes of sessions")} went with it.`,
    `${count(chunks ?? 0, "block or chunk", "blocks and chunks")} of computed context ${chunks === 1 ? "was" : "were"} dropped.`,
    "Backups, clones and exports are not reached.",
  ].map((words) => el("li", {}, words));
  const made = derived.map((name) =>
    el("li", {}, "It was made from this entry and may repeat it: ", el("a", { href: `#erase/${encodeURIComponent(name)}` }, name)),
  );
  document.dispatchEvent(new CustomEvent("done", { detail: `Erased: ${id}.` }));
  list.replaceChildren(el("ul", { id: "erased" }, ...rows, ...made));
  document.getElementById("said").focus();
}
