#!/usr/bin/env node
// Stream in JavaScript, with fetch alone: the answer's words as they come. Runs in Node 18 or later; in a browser the
// page's origin has to be in CORS_ORIGINS. Only a stream that ends with `done` is a whole answer.
const server = globalThis.process?.env.LLM_SERVER_URL ?? 'http://127.0.0.1:5601';

/** The events of an answer: an event ends with an empty line, and a line that begins with a colon is a comment. */
async function* eventsOf(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const blocks = (rest + value).split('\n\n');
        rest = blocks.pop();
        for (const block of blocks) {
            const lines = block.split('\n').filter((line) => line && !line.startsWith(':'));
            const fields = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s, 2)));
            if (fields.data) yield { name: fields.event, data: JSON.parse(fields.data) };
        }
    }
}

/** The whole answer; `onText` is given each piece of its text. To stop the answer, abort the signal. */
async function chat(question, onText, signal) {
    const response = await fetch(`${server}/api/v1/chat`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ ...question, stream: true }),
        signal,
    });
    if (!response.ok) throw new Error((await response.json()).detail);
    for await (const { name, data } of eventsOf(response)) {
        if (name === 'delta') onText(data.text);
        if (name === 'error') throw new Error(data.detail);
        if (name === 'done') return data;
    }
    throw new Error('the stream did not end with done');
}

let text = '';
const question = { user_message: 'Tell me about Paris.', max_tokens: 60, temperature: 0, free_mode: true };
const answer = await chat({ system_message: 'You are a helpful assistant.', ...question }, (piece) => {
    text += piece;
    globalThis.process?.stdout.write(piece);
});
console.log(`\n${answer.output_tokens} tokens`);
if (answer.response_text !== text) throw new Error('the pieces are not the answer');
