// All that a producer needs: publish with a confirm, wait for the result document.

import amqp from "amqplib";
import { createClient } from "redis";

// How long to wait for the broker, and for the result, in milliseconds.
export const TIME_LIMIT = 30_000;

const PREFIX = process.env.GLEITZEIT_REDIS_PREFIX ?? "gleitzeit";

/** Publishes one message; resolves once the broker has confirmed it: persistent, and in a queue. */
export async function publish(exchange, routingKey, body, properties = {}) {
  const connection = await amqp.connect(setting("GLEITZEIT_AMQP_URL"), { timeout: TIME_LIMIT });
  try {
    const channel = await connection.createConfirmChannel();
    let failure;
    channel.on("error", (error) => (failure = error));
    // The broker returns what no queue takes, and confirms it nevertheless: the return comes first.
    channel.on("return", (message) => (failure = new Error(`unroutable: ${message.fields.replyText}`)));
    channel.publish(exchange, routingKey, Buffer.from(JSON.stringify(body)), {
      contentType: "application/json",
      persistent: true,
      mandatory: true,
      ...properties,
    });
    // A broker that is short of memory or disk stops reading: then fail, instead of waiting for ever.
    await within(channel.waitForConfirms(), "no confirm").catch((error) => {
      throw failure ?? error;
    });
    if (failure) throw failure;
  } finally {
    await within(connection.close(), "the connection does not close").catch(() => {});
  }
}

/** The result document of a task on its own, or of a whole workflow. */
export async function waitForResult(id) {
  const client = createClient({ url: setting("GLEITZEIT_REDIS_URL"), socket: { connectTimeout: TIME_LIMIT } });
  const subscriber = client.duplicate();
  for (const connection of [client, subscriber]) connection.on("error", (error) => console.error(error.message));
  let wake = () => {};
  const look = async () => {
    await Promise.all([client.connect(), subscriber.connect()]);
    let told = new Promise((resolve) => (wake = resolve));
    // Subscribe before looking: else an end between the two would go unnoticed. For a workflow the channel
    // tells of every task too.
    await subscriber.subscribe(`${PREFIX}:done:${id}`, () => wake());
    for (;;) {
      // The braces are part of the key: everything of one id is in one slot of a Redis cluster.
      const document = await client.get(`${PREFIX}:{${id}}:result`);
      if (document !== null) return document;
      await told;
      told = new Promise((resolve) => (wake = resolve));
    }
  };
  try {
    return JSON.parse(await within(look(), `no result of ${id}`));
  } finally {
    client.destroy();
    subscriber.destroy();
  }
}

/** Prints the document as one line; true if the work completed. */
export function show(document) {
  console.log(JSON.stringify(document));
  return document.status === "completed";
}

async function within(work, what) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} within ${TIME_LIMIT / 1000} s`)), TIME_LIMIT);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

function setting(name) {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}`);
  return value;
}
