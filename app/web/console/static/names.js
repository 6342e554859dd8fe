/* The names that characters may have; the server's own rule says which. */

/** The rule, from what the page carries of it. */
export const ruleOf = (form) => new RegExp(form.dataset.pattern, "u");

/** A name made of `text` that keeps the rule; empty where nothing of it does. */
export function fitted(text, rule) {
  const kept = [...text.normalize("NFC")].map((sign) => (rule.test(`a${sign}a`) ? sign : " ")).join("");
  let name = [...kept.replace(/ +/g, " ").trim()];
  while (name.length && !rule.test(name[0])) name.shift();
  name = name.slice(0, 64).join("").trim();
  return rule.test(name) ? name : "";
}

/** Where a character's page is. `new` is the address of the form for a new one, unless a version is asked for. */
export const pageOf = (name, version) =>
  `console/characters/${encodeURIComponent(name)}${name === "new" ? `?version=${version}` : ""}`;
