/* What the page's fields say, as a request of the API. */

import { address, t } from "./api.js";

const form = document.getElementById("settings");
const known = JSON.parse(document.getElementById("data").textContent);

export const field = (name) => form.elements.namedItem(name);
const text = (name) => field(name)?.value.trim() ?? "";
const lines = (name) => text(name).split("\n").map((line) => line.trim()).filter(Boolean);
const number = (name) => (text(name) === "" ? undefined : Number(text(name)));

/** Say beside a field what is wrong with it; nothing with an empty text. Gives whether it is well. */
export function judge(name, wrong) {
  const judged = field(name);
  const place = document.getElementById(`wrong-${name}`);
  place?.remove();
  judged.toggleAttribute("aria-invalid", Boolean(wrong));
  judged.removeAttribute("aria-describedby");
  if (!wrong) return true;
  const shown = Object.assign(document.createElement("span"), { className: "wrong", id: `wrong-${name}`, textContent: wrong });
  judged.setAttribute("aria-invalid", "true");
  judged.setAttribute("aria-describedby", shown.id);
  judged.after(shown);
  return false;
}

function schema() {
  const written = text("response_schema");
  let value = {};
  try {
    value = written && JSON.parse(written);
  } catch {
    value = null;
  }
  const isGood = !written || (value && typeof value === "object" && !Array.isArray(value));
  const wrong = isGood ? "" : t("This is not a JSON object", "JSON 객체가 아닙니다");
  return judge("response_schema", wrong) ? value || undefined : null;
}

function areGood() {
  const id = field("session_id").value;
  const isName = id && ![".", ".."].includes(id) && !/[/\\\x00-\x1f\x7f]/.test(id);
  const isKey = field("free_mode").checked || !text("key") || /^[\x21-\x7e]+$/.test(text("key"));
  return [
    judge("session_id", isName ? "" : t("A name without / and \\", "/와 \\가 없는 이름을 쓰세요")),
    judge("key", isKey ? "" : t("A key has no such characters", "키에 쓸 수 없는 문자가 있습니다")),
    judge("temperature", field("temperature").validity.valid ? "" : t("A number from 0 to 2", "0에서 2까지의 수를 쓰세요")),
    ...["max_tokens", "max_context_tokens"].map((name) =>
      judge(name, field(name).validity.valid ? "" : t("A whole number from 1 on", "1 이상의 정수를 쓰세요")),
    ),
  ].every(Boolean);
}

/** The body and the headers of a chat request; null where a field is wrong. `history` is what the page knows of the
    conversation, and goes along unless the server keeps it already (`isKept`). */
export function request(said, images, history, isKept) {
  const wanted = schema();
  if (!areGood() || wanted === null) return null;
  const remember = field("remember").checked;
  const segments = field("segments").checked && !wanted;
  const tags = segments ? text("segment_tags").split(",").map((tag) => tag.trim().replace(/^\[|\]$/g, "")).filter(Boolean) : [];
  const body = {
    user_message: said,
    session_id: field("session_id").value,
    remember: remember || undefined,
    conversation_history: history.length && !(remember && isKept) ? history : undefined,
    character: text("character") || undefined,
    user_name: text("user_name") || undefined,
    system_message: text("system_message") || undefined,
    role: text("role") || undefined,
    memory_context: lines("memory_context").length ? lines("memory_context") : undefined,
    instructions: text("instructions") || undefined,
    model: text("model") || undefined,
    temperature: number("temperature"),
    max_tokens: number("max_tokens"),
    max_context_tokens: number("max_context_tokens"),
    images: images.length ? images : undefined,
    response_schema: wanted,
    segments: segments || undefined,
    segment_tags: tags.length ? tags : undefined,
    user: text("user") || undefined,
    free_mode: field("free_mode").checked || undefined,
    stream: true,
  };
  return { body: JSON.parse(JSON.stringify(body)), headers: keyHeaders(text("key")) };
}

/** The caller's own key, which no body has: a copied request could be shown to somebody. */
function keyHeaders(key) {
  if (field("free_mode").checked || !key) return {};
  const upstream = text("upstream");
  return { "X-OpenAI-Api-Key": key, ...(upstream && { "X-Upstream": upstream }) };
}

/** The request for a program outside of the browser, with words in the place of what is secret. */
export function asProgram(body) {
  const headers = { "Content-Type": "application/json" };
  if (known.needsToken) headers.Authorization = "Bearer TOKEN";
  return { url: address("api/v1/chat"), headers: { ...headers, ...keyHeaders("YOUR_KEY") }, body };
}
