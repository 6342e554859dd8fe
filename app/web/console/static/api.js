/* The server's own routes, as the pages call them: with the login's cookie and the page's anti-forgery token. */

const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;

/** The relative address of the server's root from this page, as "../". */
export const root = meta("root");

/** The address of a path of the server, as a program outside of the browser needs it. */
export const address = (path) => new URL(root + path, document.baseURI).href;

/** The text in the page's language. */
export const t = (english, korean) => (document.documentElement.lang === "ko" ? korean : english);

let writing = 0; // How many writes are not answered yet.
let leave = null; // How to leave the page as soon as they are.

/** A failure that the server told, as a problem document. */
export class Problem extends Error {
  constructor(told) {
    super(told.error_message || told.detail);
    this.told = told;
  }

  /** Which fields broke which rules, as {field: [rule, …]}. */
  get fields() {
    return (this.told.errors && (this.told.errors.json || this.told.errors.query)) || {};
  }
}

/** Ask for an answer whose status is good; throws a Problem. `body`: a value for JSON, or a file. */
export async function ask(method, path, body, options = {}) {
  const headers = { "X-CSRF-Token": meta("csrf"), "Accept-Language": document.documentElement.lang };
  if (body instanceof Blob) {
    headers["Content-Type"] = body.type || "application/json";
  } else if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  const isWrite = method !== "GET";
  let answer;
  writing += isWrite;
  try {
    answer = await fetch(root + path, { method, body, ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ detail: t("The server does not answer", "서버가 응답하지 않습니다"), code: "unreachable" });
  } finally {
    writing -= isWrite;
    if (!writing) leave?.();
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ detail: `HTTP ${answer.status}`, code: "unknown" }));
  throw new Problem(told);
}

/** The JSON that is answered; null where there is none. */
export async function api(method, path, body, options) {
  const answer = await ask(method, path, body, options);
  return answer.status === 204 ? null : answer.json();
}

/** Leave the page once every write is answered: to leave it earlier would cut them off. */
function afterWrites(how) {
  leave = how;
  if (!writing) leave();
}

/** Go to a path of this server. */
export const go = (path) => afterWrites(() => location.assign(root + path));

/** Load the page again. */
export const again = () => afterWrites(() => location.reload());
