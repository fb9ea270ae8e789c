// `useStream` of @langchain/langgraph-sdk/react, which speaks version 1 of the protocol, against a real server.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, human, newKey, recorder, release, SERVER } from "./serving.mjs";
import { mount, storage } from "./rendering.mjs";
import { useStream } from "@langchain/langgraph-sdk/react";

const client = connect();
const texts = (view) => view.messages.map((message) => message.content);
const asking = (text) => ({ messages: [human(text)] });

const look = (stream) => ({
  messages: stream.messages,
  values: stream.values,
  isLoading: stream.isLoading,
  interrupt: stream.interrupt,
  error: stream.error,
  history: stream.history,
  branch: stream.branch,
  isThreadLoading: stream.isThreadLoading,
});

function chatOf(assistantId, more = {}) {
  return mount(useStream, { apiUrl: SERVER, apiKey: null, assistantId, fetchStateHistory: true, ...more }, look);
}

test("a message that is not finished is seen as far as it is", { timeout: 60_000 }, async () => {
  const key = newKey();
  const chat = await chatOf("speak");
  const submitted = chat.stream.submit(asking(key));
  const half = await chat.until((one) => one.messages.length === 2);
  assert.ok(half.isLoading);
  assert.equal(texts(half)[1].trim(), "half");
  await release(client, key);
  await submitted;
  const view = await chat.until((one) => !one.isLoading);
  assert.deepEqual(texts(view), [key, "half and whole"]);
});

test("a message is answered word by word, on a thread that is made for it", { timeout: 60_000 }, async () => {
  const seen = { threads: [], created: [], finished: [] };
  const chat = await chatOf("chat", {
    onThreadId: (id) => seen.threads.push(id),
    onCreated: (run) => seen.created.push(run),
    onFinish: (state, run) => seen.finished.push([state, run]),
  });
  await chat.stream.submit(asking("hi"));
  const view = await chat.until((one) => !one.isLoading && one.messages.length === 2 && one.history.length > 0);

  assert.deepEqual(texts(view), ["hi", "you said hi"]);
  const growing = [...new Set(chat.views.filter((one) => one.messages.length === 2).map((one) => texts(one)[1]))];
  assert.ok(growing.length >= 3, JSON.stringify(growing));
  assert.ok(growing.every((text) => "you said hi".startsWith(text)), JSON.stringify(growing));
  assert.equal(seen.threads.length, 1);
  assert.equal(seen.created[0].thread_id, seen.threads[0]);
  assert.equal((await client.runs.get(seen.threads[0], seen.created[0].run_id)).status, "success");
  assert.deepEqual(seen.finished[0][0].values.messages.length, 2);
});

test("a conversation goes on, and another page shows it", { timeout: 60_000 }, async () => {
  let threadId;
  const chat = await chatOf("chat", { onThreadId: (id) => (threadId = id) });
  await chat.stream.submit(asking("one"));
  await chat.until((one) => !one.isLoading && one.messages.length === 2);
  await chat.stream.submit(asking("two"));
  await chat.until((one) => !one.isLoading && one.messages.length === 4);
  chat.unmount();

  const other = await chatOf("chat", { threadId });
  const view = await other.until((one) => one.messages.length === 4);
  assert.deepEqual(texts(view), ["one", "you said one", "two", "you said two"]);
});

test("a run that failed is an error", { timeout: 60_000 }, async () => {
  const errors = [];
  const chat = await chatOf("fail", { onError: (error) => errors.push(error) });
  await chat.stream.submit({ log: [] });
  const view = await chat.until((one) => !one.isLoading && one.error != null);
  assert.match(String(view.error.message ?? view.error), /it cannot be done/);
  assert.ok(errors.length > 0);
});

test("a run is stopped", { timeout: 60_000 }, async () => {
  const created = recorder();
  const waiting = await chatOf("gate", { onCreated: created.note });
  const submitted = waiting.stream.submit({ key: newKey() });
  const [{ thread_id, run_id }] = await created.until(1);
  await waiting.stream.stop();
  await submitted;
  await waiting.until((one) => !one.isLoading);
  await client.runs.join(thread_id, run_id); // it was cancelled because its client went away
  assert.equal((await client.runs.get(thread_id, run_id)).status, "interrupted");
});

test("a question is shown and answered", { timeout: 60_000 }, async () => {
  const chat = await chatOf("approve");
  await chat.stream.submit(asking("pay"));
  const asked = await chat.until((one) => !one.isLoading && one.interrupt?.value != null);
  assert.deepEqual(asked.interrupt.value, { question: "pay?", amount: 3 });
  await chat.stream.submit(undefined, { command: { resume: "yes" } });
  const view = await chat.until((one) => !one.isLoading && one.messages.length === 4);
  assert.equal(view.interrupt, undefined);
  assert.deepEqual(texts(view), ["pay", "may I?", "paid", "it is paid"]);
});

test("a question that was left open is there after a reload", { timeout: 60_000 }, async () => {
  let threadId;
  const chat = await chatOf("approve", { onThreadId: (id) => (threadId = id) });
  await chat.stream.submit(asking("pay"));
  await chat.until((one) => !one.isLoading && one.interrupt != null);
  chat.unmount();
  const other = await chatOf("approve", { threadId });
  const view = await other.until((one) => one.interrupt?.value != null);
  assert.deepEqual(view.interrupt.value, { question: "pay?", amount: 3 });
  await other.stream.submit(undefined, { command: { resume: "no" } });
  const told = await other.until((one) => !one.isLoading && one.messages.length === 4);
  assert.equal(told.messages.at(-1).content, "it is not paid: no");
});

test("a message is asked anew, and both answers stay as branches", { timeout: 60_000 }, async () => {
  const chat = await chatOf("chat");
  await chat.stream.submit(asking("first"));
  const view = await chat.until((one) => !one.isLoading && one.messages.length === 2 && one.history.length > 1);
  const { firstSeenState } = chat.stream.getMessagesMetadata(view.messages[0]);
  await chat.stream.submit(asking("second"), { checkpoint: firstSeenState.parent_checkpoint });
  const changed = await chat.until((one) => !one.isLoading && texts(one)[1] === "you said second");
  assert.deepEqual(texts(changed), ["second", "you said second"]);
  const { branch, branchOptions } = await chat
    .until(() => chat.stream.getMessagesMetadata(chat.now.messages[0])?.branchOptions?.length === 2)
    .then(() => chat.stream.getMessagesMetadata(chat.now.messages[0]));
  chat.stream.setBranch(branchOptions.find((option) => option !== branch));
  const back = await chat.until((one) => texts(one)[0] === "first");
  assert.deepEqual(texts(back), ["first", "you said first"]);
});

test("a page that is opened again goes on with the run that it had followed", { timeout: 60_000 }, async () => {
  const key = newKey();
  const created = recorder();
  const { thread_id: threadId } = await client.threads.create();
  const options = { threadId, reconnectOnMount: true };
  const chat = await chatOf("speak", { ...options, onCreated: created.note });
  await chat.until((one) => !one.isThreadLoading);
  void chat.stream.submit(asking(key));
  const [{ run_id }] = await created.until(1);
  assert.equal(storage.getItem(`lg:stream:${threadId}`), run_id);
  await chat.until((one) => texts(one)[1]?.trim() === "half");
  chat.unmount();

  const again = await chatOf("speak", options); // it knows a checkpoint of the run, and says so
  await again.until((one) => one.isLoading && texts(one)[1]?.trim() === "half");
  await release(client, key);
  const view = await again.until((one) => !one.isLoading && texts(one)[1] === "half and whole");
  assert.deepEqual(texts(view), [key, "half and whole"]);
  assert.equal(storage.getItem(`lg:stream:${threadId}`), null);
});

test("what a graph says beside its values arrives in callbacks", { timeout: 60_000 }, async () => {
  const custom = [];
  const updates = [];
  const chat = await chatOf("steps", {
    onCustomEvent: (data) => custom.push(data),
    onUpdateEvent: (data) => updates.push(...Object.keys(data)),
  });
  await chat.stream.submit({ log: [] });
  await chat.until((one) => !one.isLoading && one.values.log?.length === 3);
  assert.deepEqual(custom, [{ at: "first" }, { at: "second" }, { at: "third" }]);
  assert.deepEqual(updates, ["first", "second", "third"]);
});
