// The plan of the next release, and releasing it.

import { get, post } from "/knowledge/api.js";
import { act, el, refusalPlace } from "/knowledge/dom.js";
import { rejectForm } from "/knowledge/decide.js";
import { inLines } from "/knowledge/diff.js";
import { entryById } from "/knowledge/entry.js";
import { only } from "/knowledge/me.js";

const list = document.querySelector("#plan .list");
let retire = [];

export async function load() {
  const query = retire.length ? `?retire=${retire.map(encodeURIComponent).join(",")}` : "";
  show(await get(`releases/plan${query}`));
}

function show(plan) {
  const place = refusalPlace();
  const changes = plan.added.length + plan.removed.length > 0;
  const going = plan.removed.map((id) => el("li", {}, entryById(id)));
  const coming = plan.added.map((id) => el("li", {}, entryById(id, withdraw)));
  const behind = plan.behind.map(({ id, why }) =>
    el("li", {}, entryById(id, withdraw), el("span", { class: "why" }, why)),
  );
  list.replaceChildren(
    group("Coming", coming, "Nothing new is ready."),
    group("Going", going, "Nothing goes."),
    group("Staying behind", behind, "Nothing confirmed stays behind."),
    el("h3", {}, "Difference"),
    inLines(plan.diff),
    retireForm(place),
    changes ? releaseForm(plan, place) : el("p", { class: "empty" }, "There is nothing to release."),
    place,
  );
}

function group(title, items, none) {
  const body = items.length ? el("ul", { class: "entries" }, ...items) : el("p", { class: "empty" }, none);
  return el("div", {}, el("h3", {}, `${title} (${items.length})`), body);
}

/** An entry that is confirmed and not released can still be rejected. */
function withdraw(entry) {
  if (entry.status !== "confirmed") return [];
  const place = refusalPlace();
  return [rejectForm(entry, { place, done }), place];
}

function retireForm(place) {
  const field = el("input", { id: "retire", type: "text", autocomplete: "off", spellcheck: "false" });
  field.value = retire.join(", ");
  const button = el("button", { type: "submit" }, "Plan anew");
  const submit = (event) => {
    event.preventDefault();
    act(button, place, async () => {
      const before = retire;
      retire = field.value.split(/[\s,]+/).filter(Boolean);
      await load().catch((error) => {
        retire = before;
        throw error;
      });
      document.getElementById("retire").focus();
    });
  };
  return el(
    "form",
    { submit },
    el("label", { for: "retire" }, "Released entries to take out: their ids, with commas"),
    el("div", { class: "row" }, field, button),
  );
}

/** `digest` makes sure that what is released is what is shown. */
function releaseForm(plan, place) {
  const waivers = el("textarea", { id: "waive", rows: "3", spellcheck: "false" });
  const sign = el(
    "div",
    { hidden: true },
    el("label", { for: "waive" }, "Waivers for exactly this plan: a case and the reason on each line"),
    waivers,
  );
  const button = only("POST releases", el("button", { type: "submit", class: "main" }, "Release"));
  const submit = (event) => {
    event.preventDefault();
    act(button, place, async () => {
      const body = { retire, digest: plan.digest, waive: readWaivers(waivers.value) };
      const { name, cases } = await post("releases", body).catch((error) => {
        if (error.code === "release_blocked") sign.hidden = false;
        if (error.code === "plan_changed") error.after = () => again(error.message);
        throw error;
      });
      retire = [];
      await done(`${name} is released and in force; ${cases} golden cases were there to check it.`);
    });
  };
  return el("form", { id: "release", submit }, sign, button);
}

function readWaivers(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return lines.map((line) => {
    const [name, ...reason] = line.trim().split(/\s+/);
    return { case: name, reason: reason.join(" ") };
  });
}

/** The plan of now, with what was refused above it. */
async function again(message) {
  await load();
  list.prepend(el("p", { class: "refusal", role: "alert" }, `${message} This is the plan of now.`));
}

async function done(words) {
  document.dispatchEvent(new CustomEvent("done", { detail: words }));
  await load();
  document.getElementById("said").focus();
}
