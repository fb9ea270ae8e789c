// Every method of the client of @langchain/langgraph-sdk against a real server.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "@langchain/langgraph-sdk";

const client = new Client({ apiUrl: process.env.SERVER, apiKey: null });

test("a run that is waited for gives its values", async () => {
  const values = await client.runs.wait(null, "steps", { input: { log: ["zero"] } });
  assert.deepEqual(values, { log: ["zero", "first", "second", "third"] });
});
