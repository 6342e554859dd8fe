/* The playground: joins the fields, the conversation, the preview and the code. */

import { Problem, root, t } from "./api.js";
import { tell } from "./console.js";
import { curl, javascript, python } from "./playground-code.js";
import * as pictures from "./playground-images.js";
import * as preview from "./playground-preview.js";
import { asProgram, field } from "./playground-request.js";
import { begin, conversation, drop, greet, open, send, stop, wouldBe } from "./playground-talk.js";
import { draw as drawTurns, toEnd } from "./playground-turns.js";

const TYPING_MS = 400;
const PREVIEW_MS = 1000; // What a message waits for its preview at most, which shows the session as it was before.
const WRITERS = { curl, python, javascript };
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const by = (id) => document.getElementById(id);
const message = by("message");
const known = JSON.parse(by("data").textContent);

let writer = "curl";
let typing = 0;
let drawing = 0;

const acts = {
  say: (text) => say(text, []),
  again: (turn) => {
    drop(turn);
    say(turn.said, turn.images);
  },
  edit: (turn) => {
    drop(turn);
    message.value = turn.said;
    message.focus();
    draw();
    changed();
  },
};

/** Draw the conversation with the next frame, however many pieces come until then. */
function draw() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    drawTurns(conversation, acts);
    by("send").hidden = Boolean(conversation.running);
    by("stop").hidden = !conversation.running;
    by("stored").hidden = !conversation.isKept;
    by("stored").href = `${root}console/sessions/${encodeURIComponent(field("session_id").value)}`;
  });
}

/** An id that nobody else has. (`crypto.randomUUID` is for pages over TLS only.) */
const newId = () => `play-${[...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

/** Have the address name the conversation, so that it goes on after a reload. */
function address() {
  const session = conversation.isKept && field("session_id").value;
  const query = new URLSearchParams({ ...(session && { session }), ...(field("character").value && { character: field("character").value }) });
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
}

/** The message that the preview and the code are about: what is written, else what was said last. */
const written = () => message.value.trim() || conversation.turns.findLast((turn) => turn.said)?.said || t("What is the capital of France?", "프랑스의 수도는 어디인가요?");

function drawCode() {
  const asked = wouldBe(written(), pictures.images());
  if (!asked) return;
  const request = asProgram(asked.body);
  by("code").textContent = WRITERS[writer](request);
  by("code-note").textContent = [
    "Authorization" in request.headers && t("TOKEN stands for a client's token.", "TOKEN 자리에는 클라이언트의 토큰을 넣습니다."),
    "X-OpenAI-Api-Key" in request.headers && t("YOUR_KEY stands for your key.", "YOUR_KEY 자리에는 내 키를 넣습니다."),
  ].filter(Boolean).join(" ");
}

function look() {
  drawCode();
  const asked = wouldBe(message.value.trim(), pictures.images());
  if (asked?.body.user_message) return preview.preview(asked);
  return undefined;
}

/** Something was typed or chosen: look at it once no more comes. */
function changed() {
  clearTimeout(typing);
  typing = setTimeout(look, TYPING_MS);
}

async function say(text, images) {
  if (!text.trim() || conversation.running) return;
  const asked = wouldBe(text, images);
  if (!asked) {
    by("more").open = true;
    document.querySelector("[aria-invalid]").focus();
    return;
  }
  clearTimeout(typing);
  const shown = preview.preview(asked).then(preview.sent);
  const answered = send(asked, text, images, Promise.race([shown, pause(PREVIEW_MS)]), draw);
  toEnd();
  await answered;
  preview.forget();
  address();
  if (document.activeElement === document.body) message.focus();
  look();
}

function submit() {
  if (conversation.running || !message.value.trim()) return;
  const text = message.value.trim();
  const images = pictures.images();
  if (!wouldBe(text, images)) return void say(text, images);
  message.value = "";
  pictures.clear();
  say(text, images);
}

async function show(id) {
  await stop();
  try {
    const speaker = (await open(id)).split("@")[0];
    if (!field("character").value && [...field("character").options].some((one) => one.value === speaker)) field("character").value = speaker;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (!["session_not_found", "validation_error"].includes(error.told.code)) tell(error.message);
  }
  await hello();
}

/** A character that begins by itself says so before anything was said. */
async function hello() {
  if (conversation.turns.every((turn) => turn.said === null) && !conversation.isKept) {
    begin();
    const name = field("character").value.split("@")[0];
    if (name) await greet(name, field("user_name").value || known.userName).catch(() => {});
  }
  draw();
  look();
}

function pay() {
  const isFree = field("free_mode").checked;
  by("own-key").hidden = isFree;
  if (!isFree) field("key").focus();
}

function choose(button, name) {
  for (const one of document.querySelectorAll(`[data-${name}]`)) one.setAttribute("aria-pressed", String(one === button));
}

message.addEventListener("keydown", (event) => {
  // While a syllable is being composed, Enter belongs to the input method (Safari says so by the code 229 alone).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  if (!conversation.running) by("talk").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && stop());
message.addEventListener("input", () => {
  message.setCustomValidity("");
  changed();
});
message.addEventListener("invalid", () => message.setCustomValidity(t("Write a message first.", "먼저 메시지를 쓰세요.")));
by("talk").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
by("stop").addEventListener("click", () => {
  stop();
  message.focus();
});
by("settings").addEventListener("submit", (event) => event.preventDefault());
for (const one of by("settings").elements) one.addEventListener("input", changed);
field("free_mode").addEventListener("change", pay);
field("character").addEventListener("change", () => {
  address();
  hello();
});
field("session_id").addEventListener("change", () => show(field("session_id").value));
by("anew").addEventListener("click", async () => {
  await stop();
  begin();
  field("session_id").value = newId();
  address();
  hello();
  message.focus();
});
by("files").addEventListener("change", (event) => {
  pictures.add([...event.target.files]);
  event.target.value = "";
  message.focus();
});
message.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  pictures.add(files);
});
for (const name of ["dragover", "drop"]) {
  document.querySelector(".talk").addEventListener(name, (event) => {
    if (![...event.dataTransfer.items].some((item) => item.kind === "file")) return;
    event.preventDefault();
    if (name === "drop") pictures.add([...event.dataTransfer.files]);
  });
}
by("refresh").addEventListener("click", look);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.form) {
    choose(button, "form");
    preview.asSent(button.dataset.form === "raw");
  }
  if (button?.dataset.code) {
    choose(button, "code");
    writer = button.dataset.code;
    drawCode();
  }
});
pictures.watch(changed);

preview.draw();
if (field("session_id").value) {
  show(field("session_id").value);
} else {
  field("session_id").value = newId();
  hello();
}
message.focus();
