// Golden cases: list, add, take away.

import { get, post } from "/knowledge/api.js";
import { act, chooser, el, labelled, lines, quoted, refusalPlace } from "/knowledge/dom.js";
import { only } from "/knowledge/me.js";

const PAGE = 200;
const list = document.querySelector("#cases .list");
const KINDS = ["golden", "near_miss", "poison"];
const READS = ["context", "answer"];

export async function load() {
  const rows = [];
  let after = "";
  do {
    const reply = await get(`cases?limit=${PAGE}${after && `&after=${encodeURIComponent(after)}`}`);
    rows.push(...reply.data);
    after = reply.next;
  } while (after);
  const none = el("p", { class: "empty" }, "There is no case yet: a release is checked by nothing but the rules.");
  list.replaceChildren(addForm(), ...(rows.length ? rows.map(card) : [none]));
}

function card(row) {
  const place = refusalPlace();
  const fields = el("dl");
  const add = (name, text) => text && fields.append(el("dt", {}, name), el("dd", {}, quoted(text)));
  add("question", row.question);
  add("expect", row.expect.join("\n"));
  add("forbid", row.forbid.join("\n"));
  const about = `${row.area ? `area: ${row.area}` : "all areas"} · looks at the ${row.reads} · by ${row.by}`;
  const step = async () => {
    await post("cases", { id: row.id, remove: true });
    await done(`The case ${row.id} is taken away.`);
  };
  const press = (event) => act(event.target, place, step);
  const button = el("button", { type: "button", class: "danger", click: press }, "Take away");
  return el(
    "article",
    { "data-case": row.id },
    el("h3", {}, el("span", { class: "kind" }, row.kind.replaceAll("_", " ")), " ", quoted(row.id)),
    el("p", { class: "about" }, quoted(about)),
    fields,
    el("div", { class: "steps" }, only("POST cases", button)),
    place,
  );
}

function addForm() {
  const place = refusalPlace();
  const text = (id) => el("input", { id, type: "text", autocomplete: "off", spellcheck: "false" });
  const many = (id) => el("textarea", { id, rows: "2", spellcheck: "false" });
  const question = text("case-question");
  const [expect, forbid] = [many("case-expect"), many("case-forbid")];
  const [area, name] = [text("case-area"), text("case-id")];
  const [kind, reads] = [chooser("case-kind", KINDS), chooser("case-reads", READS)];
  const button = only("POST cases", el("button", { type: "submit", class: "main" }, "Add the case"));
  const step = async () => {
    const body = {
      question: question.value,
      expect: lines(expect.value),
      forbid: lines(forbid.value),
      kind: kind.value,
      reads: reads.value,
      area: area.value.trim(),
      id: name.value.trim(),
    };
    const { id } = await post("cases", body);
    await done(`The case ${id} is there.`);
  };
  const submit = (event) => {
    event.preventDefault();
    act(button, place, step);
  };
  const form = el(
    "form",
    { id: "add-case", class: "body", submit },
    ...labelled("Question", question),
    ...labelled("Must be there: ids of entries or texts, one a line", expect),
    ...labelled("Must not be there, one a line", forbid),
    ...labelled("Look at", reads),
    ...labelled("Kind", kind),
    ...labelled("Area; empty: none", area),
    ...labelled("Name; the case of the same name is replaced; empty: one is made", name),
    button,
    place,
  );
  return el("details", { class: "step add" }, el("summary", {}, "Add a case"), form);
}

async function done(words) {
  document.dispatchEvent(new CustomEvent("done", { detail: words }));
  await load();
  document.getElementById("said").focus();
}
