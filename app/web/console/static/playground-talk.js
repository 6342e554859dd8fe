/* The conversation: turns that are asked, stream in, are stopped, fail and are tried again. */

import { Problem, api, ask, t } from "./api.js";
import { request } from "./playground-request.js";
import { eventsOf, lengthOf } from "./playground-stream.js";

const TURNS_SHOWN = 50;

/** `isKept`: the server has turns of the session. `earlier`: the session's id where it has more turns than are shown. */
export const conversation = { turns: [], running: null, isKept: false, earlier: "" };

let keys = 0;

function newTurn(known) {
  const empty = { said: null, images: [], answer: "", segments: [], state: "kept", failure: null, done: null };
  return { key: keys++, ...empty, character: "", model: "", source: "", requestId: "", firstMs: null, totalMs: null, ...known };
}

/** What was said so far, as a request carries it; a character's greeting alone is the server's to send. */
function history() {
  const said = conversation.turns.filter((turn) => turn.answer && ["done", "stopped", "kept"].includes(turn.state));
  if (said.every((turn) => turn.said === null)) return [];
  return said.flatMap((turn) => [
    ...(turn.said === null ? [] : [{ role: "user", content: turn.said }]),
    { role: "assistant", content: turn.answer },
  ]);
}

/** The request that would be sent now; null where a field is wrong. */
export const wouldBe = (said, images) => request(said, images, history(), conversation.isKept);

/** Begin another conversation: nothing was said. */
export function begin() {
  Object.assign(conversation, { turns: [], isKept: false, earlier: "" });
}

/** Show a kept session, as far as there is one; gives who spoke last. */
export async function open(id) {
  begin();
  const told = await api("GET", `api/v1/sessions/${encodeURIComponent(id)}?order=newest&limit=${TURNS_SHOWN}`);
  conversation.turns = told.turns.reverse().map((turn) => {
    const state = turn.interrupted ? "stopped" : "kept";
    const facts = { character: turn.character, model: turn.model, requestId: turn.request_id };
    return newTurn({ said: turn.user_message, answer: turn.response_text || "", state, ...facts });
  });
  Object.assign(conversation, { isKept: true, earlier: told.next_cursor ? id : "" });
  return told.character || "";
}

/** Show what a character says first. */
export async function greet(name, userName) {
  const character = await api("GET", `api/v1/characters/${encodeURIComponent(name)}`);
  if (conversation.turns.length || !character.first_message) return;
  const names = { char: character.nickname || character.name, bot: character.nickname || character.name, user: userName };
  const answer = character.first_message.replace(/\{\{(char|user)\}\}|<(bot|user)>/gi, (_, one, other) => names[(one || other).toLowerCase()]);
  conversation.turns = [newTurn({ answer })];
}

/** Forget a turn that has failed. */
export const drop = (turn) => (conversation.turns = conversation.turns.filter((other) => other !== turn));

/** Ask; `changed` is called whenever there is something new to show, and `first` is waited for before. */
export async function send(asked, said, images, first, changed) {
  const turn = newTurn({ said, images, state: "running", session: asked.body.remember && asked.body.session_id, stream: new AbortController() });
  conversation.turns.push(turn);
  conversation.running = turn;
  changed();
  await first;
  const began = performance.now();
  try {
    const answer = await ask("POST", "api/v1/chat", asked.body, { headers: asked.headers, signal: turn.stream.signal });
    for await (const event of eventsOf(answer)) {
      take(turn, event, began);
      changed();
    }
  } catch (error) {
    fail(turn, error);
  }
  turn.totalMs = performance.now() - began;
  if (turn.session && turn.state !== "failed" && conversation.turns.includes(turn)) conversation.isKept = true;
  if (conversation.running === turn) conversation.running = null;
  changed();
}

function take(turn, { name, data }, began) {
  if (name === "start") {
    Object.assign(turn, { requestId: data.request_id, model: data.model, source: data.api_key_source });
  } else if (name === "delta" && !turn.isStopping) {
    turn.firstMs ??= performance.now() - began;
    turn.answer += data.text;
  } else if (name === "segment" && !turn.isStopping) {
    turn.segments.push(data);
  } else if (name === "done") {
    const { model, character, api_key_source: source, request_id: requestId } = data;
    Object.assign(turn, { done: data, model, character, source, requestId });
    // An answer that ended while it was being stopped is kept as far as it was shown.
    Object.assign(turn, turn.isStopping ? { state: "stopped" } : { state: "done", answer: data.response_text });
  } else if (name === "error") {
    fail(turn, new Problem(data));
  }
}

function fail(turn, error) {
  const isStopped = turn.isStopping || error.name === "AbortError";
  turn.state = isStopped ? "stopped" : "failed";
  if (isStopped) return;
  const cut = { detail: t("The answer broke off", "답변이 중간에 끊겼습니다"), code: "stream_cut", retryable: true };
  turn.failure = error instanceof Problem ? error : new Problem(cut);
  turn.requestId = turn.failure.told.request_id || turn.requestId;
}

/** Stop the answer: of a remembered turn what was shown is kept, and the server closes its call to the upstream. */
export async function stop() {
  const turn = conversation.running;
  if (!turn || turn.isStopping) return;
  turn.isStopping = true;
  if (turn.session && turn.requestId) {
    const heard = { heard_characters: lengthOf(turn.answer), request_id: turn.requestId };
    const path = `api/v1/sessions/${encodeURIComponent(turn.session)}/interrupt`;
    await api("POST", path, heard).catch(() => {}); // Left below, it is cut as well.
  }
  turn.stream.abort();
}
