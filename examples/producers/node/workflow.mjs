// Submits a whole workflow as one message and prints its result document, with every task's in it.

import { randomUUID } from "node:crypto";
import { publish, show, waitForResult } from "./producer.mjs";

const id = randomUUID();
// The exchange sends everything to the one workflows queue, whatever the routing key.
await publish("gleitzeit.workflows", "", {
  id,
  name: "Sum and product",
  tasks: [
    { id: "sum", method: "mcp/tool.add", params: { a: 42, b: 58 } },
    { id: "product", method: "mcp/tool.multiply", dependencies: ["sum"], params: { a: "${sum.result}", b: 2 } },
    {
      id: "text",
      method: "mcp/tool.concat",
      dependencies: ["sum", "product"],
      params: { strings: ["Sum was ${sum.result}", "Product is ${product.result}"], separator: ", " },
    },
  ],
});
if (!show(await waitForResult(id))) process.exitCode = 1;
