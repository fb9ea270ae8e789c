// JavaScript's `RemoteGraph`: a graph of another program's, which asks, is answered, and says where it stands.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { Command } from "@langchain/langgraph";
import { RemoteGraph } from "@langchain/langgraph/remote";
import { connect, human, SERVER } from "./serving.mjs";

const last = (state) => state.messages.at(-1).content;

test("its questions are answered by a command", async () => {
  const thread_id = randomUUID();
  await connect().threads.create({ threadId: thread_id });
  const graph = new RemoteGraph({ graphId: "approve", url: SERVER });
  const config = { configurable: { thread_id } };
  const asks = (error) => error.interrupts[0].value.question === "pay?"; // a graph around it would pass the question on
  await assert.rejects(graph.invoke({ messages: [human("pay")] }, config), asks);
  const waiting = await graph.getState(config);
  assert.deepEqual(waiting.tasks[0].interrupts[0].value, { question: "pay?", amount: 3 });
  assert.equal(last(await graph.invoke(new Command({ resume: "yes" }), config)), "it is paid");
  assert.deepEqual((await graph.getState(config)).next, []);
});
