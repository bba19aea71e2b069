// Which view is shown, and the key.

import { key } from "/knowledge/api.js";
import * as me from "/knowledge/me.js";
import { forget as forgetCandidates, load as loadCandidates } from "/knowledge/candidates.js";
import { load as loadCases } from "/knowledge/cases.js";
import { load as loadErase } from "/knowledge/erase.js";
import { load as loadPlan } from "/knowledge/plan.js";
import { load as loadReleases } from "/knowledge/releases.js";
import { load as loadSchema } from "/knowledge/schema.js";

const VIEWS = {
  candidates: loadCandidates,
  plan: loadPlan,
  releases: loadReleases,
  cases: loadCases,
  schema: loadSchema,
  erase: loadErase,
};
const by = (id) => document.getElementById(id);
const said = by("said");
const trouble = by("trouble");
const askKey = by("ask-key");
said.tabIndex = -1;

function view() {
  const [name] = location.hash.slice(1).split("/");
  return name in VIEWS ? name : "candidates";
}

/** Show the view of the address; its data is of now. */
async function show() {
  trouble.textContent = "";
  document.title = `${by(`${view()}-title`).textContent} – Knowledge – Stepwell`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    await me.load();
    document.querySelector('nav a[href="#erase"]').hidden = !me.may("POST erase");
    await VIEWS[view()]();
    if (askKey.hidden) for (const name in VIEWS) by(name).hidden = name !== view();
  } catch (error) {
    if (error.status !== 401) trouble.textContent = error.message;
  }
}

/** Nothing of the tenant stays on the page while a key is asked for. */
function wantKey(words) {
  key.forget();
  for (const list of document.querySelectorAll("section .list")) list.replaceChildren();
  for (const name in VIEWS) by(name).hidden = true;
  by("waiting").textContent = "";
  me.forget();
  forgetCandidates();
  document.querySelector("nav").hidden = true;
  document.querySelector(".tools").hidden = true;
  askKey.hidden = false;
  trouble.textContent = words;
  by("key").focus();
}

function enter() {
  askKey.hidden = true;
  document.querySelector("nav").hidden = false;
  document.querySelector(".tools").hidden = false;
  by("forget").hidden = !key.get();
  return show();
}

askKey.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = by("key").value.trim();
  by("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(text)) {
    trouble.textContent = "A key has no spaces and only letters, digits and signs of ASCII.";
    return;
  }
  key.set(text);
  said.textContent = "";
  enter();
});

by("forget").addEventListener("click", () => {
  key.forget();
  location.reload(); // what was loaded with it goes too
});
by("reload").addEventListener("click", async () => {
  said.textContent = "";
  await show();
});
window.addEventListener("hashchange", () => {
  said.textContent = "";
  if (askKey.hidden) show();
});
document.addEventListener("done", (event) => {
  said.textContent = event.detail;
  trouble.textContent = "";
  me.load().catch(() => {}); // the release may be another; what fails here fails where it matters, too
});
document.addEventListener("key-refused", (event) => {
  wantKey(key.get() ? event.detail : "");
});

/** A server without keys needs none; what it says tells. */
async function start() {
  if (!key.get()) {
    try {
      await me.load();
    } catch (error) {
      if (error.status === 401) return;
    }
  }
  await enter();
}

start();
