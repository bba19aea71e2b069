// Making elements. Text goes in as text nodes only; nothing here or elsewhere reads HTML.

const HIDDEN = /[\p{Cf}\p{Cc}\p{Co}]/u;

/** An element. `props`: attributes; a function is a listener (`click`); true and false set and leave out. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** What somebody wrote, with characters that are not seen made visible. */
export function quoted(text) {
  const out = document.createDocumentFragment();
  let plain = "";
  for (const char of text) {
    if (!HIDDEN.test(char) || char === "\n" || char === "\t") {
      plain += char;
      continue;
    }
    const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    out.append(plain, el("span", { class: "unseen" }, `U+${code}`));
    plain = "";
  }
  out.append(plain);
  return out;
}

let made = 0;

/** A label and its field, in this order. */
export function labelled(text, field) {
  if (!field.id) field.id = `field-${++made}`;
  return [el("label", { for: field.id }, text), field];
}

/** A list to choose from. `values`: names, or name -> words. */
export function chooser(id, values) {
  const pairs = Array.isArray(values) ? values.map((one) => [one, one.replaceAll("_", " ")]) : Object.entries(values);
  return el("select", { id }, ...pairs.map(([value, words]) => el("option", { value }, words)));
}

/** Those of a text that say something. */
export function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** `1 entry`, `2 entries`. */
export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

/** A time of the server, to the minute. */
export function when(stamp) {
  return `${stamp.slice(0, 10)} ${stamp.slice(11, 16)} UTC`;
}

/** Where a refusal is shown: read out by screen readers when it is filled. */
export function refusalPlace() {
  return el("p", { class: "refusal", role: "alert" });
}

/** A closed part with a summary, filled at the first opening; a fill that fails is tried again. */
export function lazy(summary, fill, props = {}) {
  const body = el("div", { class: "body" });
  let filled = false;
  const open = async () => {
    if (!node.open || filled) return;
    filled = true;
    body.replaceChildren("Loading …");
    try {
      body.replaceChildren(...(await fill()));
    } catch (error) {
      filled = false;
      body.replaceChildren(el("p", { class: "refusal", role: "alert" }, error.message));
    }
  };
  const node = el("details", { ...props, toggle: open }, el("summary", {}, summary), body);
  return node;
}

/** Run a step of a button once at a time; what the server refuses is shown in `place`, as is why a
 * button that stands there disabled is. */
export async function act(button, place, step) {
  if (button.dataset.why) return place.replaceChildren(button.dataset.why);
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  place.replaceChildren();
  try {
    await step();
  } catch (error) {
    place.replaceChildren(error.message);
    if (error.after) error.after();
  } finally {
    button.removeAttribute("aria-disabled");
  }
}
