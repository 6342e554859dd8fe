/* The page of the upstreams: what came of trying one. */

import { t } from "./api.js";

/** What each key came to: how fast it was answered, or the code of what failed. */
function told({ outcome, ms }, index) {
  const key = t(`key ${index + 1}`, `키 ${index + 1}`);
  if (outcome === null) return t(`${key}: no time was left`, `${key}: 시간이 남지 않음`);
  return outcome === "answers" ? t(`${key}: answers after ${ms} ms`, `${key}: ${ms}ms 뒤 응답`) : `${key}: ${outcome} (${ms} ms)`;
}

document.addEventListener("done", ({ detail }) => {
  const place = document.getElementById("tried");
  const keys = detail.keys.length ? detail.keys.map(told).join(", ") : t("it has no key of the server's", "서버의 키가 없음");
  place.textContent = `${detail.upstream.name}: ${keys}`;
  place.hidden = false;
});
