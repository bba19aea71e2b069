// Calls of /v1/knowledge with the key of this tab. The key is nowhere but in sessionStorage.

const STORED = "stepwell.knowledge.key";

/** What the server, or the way to it, refused: `message` in words, `status` 0 without a reply. */
export class Refusal extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(STORED) ?? "",
  set: (text) => sessionStorage.setItem(STORED, text),
  forget: () => sessionStorage.removeItem(STORED),
};

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

async function call(method, path, body) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(`/v1/knowledge/${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch {
    throw new Refusal("The server does not answer. Nothing is known to have changed; try again.", 0, "");
  }
  const value = await reply.json().catch(() => null);
  if (reply.ok && value !== null) return value;
  throw refusal(reply, value);
}

function refusal(reply, value) {
  const said = value?.error?.message ?? `The server answered ${reply.status} ${reply.statusText}.`;
  const wait = reply.headers.get("retry-after");
  const words = said[0].toUpperCase() + said.slice(1) + (wait ? ` Try again in ${wait} s.` : "");
  const error = new Refusal(words, reply.status, value?.error?.code ?? "");
  if (reply.status === 401) document.dispatchEvent(new CustomEvent("key-refused", { detail: words }));
  return error;
}
