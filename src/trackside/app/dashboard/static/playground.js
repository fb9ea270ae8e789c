// The playground: starts runs as any client of the API does, and shows what they say as it comes.
// What agents say is set as text, never as markup.

const root = document.querySelector('meta[name="trackside-root"]').content;
const token = document.querySelector('meta[name="trackside-token"]').content;
const at = (path) => `${root}${path}`;
const place = document.getElementById("playground");
const log = document.getElementById("play-log");

/** An element with a class and a text. */
function made(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** Ask the API; the answer, or an error with the status, whose message is what the server says. */
async function ask(method, path, body, signal) {
  let response;
  try {
    response = await fetch(at(path), {
      method,
      signal,
      headers: { Accept: "application/json", ...(method === "GET" ? {} : { "Content-Type": "application/json", "X-CSRF-Token": token }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw Object.assign(new Error(said.detail ?? `The server answered with ${response.status}.`), { status: response.status });
}

/** The server-sent events of a response, one after the other: `{ event, data }`. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) yield { event, data: JSON.parse(data.join("\n")) };
        event = "message";
        data = [];
      } else if (line.startsWith("event:")) event = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}

/** The text of a message's content. */
function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content == null ? "" : JSON.stringify(content);
  return content.map((part) => (typeof part === "string" ? part : part.text ?? part.thinking ?? "")).join("");
}

const SPEAKERS = { human: "Human", user: "Human", ai: "AI", assistant: "AI", AIMessageChunk: "AI", tool: "Tool", system: "System" };
const CLASSES = { Human: "human", AI: "ai", Tool: "tool", System: "system" };

const RECALLED = 20; // messages of a thread that was begun elsewhere
const LONGEST = 20_000; // characters of a message

/** What one run has said, in the log. */
class Shown {
  constructor() {
    this.byId = new Map(); // elements of messages
    this.parts = null; // what was said beside messages
    this.said = 0;
  }

  add(speaker, text) {
    const entry = made("article", `message message-${CLASSES[speaker] ?? "other"}`);
    const header = made("header");
    header.append(made("b", "", speaker));
    const body = made("div", "message-text", text);
    body.dir = "auto";
    entry.append(header, body);
    this.append(entry);
    return entry;
  }

  append(element) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(element);
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  /** A message, or a piece of one. */
  message(message, isRecalled = false) {
    const kind = message.type ?? message.role ?? "ai";
    if (!isRecalled && (kind === "human" || kind === "user")) return;
    const speaker = SPEAKERS[kind] ?? String(kind);
    let entry = this.byId.get(message.id);
    if (!entry) {
      entry = this.add(speaker, "");
      this.byId.set(message.id ?? Symbol(), entry);
      this.said += 1;
    }
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    const body = entry.querySelector(".message-text");
    const text = textOf(message.content).slice(0, LONGEST);
    const isPiece = String(kind).endsWith("Chunk");
    if (isPiece) body.append(text);
    else body.textContent = text;
    entry.classList.toggle("is-streaming", isPiece);
    for (const call of message.tool_calls ?? []) {
      if (!call.name || entry.querySelector(`[data-call="${CSS.escape(String(call.id))}"]`)) continue;
      const line = made("div", "tool-call");
      line.dataset.call = call.id;
      line.append(made("span", "soft", "calls "), made("code", "", call.name));
      const args = JSON.stringify(call.args ?? {});
      if (!isPiece && args !== "{}") line.append(" ", made("code", "tool-arguments", args.slice(0, 2_000)));
      entry.append(line);
    }
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  /** Something else that an agent says as it goes. */
  part(value) {
    if (!this.parts) {
      this.parts = made("pre", "play-parts");
      this.parts.tabIndex = 0;
      this.parts.setAttribute("aria-label", "What it said as it went");
      this.append(this.parts);
    }
    const text = typeof value === "string" ? value : JSON.stringify(value);
    this.parts.append(`${this.parts.textContent ? "\n" : ""}${text.slice(0, 4_000)}`);
    this.parts.scrollTop = this.parts.scrollHeight;
    log.scrollTop = log.scrollHeight;
  }

  problem(text) {
    const said = made("p", "problem", text);
    said.setAttribute("role", "alert");
    this.append(said);
  }

  /** At the end nothing comes any more. */
  settle() {
    for (const entry of this.byId.values()) entry.classList.remove("is-streaming");
  }

  /** What has come out, if the messages have not said it already. */
  output(values) {
    if (values == null || this.said) return;
    const messages = Array.isArray(values.messages) ? values.messages : null;
    const last = messages?.[messages.length - 1];
    if (last && typeof last === "object" && !["human", "user"].includes(last.type ?? last.role)) {
      this.add(SPEAKERS[last.type ?? last.role] ?? "AI", textOf(last.content).slice(0, LONGEST));
      return;
    }
    if (!Object.keys(values).length) return;
    const text = JSON.stringify(values, null, 2);
    const entry = this.add("AI", text.slice(0, LONGEST));
    entry.querySelector("b").textContent = "Output";
    entry.querySelector(".message-text").classList.add("mono");
    if (text.length > LONGEST) entry.append(made("p", "soft", `… ${(text.length - LONGEST).toLocaleString()} more characters: see the thread`));
  }
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
    this.run = null; // that goes on
    this.isStopped = false;
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
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.run && !document.querySelector("dialog[open]")) this.cancel();
    });
    this.showThread();
    if (this.thread) this.look(true).catch((error) => this.complain(error.message));
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

  /** A field as JSON. */
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
    return value;
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
      const input = isJson ? this.json("play-input", "Input", false) : { messages: [{ role: "user", content: text }] };
      request = { input, ...this.settings() };
    } catch (error) {
      if (error) throw error;
      return;
    }
    const said = isJson ? JSON.stringify(request.input, null, 2) : text;
    this.sent = isJson ? "" : text;
    if ((await this.begin(request, said, isJson)) && !isJson) this.input.value = "";
  }

  settings() {
    const config = this.json("play-config", "Config", true);
    const context = this.json("play-context", "Context", true);
    return { ...(config === undefined ? {} : { config }), ...(context === undefined ? {} : { context }) };
  }

  /** Start a run and show it to its end; whether it was started, and null if it was not as another was faster. */
  async begin(request, said, isJson = false) {
    this.busy(true);
    this.isStopped = false;
    const shown = new Shown();
    let response;
    try {
      if (!this.thread) {
        this.thread = (await (await ask("POST", "/threads", { metadata: { graph_id: this.agent } })).json()).thread_id;
        this.showThread();
      }
      response = await ask("POST", `/threads/${encodeURIComponent(this.thread)}/runs/stream`, {
        assistant_id: this.agent,
        stream_mode: ["messages-tuple", "custom"],
        stream_subgraphs: true,
        ...request,
      });
    } catch (error) {
      this.busy(false);
      if (error.status === 409 && request.multitask_strategy === "reject") return null;
      this.complain(error.message);
      return false;
    }
    this.asks.replaceChildren();
    shown.add("Human", said.slice(0, LONGEST)).querySelector(".message-text").classList.toggle("mono", isJson);
    this.follow(response, shown);
    return true;
  }

  async follow(response, shown) {
    let hasEnded = false;
    let runId = null;
    try {
      for await (const { event, data } of eventsOf(response)) {
        const [name] = event.split("|");
        if (name === "metadata") {
          runId = data.run_id;
          this.run = runId;
          this.stop.hidden = false;
          if (this.isStopped) this.cancel();
        } else if (name === "messages") shown.message(data[0]);
        else if (name === "custom") shown.part(data);
        else if (name === "gap") shown.problem("Some of what it said did not come here. The thread has all of it.");
        else if (name === "error") {
          hasEnded = true;
          if (!this.input.value) this.input.value = this.sent ?? ""; // to be sent again
          shown.problem(`It failed. ${data.error}${data.message ? `: ${data.message}` : ""}`);
        } else if (name === "end") hasEnded = true;
      }
      if (!hasEnded) shown.problem("The connection was lost before the run had ended. The run goes on: see its page.");
    } catch (error) {
      shown.problem(error.name === "SyntaxError" ? "The server said something that cannot be read." : "The connection was lost. The run goes on: see its page.");
    }
    shown.settle();
    try {
      const run = runId && (await (await ask("GET", `/runs/${runId}`)).json());
      const thread = await this.look();
      if (run?.status === "success") shown.output(thread.values);
      if (run) this.summarize(run, shown);
    } catch (error) {
      shown.problem(error.message);
    }
    this.busy(false);
  }

  /** What the run came to, under what it said. */
  summarize(run, shown) {
    const line = made("p", "play-run");
    const status = made("span", `status status-${run.status}`, run.status);
    line.append(status);
    if (run.duration_seconds !== null) line.append(made("span", "", `${run.duration_seconds.toFixed(2)} s`));
    const tokens = run.total_input_tokens + run.total_output_tokens;
    if (tokens) line.append(made("span", "", `${tokens.toLocaleString()} tokens`));
    if (run.cost_usd !== null) line.append(made("span", "", `$${run.cost_usd.toPrecision(3)}`));
    line.append(link(`/ui/runs/${run.run_id}`, "Run"), link(`/ui/threads/${run.thread_id}`, "Thread"));
    shown.append(line);
  }

  /** See whether the thread asks something, and, where it begins here, what was said in it last. */
  async look(begins = false) {
    const thread = await (await ask("GET", `/threads/${encodeURIComponent(this.thread)}`)).json();
    const said = thread.values?.messages;
    if (begins && Array.isArray(said)) {
      const shown = new Shown();
      if (said.length > RECALLED) shown.append(made("p", "soft", `${said.length - RECALLED} earlier messages are on the thread's page.`));
      for (const message of said.slice(-RECALLED)) if (message && typeof message === "object") shown.message(message, true);
    }
    this.asks.replaceChildren();
    if (thread.status === "interrupted") await this.question();
    this.asks.querySelector("button[name=chosen], textarea")?.focus();
    return thread;
  }

  /** Have the questions of the thread here, with the form that its page has. */
  async question() {
    await htmx.ajax("GET", at(`/ui/threads/${encodeURIComponent(this.thread)}`), { target: this.asks, swap: "innerMorph", select: "#thread-asks form.answer" });
    const form = this.asks.querySelector("form");
    form?.classList.add("card", "asks");
    form?.setAttribute("aria-label", "It waits for your answer");
  }

  /** Go on with what the server reads in the form. */
  async answer(form, submitter) {
    if (this.run || this.send.disabled) return;
    this.complain("");
    const given = new URLSearchParams(new FormData(form, submitter));
    given.set("starts", "false");
    const field = form.querySelector("textarea") ?? this.input;
    let read;
    try {
      const response = await fetch(form.getAttribute("action"), { method: "POST", headers: { "HX-Request": "true" }, body: given });
      if (!response.ok) {
        this.complain(await response.text(), field);
        return;
      }
      read = await response.json();
    } catch {
      this.complain("The server does not answer.", field);
      return;
    }
    const words = read.answers.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join("\n");
    const chosen = [submitter?.textContent, read.answers[0]?.decisions?.[0]?.message].filter(Boolean).join(": ");
    // Where another was faster, the server knows what is open now.
    if ((await this.reply(read.request, given.has("chosen") ? chosen : words)) === null) await this.answer(form, submitter);
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
    this.run = null;
  }

  showThread() {
    const shown = document.getElementById("play-thread");
    shown.replaceChildren(...(this.thread ? ["thread ", link(`/ui/threads/${encodeURIComponent(this.thread)}`, `…${this.thread.slice(-8)}`)] : ["a new thread"]));
    document.getElementById("play-new").hidden = !this.thread;
  }

  renew() {
    if (this.run) return;
    this.thread = null;
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
