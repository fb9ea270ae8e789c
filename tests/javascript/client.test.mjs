// Every method of the client of @langchain/langgraph-sdk against a real server. What nobody has called fails in the end.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, describe, test } from "node:test";
import { collect, connect, human, methodsOf, newKey, readUntil, release, watched } from "./serving.mjs";

const plain = connect();
const { client, called } = watched(plain);
// The client asks again and again whether a DELETE that got a 5xx would be possible now.
const once = watched(connect({ callerOptions: { maxRetries: 0 } }), called).client;
const { assistants, threads, runs, crons, store } = client;

const failing = (status, says) => (error) => error.status === status && (says == null || says.test(error.message));
const events = (parts) => parts.map((part) => part.event);
const ids = (list, name) => list.map((one) => one[name]).sort();

after(() => {
  const missing = methodsOf(plain).filter((method) => !called.has(method));
  assert.deepEqual(missing, [], "nobody has called these");
});

describe("assistants", () => {
  test("are the agents, found by name and by id", async () => {
    const found = await assistants.search({ limit: 100 });
    assert.ok(found.some((one) => one.graph_id === "chat"));
    assert.equal(await assistants.count(), found.length);
    const [chat] = await assistants.search({ graphId: "chat" });
    assert.deepEqual(await assistants.get("chat"), chat);
    assert.deepEqual(await assistants.get(chat.assistant_id), chat);
    assert.equal((await assistants.getVersions("chat"))[0].version, 1);
    await assert.rejects(assistants.get(randomUUID()), failing(404));
  });

  test("come in pages", async () => {
    const first = await assistants.search({ limit: 2, includePagination: true });
    assert.equal(first.assistants.length, 2);
    const rest = await assistants.search({ limit: 100, offset: Number(first.next), includePagination: true });
    assert.equal(rest.assistants.length, (await assistants.count()) - 2);
    assert.equal(rest.next, null);
  });

  test("say what they are made of", async () => {
    const graph = await assistants.getGraph("nested", { xray: true });
    assert.ok(graph.nodes.some((node) => String(node.id).includes("talk")));
    const schemas = await assistants.getSchemas("chat");
    assert.ok("messages" in schemas.input_schema.properties);
    assert.deepEqual(Object.keys(await assistants.getSubgraphs("nested")), ["inside"]);
    assert.deepEqual(Object.keys(await assistants.getSubgraphs("nested", { namespace: "inside" })), ["inside"]);
  });

  test("cannot be changed, and say so", async () => {
    await assert.rejects(assistants.create({ graphId: "chat" }), failing(501, /one assistant for each agent/));
    await assert.rejects(assistants.update("chat", { name: "x" }), failing(501));
    await assert.rejects(once.assistants.delete("chat"), failing(501));
    await assert.rejects(assistants.setLatest("chat", 1), failing(501));
  });
});

describe("threads", () => {
  test("are made, changed, found, counted and removed", async () => {
    const mark = randomUUID();
    const made = await threads.create({ metadata: { mark }, graphId: "chat", ttl: 60 });
    assert.equal(made.metadata.graph_id, "chat");
    assert.equal(made.status, "idle");
    assert.equal((await threads.create({ threadId: made.thread_id, ifExists: "do_nothing" })).thread_id, made.thread_id);
    await assert.rejects(threads.create({ threadId: made.thread_id }), failing(409));

    const changed = await threads.update(made.thread_id, { metadata: { more: 1 } });
    assert.deepEqual([changed.metadata.mark, changed.metadata.more], [mark, 1]);
    assert.equal(await threads.update(made.thread_id, { metadata: { more: 2 }, returnMinimal: true }), undefined);
    assert.equal((await threads.get(made.thread_id, { include: ["ttl"] })).metadata.more, 2);

    const query = { metadata: { mark } };
    assert.deepEqual(ids(await threads.search({ ...query, sortBy: "created_at" }), "thread_id"), [made.thread_id]);
    assert.deepEqual(await threads.search({ ...query, select: ["thread_id"] }), [{ thread_id: made.thread_id }]);
    assert.equal(await threads.count(query), 1);

    await threads.delete(made.thread_id);
    await assert.rejects(threads.get(made.thread_id), failing(404));
    assert.equal(await threads.count(query), 0);
  });

  test("are copied with their history, and pruned", async () => {
    const { thread_id } = await threads.create();
    await runs.wait(thread_id, "steps", { input: { log: ["zero"] } });
    const copy = await threads.copy(thread_id);
    assert.notEqual(copy.thread_id, thread_id);
    assert.deepEqual((await threads.getState(copy.thread_id)).values.log, ["zero", "first", "second", "third"]);
    assert.equal((await threads.getHistory(copy.thread_id)).length, (await threads.getHistory(thread_id)).length);

    assert.deepEqual(await threads.prune([copy.thread_id], { strategy: "keep_latest" }), { pruned_count: 1 });
    assert.equal((await threads.getHistory(copy.thread_id)).length, 1);
    assert.deepEqual(await threads.prune([copy.thread_id]), { pruned_count: 1 });
    await assert.rejects(threads.get(copy.thread_id), failing(404));
  });

  test("are made with the steps of another", async () => {
    const supersteps = [{ updates: [{ values: { log: ["given"] }, asNode: "first" }] }];
    const { thread_id } = await threads.create({ graphId: "steps", supersteps });
    const state = await threads.getState(thread_id);
    assert.deepEqual(state.values, { log: ["given"] });
    assert.deepEqual(state.next, ["second"]);
  });

  test("show their states, and go back to any of them", async () => {
    const { thread_id } = await threads.create();
    await runs.wait(thread_id, "steps", { input: { log: ["zero"] } });
    const history = await threads.getHistory(thread_id, { limit: 20 });
    assert.deepEqual(history[0].values.log, ["zero", "first", "second", "third"]);
    const before = history.find((state) => state.next[0] === "second");
    assert.deepEqual(before.values.log, ["zero", "first"]);
    const older = await threads.getHistory(thread_id, { before: before.checkpoint });
    assert.ok(older.length > 0 && older.length < history.length);
    assert.deepEqual(await threads.getHistory(thread_id, { before: { configurable: before.checkpoint } }), older);

    const id = before.checkpoint.checkpoint_id;
    assert.deepEqual(await threads.getState(thread_id, id), before);
    assert.deepEqual(await threads.getState(thread_id, before.checkpoint, { subgraphs: true }), before);

    const again = await runs.wait(thread_id, "steps", { input: null, checkpointId: id });
    assert.deepEqual(again.log, ["zero", "first", "second", "third"]);
    const { checkpoint } = await threads.updateState(thread_id, {
      values: { log: ["forked"] },
      checkpoint: before.checkpoint,
      asNode: "second",
    });
    assert.deepEqual((await threads.getState(thread_id)).values.log, ["zero", "first", "forked"]);
    const forked = await runs.wait(thread_id, "steps", { input: null, checkpoint });
    assert.deepEqual(forked.log, ["zero", "first", "forked", "third"]);
    const parents = (await threads.getHistory(thread_id, { limit: 50 })).map((state) => state.parent_checkpoint?.checkpoint_id);
    assert.equal(parents.filter((parent) => parent === id).length, 3); // the first time, again, and the fork
  });

  test("have no metadata of their states that could be changed", async () => {
    const { thread_id } = await threads.create();
    await assert.rejects(threads.patchState(thread_id, { patched: true }), failing(501, /PATCH \/threads/));
  });

  test("are followed over all their runs", async () => {
    const { thread_id } = await threads.create();
    const key = newKey();
    const run = await runs.create(thread_id, "gate", { input: { key }, streamMode: ["custom", "values"] });
    const leave = new AbortController();
    const following = threads.joinStream(thread_id, { signal: leave.signal, lastEventId: "-1" })[Symbol.asyncIterator]();
    await readUntil(following, (part) => part.data?.waits === key);
    await release(plain, key);
    await readUntil(following, (part) => part.event === "values" && part.data.log?.length === 1);
    await plain.runs.join(thread_id, run.run_id);
    await runs.wait(thread_id, "steps", { input: {} });
    await readUntil(following, (part) => part.event === "values" && part.data.log?.length === 4);
    leave.abort();
    await following.return?.();
  });
});

// Each of the ways in which a thread is followed is tried with what a page makes of it, in use_stream_v2.test.mjs.
describe("threads in version 2 of the protocol", { timeout: 60_000 }, () => {
  test("run, and say what a run brings", async (t) => {
    const thread = threads.stream({ assistantId: "chat" });
    t.after(() => thread.close());
    // Asked for before the run: the client ends what it opens later once it hears the end on a stream that it had before,
    // and a run as short as this one has ended by then.
    const { messages } = thread;
    await thread.run.start({ input: { messages: [human("hi")] } });
    const said = [];
    for await (const message of messages) said.push(await message.text);
    assert.deepEqual(said, ["you said hi"]);
    const values = await thread.output;
    assert.deepEqual(values.messages.map((message) => message.text), ["hi", "you said hi"]);
    assert.deepEqual((await threads.getState(thread.threadId)).next, []);
  });

  test("ask, and are answered", async (t) => {
    const thread = threads.stream({ assistantId: "approve" });
    t.after(() => thread.close());
    await thread.run.start({ input: { messages: [human("pay")] } });
    await thread.output;
    const [asked] = thread.interrupts;
    assert.deepEqual(asked.payload, { question: "pay?", amount: 3 });
    await thread.input.respond({ namespace: [], interrupt_id: asked.interruptId, response: "yes" });
    const [{ run_id }] = await runs.list(thread.threadId);
    assert.equal((await runs.join(thread.threadId, run_id)).messages.at(-1).content, "it is paid");
  });

  test("show their checkpoints, are forked, and refuse what nobody knows", async (t) => {
    const thread = threads.stream({ assistantId: "steps" });
    t.after(() => thread.close());
    await thread.run.start({ input: { log: [] } });
    assert.deepEqual((await thread.output).log, ["first", "second", "third"]);
    const { checkpoints } = await thread.state.listCheckpoints({ namespace: [] });
    assert.ok(checkpoints.length >= 4);
    const [{ values }] = [await thread.state.get({ namespace: [] })];
    assert.deepEqual(values.log, ["first", "second", "third"]);
    await assert.rejects(thread.input.inject({ namespace: [], message: {} }), /unknown_command|not|no /i);
  });
});

describe("runs", () => {
  test("are waited for, with a thread and without", async () => {
    let created;
    const values = await runs.wait(null, "steps", { input: { log: ["zero"] }, onRunCreated: (run) => (created = run) });
    assert.deepEqual(values, { log: ["zero", "first", "second", "third"] });
    assert.ok(created.run_id);
    const { thread_id } = await threads.create();
    await runs.wait(thread_id, "steps", { input: {}, onRunCreated: (run) => (created = run) });
    assert.equal(created.thread_id, thread_id);
    assert.equal((await runs.get(thread_id, created.run_id)).status, "success");
  });

  test("that come to nothing are no error", async () => {
    const { thread_id } = await threads.create();
    assert.deepEqual(await runs.wait(null, "quiet", { input: {} }), {});
    assert.deepEqual(await runs.wait(thread_id, "quiet", { input: {} }), {});
  });

  test("take config, context and metadata", async () => {
    const asked = { input: {}, config: { configurable: { language: "de" } }, context: { name: "Ada" } };
    // LangGraph's own server takes one of the two; both say whose they are here.
    assert.deepEqual((await runs.wait(null, "greet", { input: {}, context: asked.context })).log, ["hello Ada (en)"]);
    assert.deepEqual((await runs.wait(null, "greet", { input: {}, config: asked.config })).log, ["hello nobody (de)"]);
    const { thread_id } = await threads.create();
    const run = await runs.create(thread_id, "greet", { input: {}, metadata: { from: "js" } });
    assert.equal(run.metadata.from, "js");
    assert.deepEqual((await runs.join(thread_id, run.run_id)).log, ["hello nobody (en)"]);
  });

  test("fail as the client expects it", async () => {
    await assert.rejects(runs.wait(null, "fail", { input: {} }), /ValueError: it cannot be done/);
    const said = await runs.wait(null, "fail", { input: {}, raiseError: false });
    assert.deepEqual(said.__error__, { error: "ValueError", message: "it cannot be done" });
    const parts = await collect(runs.stream(null, "fail", { input: {}, streamMode: "values" }));
    assert.deepEqual(parts.at(-1), { event: "error", id: undefined, data: said.__error__ });
    const { thread_id } = await threads.create();
    await runs.wait(thread_id, "fail", { input: {}, raiseError: false });
    const thread = await threads.get(thread_id);
    assert.equal(thread.status, "error");
    await assert.rejects(runs.wait(null, "nobody", { input: {} }), failing(422, /nobody/));
    await assert.rejects(runs.wait(randomUUID(), "steps", { input: {} }), failing(404));
    await runs.wait(randomUUID(), "steps", { input: {}, ifNotExists: "create" });
  });

  test("stream each mode", async () => {
    const streamMode = ["values", "updates", "custom", "tasks", "checkpoints", "debug", "events"];
    const parts = await collect(runs.stream(null, "steps", { input: { log: ["zero"] }, streamMode }));
    assert.equal(parts[0].event, "metadata");
    for (const mode of streamMode) assert.ok(events(parts).includes(mode), mode);
    const of = (mode) => parts.filter((part) => part.event === mode).map((part) => part.data);
    assert.deepEqual(of("custom"), [{ at: "first" }, { at: "second" }, { at: "third" }]);
    assert.deepEqual(of("updates")[1], { second: { log: ["second"] } });
    assert.deepEqual(of("values").map((values) => values.log.length), [1, 2, 3, 4]);
    assert.ok(of("events").some((event) => event.event === "on_chain_end"));
  });

  test("stream messages word by word, added up or one by one, also of graphs inside", async () => {
    const input = { messages: [human("hi")] };
    const tuples = await collect(runs.stream(null, "chat", { input, streamMode: "messages-tuple" }));
    const chunks = tuples.filter((part) => part.event === "messages").map((part) => part.data);
    assert.ok(chunks.length > 3);
    assert.equal(chunks.map(([message]) => message.content).join(""), "you said hi");
    assert.ok(chunks.every(([, about]) => about.langgraph_node === "talk"));

    const added = await collect(runs.stream(null, "chat", { input, streamMode: "messages" }));
    const partial = added.filter((part) => part.event === "messages/partial").map((part) => part.data[0].content);
    assert.equal(partial.at(-1), "you said hi");
    assert.ok(partial.every((text, at) => at === 0 || text.startsWith(partial[at - 1])));
    assert.ok(events(added).includes("messages/metadata"));

    const inside = await collect(
      runs.stream(null, "nested", { input, streamMode: ["messages-tuple", "values"], streamSubgraphs: true }),
    );
    assert.ok(events(inside).some((event) => event.startsWith("messages|inside:")));
    assert.ok(events(inside).some((event) => event.startsWith("values|inside:")));

    const whole = await collect(runs.stream(null, "nested", { input, streamMode: "messages", streamSubgraphs: true }));
    const grown = whole.filter((part) => part.event === "messages/partial").map((part) => part.data[0].content);
    assert.equal(grown.at(-1), "you said hi");
  });

  test("are joined while they run and when they are over, from anywhere", async () => {
    const { thread_id } = await threads.create();
    const key = newKey();
    const run = await runs.create(thread_id, "gate", {
      input: { key },
      streamMode: ["custom", "values"],
      streamResumable: true,
    });
    const live = runs.joinStream(thread_id, run.run_id, { streamMode: "custom" })[Symbol.asyncIterator]();
    await readUntil(live, (part) => part.data?.waits === key);
    assert.equal((await runs.get(thread_id, run.run_id)).status, "running");
    assert.equal((await threads.get(thread_id)).status, "busy");
    await release(plain, key);
    const rest = await collect({ [Symbol.asyncIterator]: () => live });
    assert.deepEqual(rest.filter((part) => part.event === "custom").map((part) => part.data), [{ goes: key }]);
    assert.deepEqual((await runs.join(thread_id, run.run_id)).log, [key]);

    const all = await collect(runs.joinStream(thread_id, run.run_id, { lastEventId: "-1" }));
    const waits = all.find((part) => part.data?.waits === key);
    assert.ok(waits.id);
    const behind = await collect(runs.joinStream(thread_id, run.run_id, { lastEventId: waits.id }));
    assert.deepEqual(behind, all.slice(all.indexOf(waits) + 1));
    const stateless = await collect(runs.joinStream(null, run.run_id, { lastEventId: waits.id }));
    assert.deepEqual(stateless, behind);
  });

  test("go on where the connection was cut", async () => {
    const { thread_id } = await threads.create();
    const key = newKey();
    let cuts = 0;
    const cutting = connect({
      callerOptions: {
        fetch: async (url, init) => {
          const response = await fetch(url, init);
          if (!String(url).endsWith("/runs/stream") || cuts > 0) return response;
          cuts += 1;
          return new Response(cutBehind(response.body, key), response);
        },
      },
    });
    const parts = [];
    const asked = { input: { key }, streamMode: ["custom", "values"], streamResumable: true, onDisconnect: "continue" };
    for await (const part of cutting.runs.stream(thread_id, "gate", asked)) {
      parts.push(part);
      if (part.data?.waits === key) await release(plain, key);
    }
    assert.equal(cuts, 1);
    assert.deepEqual(parts.filter((part) => part.event === "custom").map((part) => part.data), [{ waits: key }, { goes: key }]);
    assert.deepEqual(parts.filter((part) => part.event === "values").at(-1).data.log, [key]);
  });

  test("are cancelled, and rolled back", async () => {
    const { thread_id } = await threads.create();
    const started = async () => {
      const run = await runs.create(thread_id, "gate", { input: { key: newKey() }, streamMode: "custom" });
      await readUntil(runs.joinStream(thread_id, run.run_id)[Symbol.asyncIterator](), (part) => part.data?.waits);
      return run.run_id;
    };
    const first = await started();
    await runs.cancel(thread_id, first, true);
    assert.equal((await runs.get(thread_id, first)).status, "interrupted");
    assert.equal((await threads.get(thread_id)).status, "idle");
    await runs.cancel(thread_id, first, true); // again: the same answer

    const second = await started();
    await runs.cancel(thread_id, second, true, "rollback");
    await assert.rejects(runs.get(thread_id, second), failing(404));

    const third = await started();
    await runs.cancelMany({ threadId: thread_id, runIds: [third] });
    await runs.join(thread_id, third);
    assert.equal((await runs.get(thread_id, third)).status, "interrupted");
    await assert.rejects(runs.cancel(thread_id, randomUUID()), failing(404));
  });

  test("stop where the client that goes had asked for it", async () => {
    const { thread_id } = await threads.create();
    const leave = new AbortController();
    let run;
    const asked = { input: { key: newKey() }, streamMode: "custom", onDisconnect: "cancel", signal: leave.signal };
    const stream = runs.stream(thread_id, "gate", { ...asked, onRunCreated: (created) => (run = created) });
    const parts = stream[Symbol.asyncIterator]();
    await readUntil(parts, (part) => part.data?.waits);
    leave.abort();
    await parts.next().catch(() => undefined);
    await runs.join(thread_id, run.run_id);
    assert.equal((await runs.get(thread_id, run.run_id)).status, "interrupted");
  });

  test("ask a human, and go on with the answer", async () => {
    const { thread_id } = await threads.create();
    const parts = await collect(
      runs.stream(thread_id, "approve", { input: { messages: [human("pay")] }, streamMode: ["values", "updates"] }),
    );
    const asked = parts.findLast((part) => part.event === "updates").data.__interrupt__[0];
    assert.deepEqual(asked.value, { question: "pay?", amount: 3 });
    const thread = await threads.get(thread_id);
    assert.equal(thread.status, "interrupted");
    assert.deepEqual(Object.values(thread.interrupts)[0][0].value, asked.value);
    const state = await threads.getState(thread_id);
    assert.deepEqual(state.next, ["pay"]);
    assert.equal(state.tasks[0].interrupts[0].id, asked.id);

    const values = await runs.wait(thread_id, "approve", { command: { resume: { [asked.id]: "yes" } } });
    assert.deepEqual(values.messages.map((message) => message.type), ["human", "ai", "tool", "ai"]);
    assert.equal(values.messages.at(-1).content, "it is paid");
    assert.equal((await threads.get(thread_id)).status, "idle");
  });

  test("stop before and after nodes, and are sent elsewhere", async () => {
    const { thread_id } = await threads.create();
    await runs.wait(thread_id, "steps", { input: {}, interruptBefore: ["second"] });
    assert.deepEqual((await threads.getState(thread_id)).next, ["second"]);
    await runs.wait(thread_id, "steps", { input: null, interruptAfter: ["second"] });
    assert.deepEqual((await threads.getState(thread_id)).next, ["third"]);
    const values = await runs.wait(thread_id, "steps", {
      command: { update: { log: ["told"] }, goto: { node: "second", input: {} } },
    });
    assert.deepEqual(values.log.slice(0, 3), ["first", "second", "told"]);
  });

  test("wait, are refused, or take the place of others on a busy thread", async () => {
    const busy = async () => {
      const { thread_id } = await threads.create();
      const key = newKey();
      const run = await runs.create(thread_id, "gate", { input: { key }, streamMode: "custom" });
      await readUntil(runs.joinStream(thread_id, run.run_id)[Symbol.asyncIterator](), (part) => part.data?.waits);
      return { thread_id, key, run_id: run.run_id };
    };
    const asked = { input: { log: ["next"] } };

    const refusing = await busy();
    await assert.rejects(
      runs.create(refusing.thread_id, "steps", { ...asked, multitaskStrategy: "reject" }),
      failing(409),
    );
    const queued = await runs.create(refusing.thread_id, "steps", { ...asked, multitaskStrategy: "enqueue" });
    assert.equal(queued.status, "pending");
    assert.deepEqual(ids(await runs.list(refusing.thread_id, { status: "pending" }), "run_id"), [queued.run_id]);
    await release(plain, refusing.key);
    assert.deepEqual((await runs.join(refusing.thread_id, queued.run_id)).log.slice(0, 2), [refusing.key, "next"]);
    assert.equal((await runs.list(refusing.thread_id)).length, 2);

    const taking = await busy();
    const values = await runs.wait(taking.thread_id, "steps", { ...asked, multitaskStrategy: "interrupt" });
    assert.equal(values.log[0], "next");
    assert.equal((await runs.get(taking.thread_id, taking.run_id)).status, "interrupted");

    const undone = await busy();
    await runs.wait(undone.thread_id, "steps", { ...asked, multitaskStrategy: "rollback" });
    await assert.rejects(runs.get(undone.thread_id, undone.run_id), failing(404));
  });

  test("are made many at once, later, and removed", async () => {
    const batch = await runs.createBatch([
      { assistantId: "steps", input: {} },
      { assistantId: "greet", input: {}, metadata: { second: true } },
    ]);
    assert.equal(batch.length, 2);
    assert.equal(batch[1].metadata.second, true);
    const alone = await runs.create(null, "steps", { input: {}, onCompletion: "keep" });
    assert.equal((await runs.join(alone.thread_id, alone.run_id)).log.length, 3);
    await runs.delete(alone.thread_id, alone.run_id);
    await assert.rejects(runs.get(alone.thread_id, alone.run_id), failing(404));

    const { thread_id } = await threads.create();
    const later = await runs.create(thread_id, "steps", { input: {}, afterSeconds: 3600, durability: "exit" });
    assert.equal(later.status, "pending");
    await runs.cancelMany({ threadId: thread_id, runIds: [later.run_id], action: "rollback" });
  });
});

describe("crons", () => {
  test("are made, changed, found, counted and removed", async () => {
    const { thread_id } = await threads.create();
    const asked = { schedule: "0 4 * * *", input: {}, metadata: { mark: thread_id }, timezone: "Europe/Berlin" };
    const own = await crons.createForThread(thread_id, "steps", asked);
    const free = await crons.create("steps", { ...asked, enabled: false, onRunCompleted: "keep" });
    assert.equal(own.thread_id, thread_id);
    assert.deepEqual(ids(await crons.search({ threadId: thread_id }), "cron_id"), [own.cron_id]);
    assert.equal(await crons.count({ metadata: { mark: thread_id } }), 2);
    const changed = await crons.update(free.cron_id, { schedule: "0 5 * * *", enabled: true });
    assert.deepEqual([changed.schedule, changed.enabled], ["0 5 * * *", true]);
    await crons.delete(own.cron_id);
    await crons.delete(free.cron_id);
    assert.equal(await crons.count({ metadata: { mark: thread_id } }), 0);
    await assert.rejects(crons.create("steps", { schedule: "never", input: {} }), failing(422, /never/));
  });
});

describe("the store", () => {
  test("keeps what clients and graphs put there", async () => {
    const place = ["people", randomUUID()];
    await store.putItem(place, "ada", { born: 1815 });
    await store.putItem(place, "alan", { born: 1912 }, { ttl: 60 });
    const ada = await store.getItem(place, "ada");
    assert.deepEqual([ada.value, ada.namespace, ada.key], [{ born: 1815 }, place, "ada"]);
    assert.ok(ada.createdAt && ada.updatedAt);
    assert.equal(await store.getItem(place, "nobody"), null);
    const { items } = await store.searchItems(place, { filter: { born: 1912 } });
    assert.deepEqual(ids(items, "key"), ["alan"]);
    assert.deepEqual(await store.listNamespaces({ prefix: place }), { namespaces: [place] });
    await store.deleteItem(place, "ada");
    assert.equal(await store.getItem(place, "ada"), null);

    const before = (await store.getItem(["counts"], "runs"))?.value.number ?? 0;
    assert.deepEqual((await runs.wait(null, "remember", { input: {} })).log, [`run ${before + 1}`]);
    assert.equal((await store.getItem(["counts"], "runs")).value.number, before + 1);
  });
});

// A body that breaks off, as a connection does, once the word has come.
function cutBehind(body, word) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  return new ReadableStream({
    async pull(controller) {
      const { value, done } = await reader.read();
      if (done) return controller.close();
      text += decoder.decode(value, { stream: true });
      controller.enqueue(value);
      if (text.includes(word)) {
        await reader.cancel();
        controller.error(new TypeError("terminated"));
      }
    },
  });
}
