/* How the turns of a conversation look. All of it is text: nothing that a model or a name says becomes markup. */

import { root, t } from "./api.js";
import { behind } from "./playground-stream.js";
import { h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

const html = htm.bind(h);
const place = document.getElementById("log");
const count = (number) => number.toLocaleString(document.documentElement.lang);
const seconds = (ms) => `${(ms / 1000).toLocaleString(document.documentElement.lang, { maximumFractionDigits: 2 })} s`;

/** Whose key pays, in words. */
export const payer = (source) =>
  source === "default" ? t("the server's key", "서버의 키") : source === "user_provided" ? t("your key", "내 키") : source;

/** Go to the end of the conversation, and stay there as it grows. */
export const toEnd = () => place.scrollTo(0, place.scrollHeight);

const cost = (usd) => (usd === null ? t("unknown", "알 수 없음") : `$${usd}`);

/** Draw the conversation; `acts`: what the buttons do, `again(turn)`, `edit(turn)` and `say(text)`. */
export function draw({ turns, earlier }, acts) {
  const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 60;
  const session = root + "console/sessions/" + encodeURIComponent(earlier || "");
  render(
    html`${earlier && html`<p class="dim"><a href=${session}>${t("Earlier turns", "이전 턴 보기")}</a></p>`}
      ${turns.map((turn) => html`<${Turn} key=${turn.key} turn=${turn} acts=${acts} />`)}
      ${turns.every((turn) => turn.said === null) && html`<${Start} acts=${acts} />`}`,
    place,
  );
  if (isAtEnd) place.scrollTop = place.scrollHeight;
}

const Start = ({ acts }) => html`<div class="start">
  <p class="dim">${t("Say something, or begin with one of these:", "무엇이든 말해 보거나 다음 중 하나로 시작하세요:")}</p>
  ${[
    t("Who are you?", "당신은 누구인가요?"),
    t("What is the capital of France?", "프랑스의 수도는 어디인가요?"),
    t("Tell me a very short story about the sea.", "바다에 대한 아주 짧은 이야기를 들려주세요."),
  ].map((one) => html`<button type="button" onClick=${() => acts.say(one)}>${one}</button>`)}
</div>`;

const Turn = ({ turn, acts }) => html`<article class="turn">
  ${turn.said !== null &&
  html`<div class="said"><span class="unseen">${t("You:", "나:")} </span>${turn.images.map((url) => html`<img src=${url} alt=${t("Image", "이미지")} />`)}${turn.said}</div>`}
  ${(turn.answer || turn.state === "running") && html`<div class="answer" aria-busy=${turn.state === "running"}>
    <span class="unseen">${t("Answer:", "답변:")} </span><${Answer} turn=${turn} /></div>`}
  ${turn.failure && html`<${Failure} turn=${turn} acts=${acts} />`}
  ${turn.state !== "running" && html`<${Facts} turn=${turn} />`}
</article>`;

function Answer({ turn }) {
  const json = turn.done && turn.done.response_json;
  if (json !== null && json !== undefined) return html`<pre tabindex="0"><code>${JSON.stringify(json, null, 2)}</code></pre>`;
  if (!turn.answer) return html`<span class="waits" aria-label=${t("waiting", "기다리는 중")}><i></i><i></i><i></i></span>`;
  const rest = behind(turn.answer, turn.segments);
  return html`${turn.segments.map(
    ({ text, tag }) => html`<span class="piece">${tag && html`<span class="tag">${tag}</span>`}${text}</span>`,
  )}${rest && html`<span class=${turn.segments.length ? "rest" : ""}>${rest}</span>`}`;
}

function Failure({ turn, acts }) {
  const { told } = turn.failure;
  const rules = Object.values(told.errors || {}).flatMap((fields) => Object.entries(fields));
  return html`<div class="notice bad" role="alert">
    <p>${turn.failure.message}</p>
    ${rules.length > 0 && html`<ul>${rules.map(([name, said]) => html`<li><code>${name}</code> ${[said].flat(3).map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join("; ")}</li>`)}</ul>`}
    ${told.upstream_message && html`<p>${t("The upstream says:", "업스트림의 메시지:")} ${told.upstream_message}</p>`}
    <p><code>${told.code}</code> · ${told.retryable ? t("may work when tried again", "다시 시도하면 될 수 있습니다") : t("fails again until something is changed", "무엇인가 바꾸기 전에는 다시 실패합니다")}</p>
    <div class="row">
      <button type="button" onClick=${() => acts.again(turn)}>${t("Try again", "다시 시도")}</button>
      <button type="button" onClick=${() => acts.edit(turn)}>${t("Edit", "고치기")}</button>
      ${told.code === "unauthorized" && html`<a class="button" href=${`${root}console/login?next=${encodeURIComponent("console/playground" + location.search)}`}>${t("Sign in", "로그인")}</a>`}
    </div>
  </div>`;
}

/** What a turn took and cost. */
function Facts({ turn }) {
  const { done } = turn;
  const facts = [
    turn.character,
    turn.model,
    done && t(`${count(done.input_tokens)} tokens in, ${count(done.output_tokens)} out`, `입력 ${count(done.input_tokens)}, 출력 ${count(done.output_tokens)} 토큰`),
    done && `${t("cost", "비용")} ${cost(done.cost_usd)}`,
    turn.source && t(`paid by ${payer(turn.source)}`, `${payer(turn.source)}로 지불`),
    turn.firstMs !== null && `${t("first token", "첫 토큰")} ${seconds(turn.firstMs)}`,
    done && turn.totalMs !== null && `${t("total", "전체")} ${seconds(turn.totalMs)}`,
    done && done.cached && t("from the cache", "캐시에서"),
    done && done.finish_reason === "length" && t("cut at the longest answer", "최대 길이에서 잘렸습니다"),
    done && done.finish_reason === "content_filter" && t("cut by a filter", "필터에서 잘렸습니다"),
    done && done.dropped_turns > 0 && t(`${count(done.dropped_turns)} earlier turns left out`, `이전 턴 ${count(done.dropped_turns)}개 제외`),
    done && done.summarised_turns > 0 && t(`${count(done.summarised_turns)} earlier turns summarised`, `이전 턴 ${count(done.summarised_turns)}개 요약`),
    turn.state === "stopped" && t("stopped", "중지됨"),
  ].filter(Boolean);
  const link = turn.requestId && root + "console/usage/" + encodeURIComponent(turn.requestId);
  return html`<ul class="facts">${facts.map((fact) => html`<li>${fact}</li>`)}
    ${link && html`<li>${t("request", "요청")} <a href=${link}><code>${turn.requestId}</code></a></li>`}</ul>`;
}
