// What pages hear of answers to the same question, by the `StreamController` that `useStream` of version 2 is made of.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isUnknownInterruptError } from "@langchain/langgraph-sdk";
import { StreamController } from "@langchain/langgraph-sdk/stream";
import { connect, newKey, recorder, release } from "./serving.mjs";

const client = connect();
const shown = (page) => page.rootStore.getSnapshot().interrupts.map((interrupt) => interrupt.value);

// A thread that waits for the answer to "first?", and asks "second?" once the key's gate is open.
async function asked() {
  const key = newKey();
  const { thread_id: threadId } = await client.threads.create();
  await client.runs.wait(threadId, "twice", { input: { key } });
  const [{ id }] = (await client.threads.getState(threadId)).tasks[0].interrupts;
  return { key, threadId, id };
}

async function pageOf(threadId, assistantId = "twice") {
  const page = new StreamController({ assistantId, client, threadId, transport: "sse" });
  page.activate();
  await page.hydrate(threadId);
  return page;
}

async function answer(page, said) {
  await page.respond(said, { interruptId: page.rootStore.getSnapshot().interrupts[0].id });
}

// What a page shows, once that is so.
async function until(page, wanted) {
  await new Promise((resolve) => {
    const check = () => wanted(page.rootStore.getSnapshot()) && resolve();
    page.rootStore.subscribe(check);
    check();
  });
  return page.rootStore.getSnapshot();
}

// What a page hears of how runs go, on the stream of its own that has all it shows.
function lifecycleOn(page) {
  const heard = recorder();
  const note = ({ method, params }) => {
    if (method === "lifecycle" && params.namespace.length === 0) heard.note(params.data);
  };
  const open = ({ rootBus }) => ({ dispose: rootBus.subscribe(note) });
  page.registry.acquire({ key: "lifecycle", namespace: [], initial: undefined, open });
  return async (runId, event) => {
    const isIt = (said) => said.run_id === runId && said.event === event;
    for (let known = 1; !(await heard.until(known)).some(isIt); known = heard.seen.length + 1);
  };
}

test("a second answer to one question leaves the next one on every page", { timeout: 60_000 }, async () => {
  const { key, threadId, id } = await asked();
  const pages = [await pageOf(threadId), await pageOf(threadId)];
  assert.deepEqual(pages.map(shown), [["first?"], ["first?"]]);
  await pages[0].respond("yes", { interruptId: id });
  const heard = pages.map(lifecycleOn);
  const second = await client.runs.create(threadId, "twice", { command: { resume: { [id]: "yes" } } });
  await release(client, key);
  await client.runs.join(threadId, second.run_id);
  for (const one of heard) await one(second.run_id, "failed");
  for (const page of pages) await until(page, () => shown(page).includes("second?"));
  assert.deepEqual(pages.map(shown), [["second?"], ["second?"]]);
  for (const page of pages) await page.dispose();
});

for (const [when, goesOn] of [["while the first one's run goes on", true], ["once the next question is open", false]]) {
  test(`a strict answer is told that another one was first, ${when}`, { timeout: 60_000 }, async () => {
    const { key, threadId, id } = await asked();
    const page = await pageOf(threadId);
    const heard = lifecycleOn(page);
    const first = await client.runs.create(threadId, "twice", { command: { resume: { [id]: "yes" } } });
    if (!goesOn) await release(client, key);
    // The client takes what it hears of the other run after it has answered for what it hears of its own.
    await heard(first.run_id, goesOn ? "running" : "interrupted");
    await until(page, (view) => view.interrupts.every((interrupt) => interrupt.id !== id));
    await page.respond("no", { interruptId: id, strictResume: true });
    if (goesOn) await release(client, key);
    const { error } = await until(page, (view) => view.error != null);
    assert.ok(isUnknownInterruptError(error), String(error));
    const [{ id: next }] = (await client.threads.getState(threadId)).tasks[0].interrupts;
    assert.deepEqual([error.reason, error.interruptIds, error.pendingIds], ["not_pending", [id], [next]]);
    await until(page, () => shown(page).includes("second?"));
    assert.deepEqual(shown(page), ["second?"]);
    assert.equal((await client.threads.get(threadId)).status, "interrupted");
    await page.dispose();
  });
}

for (const [what, said, question, end] of [
  ["was answered in vain", "nothing", "how much?", "failed"],
  ["is asked behind another one of the same node", "again", "sure?", "interrupted"],
]) {
  test(`a question that ${what} is shown and answered on a page that is opened then`, { timeout: 60_000 }, async () => {
    const { thread_id: threadId } = await client.threads.create();
    await client.runs.wait(threadId, "pay", { input: { log: [] } });
    const first = await pageOf(threadId, "pay");
    assert.deepEqual(shown(first), ["how much?"]);
    await answer(first, said);
    const [{ run_id: runId }] = await client.runs.list(threadId, { limit: 1 });
    await client.runs.join(threadId, runId);
    const page = await pageOf(threadId, "pay");
    await lifecycleOn(page)(runId, end);
    assert.deepEqual(shown(page), [question]);
    await answer(page, "7");
    await until(page, (view) => view.values.log?.length === 1);
    assert.deepEqual(shown(page), []);
    for (const one of [first, page]) await one.dispose();
  });
}
