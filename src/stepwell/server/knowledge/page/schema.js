// The schema that entries depend on: what does not fit it, and telling what it is now.

import { get, post } from "/knowledge/api.js";
import { act, chooser, count, el, labelled, quoted, refusalPlace } from "/knowledge/dom.js";
import { entryById } from "/knowledge/entry.js";
import { only } from "/knowledge/me.js";

const DIALECTS = ["sqlite", "postgres", "mysql", "duckdb", "snowflake", "bigquery", "redshift", "tsql", "oracle"];
const list = document.querySelector("#schema .list");

export async function load() {
  const { hashes, unusable } = await get("schema");
  const names = Object.keys(hashes).sort();
  const known = names.length
    ? el("details", {}, el("summary", {}, `${count(names.length, "table, view or column", "tables, views and columns")} known`), el("pre", { tabindex: "0" }, quoted(names.join("\n"))))
    : el("p", { class: "empty" }, "No schema was told yet: nothing can be outdated.");
  list.replaceChildren(
    known,
    el("h3", {}, `Entries that do not fit it (${unusable.length})`),
    unusable.length
      ? el("ul", { class: "entries" }, ...unusable.map(outdated))
      : el("p", { class: "empty" }, "All entries in use fit it."),
    tellForm(),
  );
}

function outdated(id) {
  const place = refusalPlace();
  const step = async () => {
    await post(`entries/${encodeURIComponent(id)}/revalidate`);
    await done(`${id} holds under the schema of now, says this key.`);
  };
  const press = (event) => act(event.target, place, step);
  const button = el("button", { type: "button", click: press, "aria-label": `It still holds: ${id}` }, "It still holds");
  const parts = () => [el("div", { class: "steps" }, only("POST entries/{id}/revalidate", button)), place];
  return el("li", { "data-unusable": id }, entryById(id, parts));
}

/** What would change is shown before the button that tells it. */
function tellForm() {
  const place = refusalPlace();
  const shown = el("div", { id: "schema-change" });
  const ddl = el("textarea", { id: "ddl", rows: "10", spellcheck: "false", input: () => shown.replaceChildren() });
  const dialect = chooser("dialect", DIALECTS);
  dialect.addEventListener("change", () => shown.replaceChildren());
  const button = el("button", { type: "submit" }, "Show what would change");
  const submit = (event) => {
    event.preventDefault();
    shown.replaceChildren();
    act(button, place, async () => {
      const told = { ddl: ddl.value, dialect: dialect.value };
      const change = await post("schema", { ...told, preview: true });
      if (told.ddl === ddl.value && told.dialect === dialect.value) shown.replaceChildren(...changeOf(change, told));
    });
  };
  return el(
    "form",
    { id: "tell-schema", submit },
    el("h3", {}, "The schema of now"),
    ...labelled("All of it, as CREATE TABLE and CREATE VIEW: what is missing counts as gone", ddl),
    ...labelled("Dialect", dialect),
    only("POST schema", button),
    place,
    shown,
  );
}

function changeOf(change, told) {
  const place = refusalPlace();
  const step = async () => {
    const { became } = await post("schema", told);
    const left = became.length ? `: ${became.join(", ")}` : "";
    await done(`The schema is told. ${count(became.length, "entry", "entries")} became unusable${left}.`);
  };
  const press = (event) => act(event.target, place, step);
  const button = el("button", { type: "button", class: "main", click: press }, "This is the schema");
  return [
    ...group("Changed", change.changed),
    ...group("Gone", change.gone),
    ...group("New", change.new),
    el("h3", {}, `Entries that would become unusable (${change.became.length})`),
    change.became.length
      ? el("ul", { class: "entries" }, ...change.became.map((id) => el("li", {}, entryById(id))))
      : el("p", { class: "empty" }, "None."),
    el("div", { class: "steps" }, button),
    place,
  ];
}

function group(title, names) {
  if (!names.length) return [];
  return [el("h3", {}, `${title} (${names.length})`), el("pre", { tabindex: "0" }, quoted(names.join("\n")))];
}

async function done(words) {
  document.dispatchEvent(new CustomEvent("done", { detail: words }));
  await load();
  document.getElementById("said").focus();
}
