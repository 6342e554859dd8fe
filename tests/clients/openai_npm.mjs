// The openai npm package as a client: `API MODE TOKENS` on the command line; prints the answer as it comes.

import OpenAI from "openai";

const [api, mode, tokens] = process.argv.slice(2);
const client = new OpenAI();
const common = { model: "local", stream: mode === "streamed", temperature: 0, ignore_eos: true };
const text = "Say hello.";

const apis = {
  responses: {
    ask: () => client.responses.create({ ...common, input: text, max_output_tokens: Number(tokens) }),
    whole: (answer) => answer.output_text,
    piece: (event) => (event.type === "response.output_text.delta" ? event.delta : ""),
  },
  chat: {
    ask: () =>
      client.chat.completions.create({
        ...common,
        messages: [{ role: "user", content: text }],
        max_tokens: Number(tokens),
      }),
    whole: (answer) => answer.choices[0].message.content,
    piece: (chunk) => chunk.choices[0]?.delta.content ?? "",
  },
};

const { ask, whole, piece } = apis[api];
const answer = await ask();
if (mode === "streamed") {
  for await (const event of answer) process.stdout.write(piece(event));
} else {
  process.stdout.write(whole(answer));
}
