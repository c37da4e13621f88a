// AI SDK: text, stream, object and tools over chat; text over responses and over messages.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const url = process.env.FUSION_URL;
const same = (found, wanted) => {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(JSON.stringify(found));
};
const compatible = createOpenAICompatible({
  name: "fusion",
  baseURL: `${url}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = compatible("fusion/chat");
same((await generateText({ model, prompt: "Say hello." })).text, "Hello from Fusion.");
console.log("chat");
same(await streamText({ model, prompt: "Say hello." }).text, "Hello from Fusion.");
console.log("stream");
const output = Output.object({ schema: z.object({ city: z.string() }) });
same((await generateText({ model, output, prompt: "Where?" })).output, { city: "Oslo" });
console.log("object");
const weather = tool({
  description: "Look the weather up.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `5 degrees in ${city}`,
});
const options = { tools: { weather }, stopWhen: stepCountIs(3), prompt: 'call weather {"city": "Oslo"}' };
const told = await generateText({ model, ...options });
if (!told.text.includes("5 degrees in Oslo")) throw new Error(told.text);
console.log("tools");
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
same((await generateText({ model: openai("fusion/chat"), prompt: "Say hello." })).text, "Hello from Fusion.");
same(await streamText({ model: openai("fusion/chat"), prompt: "Say hello." }).text, "Hello from Fusion.");
console.log("responses");
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" });
same((await generateText({ model: anthropic("fusion/chat"), prompt: "Say hello." })).text, "Hello from Fusion.");
same(await streamText({ model: anthropic("fusion/chat"), prompt: "Say hello." }).text, "Hello from Fusion.");
console.log("messages");
