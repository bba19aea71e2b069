// What codes of the server mean to a reader. A code without words is shown as it is.

const FINDINGS = {
  hidden_characters: "It has characters that are not seen, or look like others.",
  injection: "It reads like instructions to the model.",
  personal_data: "It holds what looks like personal data.",
  broad_trigger: "A trigger of it would fire on nearly everything.",
};

const EVIDENCE = {
  user_confirmed: "confirmed",
  accepted_edit: "edited and confirmed",
  executed: "a query with it ran without an error",
  failed_twice: "the same failure was seen more than once",
  seed: "proposed",
  rejected: "rejected",
};

const SOURCES = {
  user: "a person",
  model: "a program or the model",
  tool: "a tool",
  outside_tool: "a tool of others",
  document: "a document",
};

const said = (table) => (code) => table[code] ?? code.replaceAll("_", " ");

export const findingWords = said(FINDINGS);
export const evidenceWords = said(EVIDENCE);
export const sourceWords = said(SOURCES);
export const kindWords = said({});
