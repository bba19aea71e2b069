// Who the key is and what it may do, as the server says. The server decides anyway.

import { get } from "/knowledge/api.js";
import { el, quoted } from "/knowledge/dom.js";

const place = document.getElementById("who");
let whyNot = new Map();

/** Ask and show it. */
export async function load() {
  const me = await get("me");
  whyNot = new Map(me.verbs.map((verb) => [`${verb.method} ${verb.path}`, verb.why_not]));
  const parts = [
    `${me.user} of ${me.tenant}`,
    me.roles.length ? `may ${me.roles.join(", ")}` : "may only search",
    me.release ? `${me.release} is in force` : "no release yet",
    me.capture === "off" ? "nothing new is taken in (capture is off)" : "",
  ];
  place.replaceChildren(el("span", {}, quoted(parts.filter(Boolean).join(" · "))));
}

/** Nothing is known of the next key. */
export function forget() {
  whyNot = new Map();
  place.replaceChildren();
}

/** Whether the key may use a verb, such as `POST releases`. */
export function may(verb) {
  return !whyNot.get(verb);
}

/** A button of a verb: where the key may not use it, it says why instead (`act` in dom.js). */
export function only(verb, button) {
  if (may(verb)) return button;
  const why = whyNot.get(verb);
  button.dataset.why = why[0].toUpperCase() + why.slice(1);
  button.title = button.dataset.why;
  button.setAttribute("aria-disabled", "true");
  return button;
}
