// Candidates, best suggestion first.

import { get } from "/knowledge/api.js";
import { act, el, lazy, quoted, refusalPlace } from "/knowledge/dom.js";
import { confirmButton, editForm, rejectForm } from "/knowledge/decide.js";
import { sideBySide } from "/knowledge/diff.js";
import { about, eraseLink, evidenceOf, fieldsOf, findingsOf, titleOf } from "/knowledge/entry.js";

const PAGE = 50;
const section = document.getElementById("candidates");
const list = section.querySelector(".list");
const more = section.querySelector(".more");
let cards = new Map();
let next = null;

/** Load as many as are shown, at least a page. Cards that did not change stay, with what was typed. */
export async function load() {
  const wanted = Math.max(PAGE, Math.ceil(cards.size / PAGE) * PAGE);
  const rows = [];
  let after = "";
  let reply;
  do {
    reply = await get(`candidates?limit=${PAGE}${after && `&after=${encodeURIComponent(after)}`}`);
    rows.push(...reply.data);
    after = reply.next;
  } while (after && rows.length < wanted);
  const kept = cards;
  cards = new Map();
  show(rows, kept, reply);
}

function show(rows, kept, reply) {
  for (const row of rows) {
    const text = JSON.stringify(row);
    const old = kept.get(row.entry.id);
    cards.set(row.entry.id, old?.text === text ? old : { text, node: card(row) });
  }
  next = reply.next;
  more.hidden = !next;
  document.getElementById("waiting").textContent = `(${reply.waiting})`;
  const nodes = [...cards.values()].map((one) => one.node);
  list.replaceChildren(...(nodes.length ? nodes : [el("p", { class: "empty" }, "Nothing waits for a decision.")]));
}

/** The next key may be another's. */
export function forget() {
  cards = new Map();
  next = null;
  list.replaceChildren();
}

more.addEventListener("click", () => {
  const place = refusalPlace();
  more.after(place);
  act(more, place, async () => {
    const reply = await get(`candidates?limit=${PAGE}&after=${encodeURIComponent(next)}`);
    const rows = [...cards.values()].map((one) => JSON.parse(one.text));
    show([...rows, ...reply.data], cards, reply);
    place.remove();
  });
});

function card(row) {
  const { entry } = row;
  const place = refusalPlace();
  const boxes = row.contradicts.map((other) => replaceBox(other.id));
  const tools = {
    place,
    ready: row.findings.length === 0,
    supersedes: () => boxes.filter((box) => box.checked).map((box) => box.value),
    done: (words) => decided(entry.id, words),
  };
  const title = el("h3", { tabindex: "-1" }, titleOf(entry));
  const parts = [
    title,
    about(entry, row.times),
    findingsOf(row.findings),
    fieldsOf(entry),
    ...row.contradicts.map((other, i) => contradiction(other, entry, boxes[i])),
    evidenceOf(row.evidence),
    lazy("The whole entry, as it is stored", () => [
      el("pre", { tabindex: "0" }, quoted(row.markdown)),
      eraseLink(entry),
    ]),
    el(
      "div",
      { class: "steps" },
      confirmButton(entry, tools),
      editForm(entry, tools),
      rejectForm(entry, tools),
    ),
    place,
  ];
  return el("article", { "data-id": entry.id }, ...parts.filter(Boolean));
}

function replaceBox(id) {
  return el("input", { type: "checkbox", value: id });
}

function contradiction({ id, diff }, entry, box) {
  return el(
    "div",
    { class: "contradiction" },
    el("p", {}, "It contradicts ", el("code", {}, id), ". Only one of the two can be released."),
    sideBySide(diff, { old: `${id} (there already)`, fresh: `${entry.id} (this one)` }),
    el("label", { class: "box" }, box, " Confirming this one replaces ", el("code", {}, id)),
  );
}

/** Tell, load again, and put the focus where the list goes on. */
async function decided(id, words) {
  const place = [...cards.keys()].indexOf(id);
  document.dispatchEvent(new CustomEvent("done", { detail: words }));
  await load();
  const nodes = [...cards.values()];
  const heading = nodes[Math.min(place, nodes.length - 1)]?.node.querySelector("h3");
  (heading ?? document.getElementById("said")).focus();
}
