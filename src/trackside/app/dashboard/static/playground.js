// The playground: starts runs as any client of the API does, and shows what they say as it comes.
// What agents say is set as text, never as markup.

import { took } from "./durations.js";
import { eventsOf, FOR_GOOD } from "./events.js";
import { objectOf, parsed } from "./exact.js";
import { cost, LONGEST, log, made, Shown } from "./shown.js";

const root = document.querySelector('meta[name="trackside-root"]').content;
const token = document.querySelector('meta[name="trackside-token"]').content;
const at = (path) => `${root}${path}`;
const place = document.getElementById("playground");

const RECALLED = 20; // messages of a thread that was begun elsewhere
const AGAIN = 2_000; // milliseconds until a stream that was cut off is asked for again

/** Ask the API with a JSON text; the answer, or an error with the status, whose message is what the server says. */
async function ask(method, path, body, signal, headers = {}) {
  let response;
  try {
    response = await fetch(at(path), {
      method,
      signal,
      headers: { Accept: "application/json", ...(method === "GET" ? {} : { "Content-Type": "application/json", "X-CSRF-Token": token }), ...headers },
      body,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw Object.assign(new Error(said.detail ?? `The server answered with ${response.status}.`), { status: response.status });
}

function link(path, text) {
  const element = made("a", "", text);
  element.href = at(path);
  return element;
}

class Playground {
  constructor() {
    this.agent = place.dataset.agent;
    this.thread = place.dataset.thread || null;
    this.run = null; // that goes on: its attempt that is followed
    this.connection = null; // over which it is
    this.unsure = null; // what was asked for, with its key, where nobody knows whether a run has begun
    this.given = null; // the form with answers that was sent last, and what the server has read in it
    this.isStopped = false;
    this.isWriting = false; // something was typed since the last run was asked for
    this.form = document.getElementById("play-form");
    this.input = document.getElementById("play-input");
    this.send = document.getElementById("play-send");
    this.stop = document.getElementById("play-stop");
    this.asks = document.getElementById("play-asks");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.stop.addEventListener("click", () => this.cancel());
    const newest = document.getElementById("play-newest");
    newest?.addEventListener("click", () => {
      this.form.querySelector("[name=kind][value=json]").checked = true;
      this.input.value = newest.dataset.input;
      this.switch("json");
      this.input.focus();
    });
    document.getElementById("play-new").addEventListener("click", () => this.renew());
    for (const kind of this.form.querySelectorAll("[name=kind]")) kind.addEventListener("change", () => this.switch(kind.value));
    place.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.target.closest("#play-asks")) {
        event.preventDefault();
        this.form.requestSubmit();
      }
    });
    // Before htmx sends the form: what the run says is followed here.
    this.asks.addEventListener("submit", (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.answer(event.target, event.submitter);
    }, true);
    this.asks.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !event.target.matches("textarea")) return;
      event.target.form.requestSubmit(event.target.form.querySelector("button:not([name])"));
    });
    place.addEventListener("input", () => { this.isWriting = true; });
    document.addEventListener("keydown", (event) => {
      // With an input method it ends what is being spelled, and not the run.
      if (event.key === "Escape" && !event.isComposing && this.run && !document.querySelector("dialog[open]")) this.cancel();
    });
    // A stream is open only while the page is seen: browsers have six connections to a server, and many pages.
    document.addEventListener("visibilitychange", () => document.hidden && this.connection?.abort());
    document.addEventListener("trackside:silence", () => this.connection?.abort());
    this.showThread();
    this.send.disabled = false; // it is where nobody would hear of it
    this.recalled = this.thread && this.lookAlone(true); // what was said before
  }

  switch(kind) {
    document.getElementById("play-label").textContent = kind === "json" ? "Input, as JSON" : "Message";
    const example = this.input.dataset.example;
    if (kind === "json" && !this.input.value.trim()) this.input.value = example;
    else if (kind === "message" && this.input.value.trim() === example.trim()) this.input.value = "";
    this.complain("");
  }

  complain(text, field = this.input) {
    const problem = document.getElementById("play-problem");
    problem.textContent = text;
    problem.hidden = !text;
    for (const one of this.form.querySelectorAll("textarea")) one.removeAttribute("aria-invalid");
    if (text) field.setAttribute("aria-invalid", "true");
  }

  /** The text of a field, which is JSON. */
  json(id, name, isObject) {
    const field = document.getElementById(id);
    if (!field.value.trim()) return undefined;
    let value;
    try {
      value = JSON.parse(field.value);
    } catch (error) {
      this.complain(`${name}: this is no JSON. ${error.message}`, field);
      field.focus();
      throw null;
    }
    if (isObject && (typeof value !== "object" || value === null || Array.isArray(value))) {
      this.complain(`${name}: a JSON object is wanted.`, field);
      field.focus();
      throw null;
    }
    return field.value;
  }

  async submit() {
    if (this.run || this.send.disabled) return;
    this.complain("");
    const text = this.input.value;
    if (!text.trim()) {
      this.complain("There is nothing to send yet.");
      return;
    }
    const isJson = this.form.elements.kind.value === "json";
    let request;
    try {
      const input = isJson ? this.json("play-input", "Input", false) : JSON.stringify({ messages: [{ role: "user", content: text }] });
      request = { input, ...this.settings() };
    } catch (error) {
      if (error) throw error;
      return;
    }
    this.sent = isJson ? "" : text;
    if ((await this.begin(request, text, isJson)) && !isJson) this.input.value = "";
  }

  settings() {
    const config = this.json("play-config", "Config", true);
    const context = this.json("play-context", "Context", true);
    return { ...(config === undefined ? {} : { config }), ...(context === undefined ? {} : { context }) };
  }

  /** Start a run with what is asked for, each as JSON, and show it to its end; whether it was started, null if another was faster. */
  async begin(request, said, isJson = false) {
    this.busy(true);
    this.isStopped = this.isWriting = false;
    const shown = new Shown();
    const connection = new AbortController();
    let response;
    await this.recalled;
    try {
      if (!this.thread) {
        this.thread = (await (await ask("POST", "/threads", JSON.stringify({ metadata: { graph_id: this.agent } }))).json()).thread_id;
        this.showThread();
      }
      response = await this.start(objectOf({
        assistant_id: JSON.stringify(this.agent),
        stream_mode: '["messages-tuple", "custom"]',
        stream_subgraphs: "true",
        stream_resumable: "true",
        ...request,
      }), connection.signal);
    } catch (error) {
      this.busy(false);
      if (error.status === 409 && request.multitask_strategy === '"reject"') return null;
      this.complain(error.message);
      return false;
    }
    this.asks.replaceChildren();
    shown.add("Human", said.slice(0, LONGEST)).querySelector(".message-text").classList.toggle("mono", isJson);
    this.run = response.headers.get("Content-Location").split("/").pop();
    this.stop.hidden = false;
    this.connection = connection; // not before: only now it is known which run would be gone on with
    if (this.isStopped) this.cancel();
    this.follow(response, shown);
    return true;
  }

  /** Ask for a run. Whoever sends the same again because no answer came gets the run that has begun by then, and no second one. */
  async start(body, signal) {
    const path = `/threads/${encodeURIComponent(this.thread)}/runs/stream`;
    const asked = `${path} ${body}`;
    const key = this.unsure?.asked === asked ? this.unsure.key : crypto.getRandomValues(new Uint32Array(4)).join("-");
    this.unsure = null;
    try {
      return await ask("POST", path, body, signal, { "Idempotency-Key": key });
    } catch (error) {
      if (error.status < 500) throw error;
      this.unsure = { asked, key };
      throw new Error(`${error.message} The run may have begun all the same. Send the same again to see it: it does not begin twice.`);
    }
  }

  /** Show what the run says to its end, over as many connections and attempts as that takes. */
  async follow(response, shown) {
    const seen = { last: null }; // the id of the last event
    let problem = null; // that it is cut off
    for (;;) {
      let end = null;
      try {
        response ??= await this.join(seen.last);
        problem?.remove();
        problem = null;
        end = await this.take(response, shown, seen);
      } catch (error) {
        if (error.name === "SyntaxError" || FOR_GOOD.includes(error.status)) {
          shown.problem(error.status ? error.message : "The server said something that cannot be read.");
          break;
        }
      }
      response = null;
      if (end?.retried_as) shown = this.goOn(end.retried_as, shown, seen);
      else if (end) {
        if (end.error) this.fail(end, shown);
        break;
      } else {
        if (!document.hidden) problem ??= shown.problem("The connection was lost, and is being restored. The run goes on.");
        await this.untilSeen();
      }
    }
    shown.settle();
    try {
      const run = await (await ask("GET", `/runs/${this.run}`)).json();
      const thread = await this.look();
      if (run.status === "success") shown.output(JSON.parse(thread).values, () => parsed(thread).values);
      this.summarize(run, shown);
    } catch (error) {
      shown.problem(error.message);
    }
    this.busy(false);
  }

  /** Take its stream up again; that of an attempt once it has started, as before that nobody knows where it will be said. */
  async join(last) {
    while (last === null && (await (await ask("GET", `/runs/${this.run}`)).json()).status === "pending") await this.untilSeen();
    this.connection = new AbortController();
    const path = `/threads/${encodeURIComponent(this.thread)}/runs/${this.run}/stream`;
    return ask("GET", path, undefined, this.connection.signal, last === null ? {} : { "Last-Event-ID": last });
  }

  /** Show what one connection says; what its end says, or null if it was cut off. */
  async take(response, shown, seen) {
    if (document.hidden) this.connection.abort();
    for await (const { event, data, id } of eventsOf(response)) {
      seen.last = id;
      const [name] = event.split("|");
      if (name === "messages") shown.message([JSON.parse(data)].flat()[0]); // it comes with its metadata, or alone
      else if (name === "custom") shown.part(parsed(data));
      else if (name === "gap") shown.problem("Some of what it said did not arrive here. The thread has all of it.");
      else if (name === "error" || name === "end") return JSON.parse(data);
    }
    return null;
  }

  /** Some moments, and until the page is seen. */
  async untilSeen() {
    if (!document.hidden) await new Promise((resolve) => setTimeout(resolve, AGAIN));
    while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }

  /** Its worker left or was lost: from here on the next attempt is the run. What that says is shown in a place of its own. */
  goOn(run, shown, seen) {
    shown.settle();
    const note = made("p", "play-run", "It was broken off, and goes on as another attempt.");
    note.append(link(`/ui/runs/${this.run}`, "Run"));
    shown.append(note);
    this.run = run;
    this.stop.disabled = false;
    seen.last = null;
    return new Shown();
  }

  fail(end, shown) {
    if (!this.input.value) this.input.value = this.sent ?? ""; // to be sent again
    shown.problem(`It failed. ${end.error}${end.message ? `: ${end.message}` : ""}`);
  }

  /** What the run came to, under what it said. */
  summarize(run, shown) {
    const line = made("p", "play-run");
    const status = made("span", `status status-${run.status}`, run.status);
    line.append(status);
    if (run.duration_seconds !== null) line.append(made("span", "", took(run.duration_seconds)));
    const tokens = run.total_input_tokens + run.total_output_tokens;
    if (tokens) line.append(made("span", "", `${tokens.toLocaleString()} tokens`));
    if (run.cost_usd !== null) line.append(made("span", "", cost(run.cost_usd)));
    line.append(link(`/ui/runs/${run.run_id}`, "Run"), link(`/ui/threads/${run.thread_id}`, "Thread"));
    shown.append(line);
  }

  /** See whether the thread asks something, and, where it begins here, what was said in it last; the thread, as JSON. */
  async look(begins = false) {
    const asked = this.thread;
    const text = await (await ask("GET", `/threads/${encodeURIComponent(this.thread)}`)).text();
    if (this.thread !== asked) return text; // somebody has begun a new one meanwhile
    const thread = JSON.parse(text);
    const said = thread.values?.messages;
    if (begins && Array.isArray(said)) {
      const shown = new Shown();
      if (said.length > RECALLED) shown.append(made("p", "soft", `${said.length - RECALLED} earlier messages are on the thread's page.`));
      for (const message of said.slice(-RECALLED)) shown.message(message, true);
    }
    this.asks.replaceChildren();
    if (thread.status === "interrupted") await this.question();
    // Whoever writes on goes on to write: the next space would press the button.
    if (this.isWriting && document.activeElement?.matches("textarea")) return text;
    this.asks.querySelector("button[name=chosen], textarea")?.focus();
    return text;
  }

  /** The same for nothing else that goes on; of a thread that was left meanwhile nothing is said. */
  async lookAlone(begins) {
    const asked = this.thread;
    try {
      await this.look(begins);
    } catch (error) {
      if (this.thread === asked) this.complain(error.message);
    }
  }

  /** Have the questions of the thread here, with the form that its page has. */
  async question() {
    const path = `/ui/threads/${encodeURIComponent(this.thread)}`;
    const shown = made("div"); // gone when somebody has begun a new thread, or a run: then htmx leaves it alone
    this.asks.replaceChildren(shown);
    await htmx.ajax("GET", at(path), { source: shown, target: shown, swap: "innerMorph", select: "#thread-asks form.answer" });
    if (!shown.isConnected) return;
    const form = shown.querySelector("form");
    if (!form) this.sayUnseen(path);
    form?.classList.add("card", "asks");
    form?.setAttribute("aria-label", "It waits for your answer");
  }

  /** That it asks something, which could not be had here. */
  sayUnseen(path) {
    const shown = made("div", "card asks");
    const again = made("button", "small", "Try again");
    again.type = "button";
    again.addEventListener("click", () => this.lookAlone());
    const text = made("p", "", "It waits for an answer, but what it asks cannot be shown here. Try again, or answer it on the page of its ");
    text.role = "alert";
    text.append(link(path, "thread"), ".");
    shown.append(text, again);
    this.asks.replaceChildren(shown);
  }

  /** Go on with what the server reads in the form. */
  async answer(form, submitter) {
    if (this.run || this.send.disabled) return;
    this.complain("");
    const given = new URLSearchParams(new FormData(form, submitter));
    given.set("starts", "false");
    const sent = given.toString();
    // Sent once more because nobody knows whether a run has begun with it, it is as it was read: it may be answered by now.
    if (!this.unsure || this.given?.sent !== sent) this.given = { sent, read: await this.read(form, given) };
    const { read } = this.given;
    if (!read) return;
    const answers = read.answers.map((text) => JSON.parse(text));
    const words = answers.map((one, number) => (typeof one === "string" ? one : read.answers[number])).join("\n");
    const chosen = [submitter?.textContent, answers[0]?.decisions?.[0]?.message].filter(Boolean).join(": ");
    // Where another was faster, the server knows what is open now.
    if ((await this.reply(read.request, given.has("chosen") ? chosen : words)) === null) await this.answer(form, submitter);
  }

  /** What the server reads in the form; undefined, and said, if it does not answer with that. */
  async read(form, given) {
    const field = form.querySelector("textarea") ?? this.input;
    try {
      const response = await fetch(form.getAttribute("action"), { method: "POST", headers: { "HX-Request": "true" }, body: given });
      if (response.ok) return await response.json();
      const said = response.headers.get("content-type")?.startsWith("text/html") ? "" : await response.text(); // a proxy's page
      this.complain(said || `The server answered with ${response.status}.`, field);
    } catch {
      this.complain("The server does not answer.", field);
    }
  }

  async reply(request, said) {
    if (this.run || this.send.disabled) return false;
    let settings;
    try {
      settings = this.settings();
    } catch (error) {
      if (error) throw error;
      return false;
    }
    return this.begin({ ...request, ...settings }, said);
  }

  async cancel() {
    this.isStopped = true;
    if (!this.run) return;
    this.stop.disabled = true;
    try {
      await ask("POST", `/threads/${encodeURIComponent(this.thread)}/runs/${this.run}/cancel`);
    } catch (error) {
      this.complain(`It could not be stopped. ${error.message}`);
      this.stop.disabled = false;
    }
  }

  busy(isBusy) {
    this.send.disabled = isBusy;
    place.setAttribute("aria-busy", String(isBusy));
    this.stop.disabled = false;
    if (isBusy) return;
    this.stop.hidden = true;
    this.run = this.connection = null;
  }

  showThread() {
    const shown = document.getElementById("play-thread");
    shown.replaceChildren(...(this.thread ? ["thread ", link(`/ui/threads/${encodeURIComponent(this.thread)}`, `…${this.thread.slice(-8)}`)] : ["a new thread"]));
    document.getElementById("play-new").hidden = !this.thread;
  }

  renew() {
    if (this.send.disabled) return; // a run goes on, or is about to start
    this.thread = null;
    this.recalled = null;
    log.replaceChildren();
    this.asks.replaceChildren();
    this.complain("");
    this.showThread();
    this.input.focus();
  }
}

if (log) new Playground();

// The drawing of the graph: larger and smaller.

const graph = document.querySelector("svg.graph");
if (graph) {
  const [width, height] = [graph.width.baseVal.value, graph.height.baseVal.value];
  const room = graph.parentElement.clientWidth;
  let scale = Math.min(1, Math.max(0.5, room / width));
  const apply = () => {
    graph.setAttribute("width", String(width * scale));
    graph.setAttribute("height", String(height * scale));
  };
  apply();
  const buttons = document.querySelector(".graph-zoom");
  buttons.hidden = false;
  buttons.addEventListener("click", (event) => {
    const by = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (!by) return;
    scale = Math.min(3, Math.max(0.3, scale * Number(by)));
    apply();
  });
}
