// `useStream` of @langchain/react, which speaks version 2 of the protocol, against a real server.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, human, newKey, recorder, release, SERVER } from "./serving.mjs";
import { mount } from "./rendering.mjs";
import { useExtension, useMessageMetadata, useMessages, useStream } from "@langchain/react";

const client = connect();
const texts = (view) => view.messages.map((message) => message.text);
const asking = (text) => ({ messages: [human(text)] });

const look = (stream) => ({
  messages: stream.messages,
  values: stream.values,
  isLoading: stream.isLoading,
  isThreadLoading: stream.isThreadLoading,
  interrupts: stream.interrupts,
  interrupt: stream.interrupt,
  toolCalls: stream.toolCalls,
  error: stream.error,
  threadId: stream.threadId,
  subgraphs: stream.subgraphs,
});

function chatOf(assistantId, more = {}, options = {}) {
  return mount(useStream, { apiUrl: SERVER, apiKey: null, assistantId, ...more }, look, options);
}

test("a message that is not finished is seen as far as it is", { timeout: 60_000 }, async () => {
  const key = newKey();
  const chat = await chatOf("speak");
  const submitted = chat.stream.submit(asking(key));
  const half = await chat.until((one) => texts(one)[1]?.trim() === "half");
  assert.ok(half.isLoading);
  await release(client, key);
  await submitted;
  const view = await chat.until((one) => !one.isLoading && texts(one)[1] === "half and whole");
  assert.deepEqual(texts(view), [key, "half and whole"]);
});

test("a thread is made for the first message, and the page is told of it and of the run", { timeout: 60_000 }, async () => {
  const threads = recorder();
  const created = recorder();
  const completed = recorder();
  const callbacks = { onThreadId: threads.note, onCreated: created.note, onCompleted: completed.note };
  const chat = await chatOf("chat", callbacks);
  await chat.stream.submit(asking("hi"));
  const view = await chat.until((one) => !one.isLoading && texts(one)[1] === "you said hi");
  assert.deepEqual(texts(view), ["hi", "you said hi"]);
  assert.deepEqual(threads.seen, [view.threadId]);
  const [{ runId }] = await created.until(1);
  assert.deepEqual(await completed.until(1), [{ runId, reason: "success" }]);
  assert.equal((await client.runs.get(view.threadId, runId)).status, "success");
});

test("it works where React renders everything twice", { timeout: 60_000 }, async () => {
  const chat = await chatOf("chat", {}, { strict: true });
  await chat.stream.submit(asking("hi"));
  const view = await chat.until((one) => !one.isLoading && texts(one)[1] === "you said hi");
  assert.deepEqual(texts(view), ["hi", "you said hi"]);
});

test("a conversation goes on, and another page shows it", { timeout: 60_000 }, async () => {
  const chat = await chatOf("chat");
  await chat.stream.submit(asking("one"));
  await chat.until((one) => !one.isLoading && one.messages.length === 2);
  await chat.stream.submit(asking("two"));
  const { threadId } = await chat.until((one) => !one.isLoading && texts(one)[3] === "you said two");
  chat.unmount();
  const other = await chatOf("chat", { threadId });
  const view = await other.until((one) => one.messages.length === 4);
  assert.deepEqual(texts(view), ["one", "you said one", "two", "you said two"]);
  await other.stream.submit(asking("three"));
  await other.until((one) => !one.isLoading && texts(one)[5] === "you said three");
});

test("a run on a thread that has had one is over when it has ended itself", { timeout: 60_000 }, async () => {
  for (let turn = 0; turn < 6; turn += 1) {
    const [before, key] = [newKey(), newKey()];
    await release(client, before);
    const { thread_id: threadId } = await client.threads.create();
    await client.runs.wait(threadId, "gate", { input: { key: before } });
    const [created, completed] = [recorder(), recorder()];
    const chat = await chatOf("gate", { threadId, onCreated: created.note, onCompleted: completed.note });
    await chat.until((one) => !one.isThreadLoading);
    let isOver = false;
    const submitted = chat.stream.submit({ key }).then(() => (isOver = true));
    const [{ runId }] = await created.until(1);
    while ((await client.runs.get(threadId, runId)).status === "pending");
    assert.deepEqual([isOver, chat.now.isLoading, completed.seen], [false, true, []]);
    await release(client, key);
    await submitted;
    await client.runs.join(threadId, runId);
    assert.equal((await completed.until(1)).length, 1);
    chat.unmount();
  }
});

test("a run that failed is an error", { timeout: 60_000 }, async () => {
  const completed = recorder();
  const chat = await chatOf("fail", { onCompleted: completed.note });
  await chat.stream.submit({ log: [] });
  const view = await chat.until((one) => !one.isLoading && one.error != null);
  assert.match(view.error.message, /it cannot be done/);
  assert.equal((await completed.until(1))[0].reason, "error");
});

test("a run is stopped", { timeout: 60_000 }, async () => {
  const created = recorder();
  const chat = await chatOf("gate", { onCreated: created.note });
  const submitted = chat.stream.submit({ key: newKey() });
  const [{ runId }] = await created.until(1);
  const { threadId } = await chat.until((one) => one.isLoading);
  await chat.stream.stop();
  await submitted;
  await chat.until((one) => !one.isLoading);
  await client.runs.join(threadId, runId);
  assert.equal((await client.runs.get(threadId, runId)).status, "interrupted");
});

test("a question is shown and answered", { timeout: 60_000 }, async () => {
  const completed = recorder();
  const chat = await chatOf("approve", { onCompleted: completed.note });
  await chat.stream.submit(asking("pay"));
  const asked = await chat.until((one) => !one.isLoading && one.interrupts.length === 1);
  assert.deepEqual(asked.interrupt.value, { question: "pay?", amount: 3 });
  // Whoever answers before the client has called back for the run that asked, as no human does, is not called back for the next.
  await completed.until(1);
  await chat.stream.respond("yes");
  const view = await chat.until((one) => !one.isLoading && one.messages.at(-1)?.text === "it is paid");
  assert.deepEqual(texts(view), ["pay", "may I?", "paid", "it is paid"]);
  assert.equal(view.interrupt, undefined);
  assert.deepEqual((await completed.until(2)).map((run) => run.reason), ["interrupt", "success"]);
  assert.equal((await client.threads.get(view.threadId)).status, "idle");
});

test("a question that was left open is there after a reload", { timeout: 60_000 }, async () => {
  const chat = await chatOf("approve");
  await chat.stream.submit(asking("pay"));
  const { threadId } = await chat.until((one) => !one.isLoading && one.interrupts.length === 1);
  chat.unmount();
  const other = await chatOf("approve", { threadId });
  const view = await other.until((one) => one.interrupts.length === 1);
  assert.deepEqual(view.interrupt.value, { question: "pay?", amount: 3 });
  await other.stream.respond("no", { interruptId: view.interrupt.id });
  await other.until((one) => !one.isLoading && one.messages.at(-1)?.text === "it is not paid: no");
});

test("a page that is opened again goes on with the run that is under way", { timeout: 60_000 }, async () => {
  const key = newKey();
  const created = recorder();
  const chat = await chatOf("speak", { onCreated: created.note });
  void chat.stream.submit(asking(key));
  await created.until(1);
  const { threadId } = chat.now;
  await chat.stream.disconnect();
  chat.unmount();

  const again = await chatOf("speak", { threadId });
  await again.until((one) => one.isLoading && texts(one)[1]?.trim() === "half");
  await release(client, key);
  const view = await again.until((one) => !one.isLoading && texts(one)[1] === "half and whole");
  assert.deepEqual(texts(view), [key, "half and whole"]);
});

test("a message is asked anew from the checkpoint before it, and its answer given anew", { timeout: 60_000 }, async () => {
  const chat = await mount(
    (options) => {
      const stream = useStream(options);
      return { stream, about: useMessageMetadata(stream, stream.messages.at(-1)?.id) };
    },
    { apiUrl: SERVER, apiKey: null, assistantId: "chat" },
    ({ stream, about }) => ({ ...look(stream), about }),
  );
  await chat.stream.stream.submit(asking("first"));
  const first = await chat.until((one) => !one.isLoading && one.messages.length === 2 && one.about?.parentCheckpointId);
  const [oldest] = (await client.threads.getHistory(first.threadId)).slice(-1);
  await chat.stream.stream.submit(asking("second"), { forkFrom: oldest.checkpoint.checkpoint_id });
  const edited = await chat.until((one) => !one.isLoading && texts(one)[1] === "you said second");
  assert.deepEqual(texts(edited), ["second", "you said second"]);

  await chat.stream.stream.submit(null, { forkFrom: first.about.parentCheckpointId });
  const again = await chat.until((one) => !one.isLoading && texts(one)[1] === "you said first");
  assert.deepEqual(texts(again), ["first", "you said first"]);
  assert.notEqual(again.messages[1].id, first.messages[1].id);
});

test("what a graph inside says is told apart, word by word", { timeout: 60_000 }, async () => {
  const key = newKey();
  const chat = await mount(
    (options) => {
      const stream = useStream(options);
      const inside = [...stream.subgraphs.values()][0];
      return { stream, inside, said: useMessages(stream, inside ?? { namespace: ["none"] }) };
    },
    { apiUrl: SERVER, apiKey: null, assistantId: "deep" },
    ({ stream, inside, said }) => ({ ...look(stream), inside, said }),
  );
  void chat.stream.stream.submit(asking(key));
  const half = await chat.until((one) => one.said.at(-1)?.text.trim() === "half");
  assert.deepEqual([half.inside.nodeName, half.inside.status], ["inside", "running"]);
  await release(client, key);
  // The page may be told of the end a moment before it shows the last words.
  const ended = (one) => !one.isLoading && one.inside.status === "complete";
  const view = await chat.until((one) => ended(one) && texts(one)[1] !== "half ");
  assert.deepEqual(texts(view), [key, "half and whole"]);
});

test("what a graph says beside its values arrives", { timeout: 60_000 }, async () => {
  const chat = await mount(
    (options) => {
      const stream = useStream(options);
      return { stream, custom: useExtension(stream, "custom") };
    },
    { apiUrl: SERVER, apiKey: null, assistantId: "steps" },
    ({ stream, custom }) => ({ ...look(stream), custom }),
  );
  await chat.stream.stream.submit({ log: [] });
  const view = await chat.until((one) => !one.isLoading && one.values.log?.length === 3);
  assert.deepEqual(view.values.log, ["first", "second", "third"]);
});
