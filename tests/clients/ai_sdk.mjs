// Vercel's AI SDK as a client, by both APIs and by its provider for others than OpenAI. Prints what it found. With
// MAX_TOKENS it asks for text only: the demo model calls no tools.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embed, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { OPENAI_BASE_URL: baseURL, OPENAI_API_KEY, WRONG_KEY, MODEL: name, MAX_TOKENS: tokens } = process.env;
const limit = { maxRetries: 0, temperature: 0, maxOutputTokens: tokens ? Number(tokens) : undefined };
const CUT = "The connection to the AI service failed";
const prompt = "What is the capital of France?";
const output = Output.object({ schema: z.object({ name: z.string(), people: z.number().int() }) });

const kinds = {
  responses: (apiKey) => createOpenAI({ baseURL, apiKey }).responses(name),
  chat: (apiKey) => createOpenAI({ baseURL, apiKey }).chat(name),
  compatible: (apiKey) =>
    createOpenAICompatible({ name: "ours", baseURL, apiKey, supportsStructuredOutputs: true })(name),
};

async function pieces(model, prompt) {
  const found = [];
  let failure;
  const { textStream } = streamText({ ...limit, model, prompt, onError: ({ error }) => (failure = error) });
  for await (const piece of textStream) found.push(piece);
  if (failure) throw failure;
  return found.filter(Boolean);
}

async function tools(model) {
  const called = [];
  const weather = tool({
    description: "The weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      called.push(city);
      return "sunny";
    },
  });
  const options = { ...limit, model, prompt: "The weather?", tools: { weather }, stopWhen: stepCountIs(3) };
  const { text } = await generateText(options);
  const streamed = await streamText(options).text;
  return [text, streamed, ...called];
}

async function raised(ask) {
  try {
    await ask();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was raised");
}

const told = ({ statusCode, data }) => [statusCode, data?.error?.code];

async function find(kind) {
  const model = kind(OPENAI_API_KEY);
  const short = { text: (await generateText({ ...limit, model, prompt })).text, pieces: await pieces(model, prompt) };
  if (tokens) return short;
  return {
    ...short,
    tool: await tools(model),
    object: (await generateText({ model, prompt, output })).output,
    "object in a stream": await streamText({ model, prompt, output }).output,
    cut: String(await raised(() => pieces(model, "break off"))).includes(CUT),
    refused: told(await raised(() => generateText({ ...limit, model: kind(WRONG_KEY), prompt }))),
    too_long: told(await raised(() => generateText({ ...limit, model, prompt: "too long" }))),
  };
}

const found = {};
for (const [api, kind] of Object.entries(kinds)) found[api] = await find(kind);
const model = createOpenAI({ baseURL }).embedding(name);
found.embedding = (await embed({ model, value: "Paris" })).embedding.length;
console.log(JSON.stringify(found));
