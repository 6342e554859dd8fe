/* What a request sends upstream, from the API's preview: the parts of the prompt, who pays, who is asked, the bytes. */

import { Problem, api, t } from "./api.js";
import { payer } from "./playground-turns.js";
import { h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

const html = htm.bind(h);
const place = document.getElementById("parts");
const LONG = 300; // Characters of a data URL from which on the readable form is short.

const shown = { key: "", told: null, failure: null, isSent: false, isRaw: false };
let asking = new AbortController();

const count = (number) => number.toLocaleString(document.documentElement.lang);
const NAMES = {
  system: t("system message", "시스템 메시지"),
  role: t("role", "역할"),
  description: t("description", "설명"),
  speech_style: t("manner of speech", "말투"),
  lore: t("lore", "배경 지식"),
  examples: t("examples", "대화 예시"),
  first_message: t("first message", "첫 메시지"),
  memory: t("memories", "기억"),
  summary: t("summary of earlier turns", "이전 턴의 요약"),
  instructions: t("instructions", "지시사항"),
  history: t("earlier turns", "이전 턴"),
  user: t("your message", "내 메시지"),
};

/** Show what a request would send; the server is asked only where it is another request than before. */
export async function preview(asked) {
  const key = JSON.stringify(asked);
  if (key === shown.key) return;
  asking.abort();
  const { signal } = (asking = new AbortController());
  try {
    const told = await api("POST", "api/v1/chat/preview", asked.body, { headers: asked.headers, signal });
    Object.assign(shown, { key, told, failure: null, isSent: false });
  } catch (error) {
    if (signal.aborted) return;
    const failure = error instanceof Problem ? error : new Problem({ detail: t("No preview", "미리 볼 수 없습니다"), code: "unknown" });
    Object.assign(shown, { key: "", told: null, failure, isSent: false });
  }
  draw();
}

/** What is shown has been sent. */
export function sent() {
  shown.isSent = true;
  draw();
}

/** Ask anew the next time, even for the same request: a session has grown. */
export const forget = () => (shown.key = "");

/** Show the body as it is sent, or indented. */
export function asSent(isRaw) {
  shown.isRaw = isRaw;
  draw();
}

function readable(text) {
  const short = (value) =>
    typeof value === "string" && value.length > LONG && value.startsWith("data:")
      ? `${value.slice(0, 40)}… (${count(value.length)} ${t("characters", "자")})`
      : value;
  return JSON.stringify(JSON.parse(text, (_, value) => short(value)), null, 2);
}

export function draw() {
  const { told, failure } = shown;
  render(html`<${Parts} told=${told} failure=${failure} />`, place);
  document.getElementById("body").hidden = !told;
  if (told) document.getElementById("bytes").textContent = shown.isRaw ? told.upstream_body : readable(told.upstream_body);
}

function Parts({ told, failure }) {
  if (failure) return html`<p class="notice bad">${failure.message} <code>${failure.told.code}</code></p>`;
  if (!told) return html`<p class="dim">${t("Write a message: here you see to the byte what the model gets, and who pays.", "메시지를 쓰면 모델이 받는 내용을 바이트까지 그대로, 그리고 누가 지불하는지 여기에 표시합니다.")}</p>`;
  const tokens = count(told.total_tokens);
  const bytes = count(new TextEncoder().encode(told.upstream_body).length);
  return html`<dl>
      <dt>${t("When", "시점")}</dt><dd>${shown.isSent ? t("with your last message", "마지막 메시지와 함께 전송됨") : t("if you send now", "지금 보낼 경우")}</dd>
      <dt>${t("Prompt", "프롬프트")}</dt><dd>${told.tokens_estimated ? t(`about ${tokens} tokens (estimated)`, `약 ${tokens} 토큰(추정)`) : t(`${tokens} tokens`, `${tokens} 토큰`)}</dd>
      <dt>${t("Paid by", "지불")}</dt><dd>${payer(told.api_key_source)}</dd>
      <dt>${t("Request", "요청")}</dt><dd><code>POST ${told.upstream_path}</code> ${bytes} ${t("bytes", "바이트")}</dd>
      ${told.dropped_turns > 0 && html`<dt>${t("Left out", "제외")}</dt><dd>${t(`${count(told.dropped_turns)} earlier turns`, `이전 턴 ${count(told.dropped_turns)}개`)}</dd>`}
    </dl>
    <${Tokens} told=${told} />
    ${told.plan.length > 0 && html`<${Plan} plan=${told.plan} />`}`;
}

const Tokens = ({ told }) => html`<div class="table" tabindex="0" role="region" aria-label=${t("Parts of the prompt", "프롬프트의 구성")}><table class="tokens">
  <thead><tr><th scope="col">${t("Part", "부분")}</th><th scope="col" class="number">${t("Tokens", "토큰")}</th><th scope="col"><span class="unseen">${t("Share", "비율")}</span></th></tr></thead>
  <tbody>${Object.entries(told.tokens).filter(([, tokens]) => tokens > 0).map(
    ([name, tokens]) => html`<tr><th scope="row">${NAMES[name] || name}</th><td class="number">${count(tokens)}</td>
      <td class="wide"><span class="bar" style=${{ width: `${(100 * tokens) / told.total_tokens}%` }}></span></td></tr>`,
  )}</tbody></table></div>`;

const Plan = ({ plan }) => html`<h3>${t("Who may be asked, in order", "요청을 보낼 순서")}</h3>
  <ol class="plan">${plan.map(({ upstream, model, reason }) => html`<li><code>${upstream}</code> ${model} <span class="dim">${reason}</span></li>`)}</ol>`;
