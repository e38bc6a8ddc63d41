// Submits two tasks, the smallest one and one that says more, and prints their result documents.

import { randomUUID } from "node:crypto";
import { publish, show, waitForResult } from "./producer.mjs";

// The smallest task. The id in the property messageId is how we find the result; without one the first
// worker gives the task an id, which `gleitzeit list` shows.
const smallest = randomUUID();
await publish(
  "gleitzeit.tasks",
  "python.v1",
  { method: "execute", params: { code: "print(6 * 7)" } },
  { messageId: smallest },
);

// More is said in the body. Publishing it twice does it once: the same id is the same task.
const larger = randomUUID();
await publish(
  "gleitzeit.tasks",
  "mcp.v1",
  {
    v: 1,
    id: larger,
    name: "Join words",
    protocol: "mcp/v1",
    method: "tool.concat",
    params: { strings: ["one", "two", "three"], separator: " | " },
    priority: "high",
    timeout: 20,
    retry: { max_attempts: 3, base_delay: 0.5 },
    result_ttl: 3600,
    metadata: { from: "examples/producers/node" },
  },
  { priority: 7 },
);

for (const id of [smallest, larger]) {
  if (!show(await waitForResult(id))) process.exitCode = 1;
}
