// A provider for text/v1 in Node, without packages. It takes several calls at once, and obeys $/cancel.
//
// Each line of stdin is a JSON-RPC 2.0 message, each line of stdout an answer. Print to stderr, never to stdout.

import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

class Refused extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

const textOf = ({ text }) => {
  if (typeof text !== "string") throw new Refused(-32602, "text must be a string");
  return text;
};

const methods = {
  reverse: (params) => [...textOf(params)].reverse().join(""),

  count(params) {
    const words = new Map();
    for (const word of textOf(params).split(/\s+/)) words.set(word, (words.get(word) ?? 0) + 1);
    return Object.fromEntries([...words].filter(([, times]) => times >= (params.least ?? 1)));
  },

  async fetch({ seconds = 1, fail = false }, context, signal) {
    console.error("attempt", context.attempt, "of", context.task);
    await pause(seconds * 1000, null, { signal });
    if (fail) throw new Refused(1, "the service is away", { retryable: true, retry_after: 0.1 });
    return null;
  },

  async spell(params, context, signal, id) {
    const letters = [...textOf(params)];
    for (const letter of letters) {
      give(id, `${letter}\n`);
      await pause((params.pause ?? 0) * 1000, null, { signal });
    }
    return letters.length;
  },
};

const running = new Map();

// A piece of output for whoever follows the task, before the call has ended.
function give(id, text) {
  process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", method: "$/output", params: { id, text } })}\n`);
}

async function answer({ id, method, params, context = {} }) {
  if (method === "$/initialize") {
    return { name: "text in Node", version: "1.0", methods: Object.keys(methods) };
  }
  if (method === "$/ping") return { status: "ok" };
  if (method === "$/echo") return params; // Only for `gleitzeit provider conformance`; may be left out.
  if (!Object.hasOwn(methods, method)) throw new Refused(-32601, `there is no method ${method}`);
  const call = new AbortController();
  running.set(id, call);
  try {
    return await methods[method](params, context, call.signal, id);
  } finally {
    running.delete(id);
  }
}

function say(id, reply) {
  process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", id, ...reply })}\n`);
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const message = JSON.parse(line);
  if (message.method === "$/cancel") running.get(message.params.id)?.abort();
  if (message.method === "$/shutdown") process.exit();
  if (message.id === undefined) return;
  try {
    say(message.id, { result: (await answer(message)) ?? null });
  } catch ({ code, message: text, data }) {
    say(message.id, { error: { code: Number.isInteger(code) ? code : -32603, message: text, data } });
  }
});
