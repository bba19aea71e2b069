// Confirm, edit and confirm, reject: the forms of one entry.

import { post } from "/knowledge/api.js";
import { act, el, labelled } from "/knowledge/dom.js";
import { may, only } from "/knowledge/me.js";

const CONFIRM = "POST candidates/{id}/confirm";
const REJECT = "POST candidates/{id}/reject";
const at = (id, verb) => `candidates/${encodeURIComponent(id)}/${verb}`;

function form(summary, fields, button, submit) {
  const onSubmit = (event) => {
    event.preventDefault();
    submit(event.target.querySelector("button"));
  };
  const body = el("form", { class: "body", submit: onSubmit }, ...fields, button);
  return el("details", { class: "step" }, el("summary", {}, summary), body);
}

/** `step(verb, body, words)` does it and tells; `supersedes()`: ids that are to be replaced. */
export function confirmButton(entry, { place, ready, supersedes, done }) {
  const step = async () => {
    await post(at(entry.id, "confirm"), replacing(supersedes()));
    await done(`Confirmed: ${entry.id}. It is in your context from your next request on.`);
  };
  const press = (event) => act(event.target, place, step);
  return only(CONFIRM, el("button", { type: "button", class: ready ? "main" : "", click: press }, "Confirm"));
}

const replacing = (ids) => (ids.length ? { supersedes: ids } : {});

/** Empty where the key may not confirm, as is the next where it may not reject. */
export function editForm(entry, { place, supersedes, done }) {
  if (!may(CONFIRM)) return "";
  const inputs = Object.entries(entry.payload).map(([name, value]) => {
    const many = Array.isArray(value);
    const text = many ? value.join("\n") : value;
    const rows = String(Math.min(12, text.split("\n").length + 1));
    const field = el("textarea", { rows, spellcheck: "false", "data-field": name });
    field.value = text;
    return { name, many, field };
  });
  const read = ({ name, many, field }) => [
    name,
    many ? field.value.split("\n").filter((line) => line.trim()) : field.value,
  ];
  const step = async () => {
    const edited = Object.fromEntries(inputs.map(read));
    const { id } = await post(at(entry.id, "confirm"), { edited, ...replacing(supersedes()) });
    await done(`Confirmed as edited: ${id}.`);
  };
  const fields = inputs.flatMap(({ name, many, field }) =>
    labelled(many ? `${name}, one a line` : name, field),
  );
  const button = el("button", { type: "submit", class: "main" }, "Confirm as edited");
  return form("Edit", fields, button, (pressed) => act(pressed, place, step));
}

export function rejectForm(entry, { place, done }) {
  if (!may(REJECT)) return "";
  const field = el("input", { type: "text", autocomplete: "off", maxlength: "500" });
  const step = async () => {
    await post(at(entry.id, "reject"), { reason: field.value });
    await done(`Rejected: ${entry.id}.`);
  };
  const button = el("button", { type: "submit", class: "danger" }, "Reject");
  const submit = (pressed) => act(pressed, place, step);
  return form("Reject", labelled("Reason, kept with the entry", field), button, submit);
}
