// The page of a run: what it says while it says it, how long it goes on, and details of what is pointed at.
// All of it is set as text: agents write what they like.

import { soFar } from "./durations.js";
import { grow } from "./ends.js";
import { eventsOf, FOR_GOOD } from "./events.js";
import { parsed } from "./exact.js";

const refresh = () => htmx.trigger(document.getElementById("refresh"), "changed");
const section = document.getElementById("run-stream");
const lines = document.getElementById("stream-lines");
const state = document.getElementById("stream-state");
const details = document.getElementById("stream-details");

const MOST_LINES = 1_000; // what is older is dropped, and said to be
const MOST_CHARS = 20_000; // of one message: its end is what is new
const MOST_OF_PART = 2_000;
const AGAIN = 2_000; // milliseconds until a stream that was cut off is asked for again
const SILENCE = "silence"; // why it is left though the page is seen

// What was said, in its order: a message is one place that grows, anything else a line.

let messages = new Map();
let callers = new Map(); // of messages whose metadata came before them
let lastWho = null;
let dropped = 0;

function clear() {
  lines.replaceChildren();
  messages = new Map();
  callers = new Map();
  lastWho = null;
  dropped = 0;
}

function add(element) {
  grow(lines);
  lines.append(element);
  if (lines.childElementCount > MOST_LINES) drop();
}

/** Drops the oldest line, which is the one behind the note that says how many were dropped. */
function drop() {
  let note = lines.querySelector(":scope > .stream-dropped");
  if (!note) {
    note = document.createElement("p");
    note.className = "stream-note stream-dropped";
    lines.prepend(note);
  }
  note.nextElementSibling.remove();
  dropped += 1;
  note.textContent = `${dropped.toLocaleString()} lines before this are not shown any more.`;
}

function line(className, text) {
  const element = document.createElement("p");
  element.className = className;
  element.dir = "auto";
  element.textContent = text;
  add(element);
  return element;
}

function who(name) {
  if (name === lastWho) return;
  lastWho = name;
  line("stream-who", name);
}

function shortened(text, most) {
  return text.length > most ? `${text.slice(0, most)}… (${(text.length - most).toLocaleString()} more characters)` : text;
}

function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((block) => (typeof block === "string" ? block : block?.text ?? "")).join("");
}

/** A message, or a piece of it. Pieces add up; what comes as a whole takes the place of its pieces. */
function message(said, about, namespace, way) {
  if (!said || typeof said !== "object") return;
  const kind = String(said.type ?? said.role ?? "message");
  if (/^(human|user|system|remove)/i.test(kind)) return;
  const isPiece = way === "pieces" && kind.endsWith("Chunk");
  const key = String(said.id ?? `${messages.size}`);
  const text = textOf(said.content);
  const calls = (Array.isArray(said.tool_calls) ? said.tool_calls : []).map((call) => call?.name).filter(Boolean);
  let known = messages.get(key);
  if (!known) {
    if (!text && !calls.length) return;
    const caller = about?.langgraph_node ?? said.name ?? about?.caller ?? about?.agent ?? "agent";
    const speaker = String(kind).startsWith("tool") ? `tool ${said.name ?? caller}` : caller;
    const by = namespace === speaker ? speaker : [namespace, speaker].filter(Boolean).join(" › ");
    who(by);
    known = { element: line("words", ""), text: "", calls: new Set(), way, by };
    messages.set(key, known);
  }
  if (known.way !== way) return; // a run may stream the same in two ways
  if (!known.element.isConnected) { // it was dropped, and goes on
    who(known.by);
    known.element = line("words", "");
  }
  known.text = isPiece ? known.text + text : text || known.text;
  calls.forEach((name) => known.calls.add(name));
  const shown = known.text.length > MOST_CHARS ? `…${known.text.slice(-MOST_CHARS)}` : known.text;
  const called = [...known.calls].map((name) => `→ calls ${name}`).join("\n");
  grow(lines);
  known.element.textContent = [shown, called].filter(Boolean).join("\n");
}

function namesOf(namespace) {
  return namespace.map((one) => one.split(":")[0]).join(" › ");
}

/** A whole message, whose event's name does not say in which agent it was said: of a graph's its metadata do. */
function whole(said) {
  const about = callers.get(said?.id);
  message(said, about, namesOf(String(about?.langgraph_checkpoint_ns ?? "").split("|").slice(0, -1)), "whole");
}

function take(name, text) {
  const [mode, ...inside] = name.split("|");
  const namespace = namesOf(inside);
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    return;
  }
  if (mode === "messages") message(Array.isArray(data) ? data[0] : data, Array.isArray(data) ? data[1] : {}, namespace, "pieces");
  else if (mode === "messages/metadata") for (const [id, one] of Object.entries(data ?? {})) callers.set(id, one?.metadata ?? {});
  else if (mode === "messages/partial" || mode === "messages/complete") [data].flat().forEach(whole);
  else if (mode === "custom") part(namespace, shortened(JSON.stringify(parsed(text)), MOST_OF_PART));
  else if (mode === "updates") part(namespace, Object.keys(data ?? {}).map((node) => (node === "__interrupt__" ? "stops to ask" : `${node} is done`)).join(", "));
  else if (mode === "gap") line("stream-note", `Some of what it said is missing here: ${data?.why ?? "it is not kept any more, or did not arrive"}.`);
}

function part(namespace, text) {
  who(namespace || "parts");
  line("stream-json", text);
}

// The stream itself: open while the run goes on and the page is seen, or when somebody wants what a run said that is over.

let going = null;
let isDone = false;

async function follow() {
  if (going || isDone || document.hidden || !details.open) return;
  going = new AbortController();
  const { signal } = going;
  try {
    const response = await fetch(section.dataset.address, { headers: { Accept: "text/event-stream" }, signal, cache: "no-store" });
    if (FOR_GOOD.includes(response.status)) {
      isDone = true;
      state.textContent = response.status === 404 ? "it is not there any more" : "nothing can be had here now";
      return;
    }
    if (!response.ok) throw new Error(`${response.status}`); // a server that restarts, or is asked too often
    clear(); // it begins anew, with all that is kept
    state.textContent = section.dataset.isOver === "yes" ? "" : "live";
    for await (const { event, data } of eventsOf(response)) {
      if (event === "end" || event === "error") {
        end(event, data);
        return;
      }
      take(event, data);
    }
  } catch {
    // it could not be had, or was cut off, or left
  } finally {
    going = null;
  }
  if (signal.aborted && signal.reason !== SILENCE) return;
  state.textContent = "cut off: asking again";
  setTimeout(follow, AGAIN);
}

function end(name, data) {
  isDone = true;
  let said = {};
  try {
    said = JSON.parse(data);
  } catch {
    // then it has ended, and that is all
  }
  const isEmpty = !lines.querySelector(":scope > :not(.stream-note)");
  const mayHaveSpoken = section.dataset.isOver === "yes" || lines.childElementCount > 0;
  const nothing = isEmpty ? (mayHaveSpoken ? "no text of it is kept" : "it said nothing") : "";
  state.textContent = [name === "error" ? `failed: ${said.error ?? ""}` : "ended", nothing].filter(Boolean).join(", ");
  if (section.dataset.isOver !== "yes") refresh();
}

details.addEventListener("toggle", follow);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    going?.abort();
    going = null;
  } else follow();
});
document.addEventListener("trackside:silence", () => going?.abort(SILENCE));
addEventListener("pagehide", () => going?.abort());
follow();

// How long it goes on, between two words of the server's. The clock here may be off, and does not count. When the time has
// outgrown the axis the page is fetched anew: after 3 seconds, 7, 15 …

let counted = ""; // what the server said last
let since = 0;

const stale = document.getElementById("stale");

function count() {
  const element = document.querySelector("#run-duration[data-seconds]");
  if (!element || document.hidden || !stale.hidden) return; // nobody sees it, or nobody knows
  if (element.dataset.seconds !== counted) {
    counted = element.dataset.seconds;
    since = performance.now();
  }
  const seconds = Number(counted) + (performance.now() - since) / 1_000;
  if (seconds > 2 * Number(counted) + 1) refresh();
  element.textContent = soFar(seconds);
}

count();
setInterval(count, 1_000);

// Details of the row that is pointed at, or that has the focus.

const told = document.getElementById("wf-detail");

function tell(event) {
  const row = event.target.closest?.("[data-detail]");
  if (row) told.textContent = row.dataset.detail;
}

document.addEventListener("pointerover", tell);
document.addEventListener("focusin", tell);
