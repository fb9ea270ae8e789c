// What the tests share: clients of the server, its gate, and who has called which method.
import { randomUUID } from "node:crypto";
import { Client } from "@langchain/langgraph-sdk";

export const SERVER = process.env.SERVER;

export function connect(options = {}) {
  return new Client({ apiUrl: SERVER, apiKey: null, ...options });
}

export function human(content, id = randomUUID()) {
  return { type: "human", content, id };
}

// A key of its own for the graphs `gate` and `release`.
export function newKey() {
  return randomUUID();
}

export async function release(client, key) {
  await client.runs.wait(null, "release", { input: { key } });
}

export async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

// Read a stream up to a part, and leave it open.
export async function readUntil(iterator, wanted) {
  const parts = [];
  for (;;) {
    const { value, done } = await iterator.next();
    if (done) throw new Error(`it ended before; there were ${JSON.stringify(parts)}`);
    parts.push(value);
    if (wanted(value)) return parts;
  }
}

// What a callback was called with, for whoever waits for it.
export function recorder() {
  const seen = [];
  const waiting = new Set();
  return {
    seen,
    note(value) {
      seen.push(value);
      for (const check of waiting) check();
    },
    // All of it, once there are so many.
    async until(number) {
      await new Promise((resolve) => {
        const check = () => seen.length >= number && (waiting.delete(check), resolve());
        waiting.add(check);
        check();
      });
      return seen;
    },
  };
}

export const PARTS = ["assistants", "threads", "runs", "crons", "store"];

// The methods that a client has, as `threads.create`.
export function methodsOf(client) {
  const found = [];
  for (const part of PARTS) {
    let kind = Object.getPrototypeOf(client[part]);
    for (; kind.constructor.name !== "BaseClient"; kind = Object.getPrototypeOf(kind)) {
      for (const name of Object.getOwnPropertyNames(kind)) if (name !== "constructor") found.push(`${part}.${name}`);
    }
  }
  return found;
}

// The client, and the names of those of its methods that have been called since.
export function watched(client, called = new Set()) {
  const parts = Object.fromEntries(
    PARTS.map((part) => [
      part,
      new Proxy(client[part], {
        get(target, name) {
          const value = target[name];
          if (typeof value !== "function") return value;
          return (...given) => {
            called.add(`${part}.${String(name)}`);
            return value.apply(target, given);
          };
        },
      }),
    ]),
  );
  return { client: parts, called };
}
