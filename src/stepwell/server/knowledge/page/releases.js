// All releases, and rolling back to one.

import { get, post } from "/knowledge/api.js";
import { act, count, el, lazy, quoted, refusalPlace, when } from "/knowledge/dom.js";
import { inLines } from "/knowledge/diff.js";
import { entryById } from "/knowledge/entry.js";
import { only } from "/knowledge/me.js";

const list = document.querySelector("#releases .list");

export async function load() {
  const { current, releases } = await get("releases");
  const nodes = releases.reverse().map((made) => card(made, current));
  list.replaceChildren(...(nodes.length ? nodes : [el("p", { class: "empty" }, "There is no release yet.")]));
}

function card(made, current) {
  const inForce = made.name === current;
  const title = el("h3", {}, made.name, " ", inForce ? el("span", { class: "badge" }, "in force") : "");
  const changes = `${count(made.added.length, "entry", "entries")} came, ${made.removed.length} went`;
  const about = el("p", { class: "about" }, quoted(`by ${made.by} · ${when(made.at)} · ${changes}`));
  const parts = [title, about, changed(made)];
  if (!inForce) parts.push(rollback(made.name, current));
  return el("article", { "data-release": made.name, "aria-current": inForce && "true" }, ...parts);
}

function changed(made) {
  return lazy("What it changed", async () => {
    const { diff } = await get(`releases/${encodeURIComponent(made.name)}/diff`);
    const came = made.added.map((id) => el("li", {}, "came: ", entryById(id)));
    const went = made.removed.map((id) => el("li", {}, "went: ", el("code", {}, id)));
    return [el("ul", { class: "entries" }, ...came, ...went), inLines(diff)];
  });
}

/** What would change is shown before the button that does it. */
function rollback(name, current) {
  const fill = async () => {
    const query = `against=${encodeURIComponent(current)}`;
    const { diff } = await get(`releases/${encodeURIComponent(name)}/diff?${query}`);
    const place = refusalPlace();
    const step = async () => {
      await post("releases/rollback", { to: name });
      document.dispatchEvent(new CustomEvent("done", { detail: `${name} is in force.` }));
      await load();
      document.getElementById("said").focus();
    };
    const press = (event) => act(event.target, place, step);
    const button = el("button", { type: "button", class: "danger", click: press }, `Roll back to ${name}`);
    only("POST releases/rollback", button);
    return [el("p", {}, `From ${current} to ${name}:`), inLines(diff), button, place];
  };
  return lazy(`Roll back to ${name} …`, fill, { class: "step" });
}
