// The tail of the log. Events come over a stream that goes on behind the last one that was seen, so that none is missed or
// comes twice; they are drawn in batches, and of what comes faster than it can be drawn the newest is. So it is with what came
// while nobody looked.

import { at, Hearing, say, writeTimes } from "./console.js";
import { piecesOf } from "./events.js";
import { parsed } from "./exact.js";

const log = document.getElementById("log");
const table = log.querySelector(".table-wrap");
const body = log.querySelector("tbody");
const template = document.getElementById("event-row").content.querySelector("tr");
const older = document.getElementById("older");
const fresh = document.getElementById("fresh");
const pause = document.getElementById("pause");
const says = JSON.parse(log.dataset.says);
const MOST_ROWS = Number(log.dataset.mostRows);
const MOST_CHARS = Number(log.dataset.mostChars);
const RETRY = 2_000; // milliseconds
const AT_ONCE = 200; // events that are drawn in one go
const MISSED = 10; // events that are asked for first, of what came while nobody looked
const MOST_MISSED = 250; // that are asked for at once, and about how many characters these may have
const MISSED_CHARS = 5_000_000;
const MOST_WAITING = 20_000_000; // characters of events that have not been drawn
const SHARE = 2; // a batch is followed by so many times as long in which nothing is drawn

// What is shown of an event: the same as the server writes.

function lineOf(type, payload) {
  const found = (says[type] ?? []).map((path) => path.split(".").reduce((value, name) => value?.[name], payload));
  const values = found.filter((one) => one !== null && one !== undefined).map((one) => (typeof one === "string" ? one : JSON.stringify(one)));
  const texts = values.map((value) => value.slice(0, 400).split(/[^\S\ufeff]+/).filter(Boolean).join(" "));
  const kept = texts.filter((text, number) => !(texts[number + 1] ?? "").startsWith(text)); // many errors begin with their type
  return kept.join(type === "thread_status_updated" ? " → " : " · ").slice(0, 300) || "payload";
}

// Signs that nobody sees, or that have a text read in another order.
const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (sign) => `⟨U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
// The same in JSON, which says what it said: as `seen_in` of the server escapes them.
const UNSEEN = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const escaped = (sign) => sign.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join("");

function seenIn(text) {
  const isAscii = (at) => !(text.charCodeAt(at) > 0x7f);
  // Joiners belong to how Persian and Indic words and some emoji are written, and to nothing in ASCII.
  const belongs = (sign, place) => /[\u200c\u200d]/.test(sign) && !isAscii(place - 1) && !isAscii(place + 1);
  return text.replace(UNSEEN, (sign, place) => (belongs(sign, place) ? sign : escaped(sign)));
}

const shortId = (id) => (id.length <= 12 ? id : `…${id.slice(-8)}`);

const payloads = new WeakMap(); // of rows that have not been opened: a text that is made when somebody wants it

function rowOf({ position, data }) {
  const event = parsed(data);
  const row = template.cloneNode(true);
  const find = (selector) => row.querySelector(selector);
  row.dataset.position = position;
  find("time").dateTime = event.occurred_at;
  find(".event-type").textContent = event.event_type.replaceAll("_", " ");
  find(".event-type").classList.add(`event-${event.event_type}`);
  find(".sequence").textContent = event.sequence;
  for (const run of row.querySelectorAll(".run-link")) {
    run.href = at(`/ui/runs/${encodeURIComponent(event.run_id)}`);
    run.title = event.run_id;
    run.textContent = shortId(event.run_id);
  }
  const name = visible(event.thread_id);
  for (const thread of row.querySelectorAll(".thread-link")) {
    thread.href = at(`/ui/threads/${encodeURIComponent(event.thread_id)}`);
    thread.title = name;
    thread.querySelector("bdi").textContent = shortId(name);
  }
  find(".says").textContent = visible(lineOf(event.event_type, event.payload));
  const link = find(".json-link");
  link.href = at(`/events?after=${position - 1}&limit=1&run_id=${encodeURIComponent(event.run_id)}`);
  link.textContent = `Event ${position} as JSON`;
  const isLong = data.length > MOST_CHARS;
  payloads.set(row, isLong ? JSON.stringify(event.payload, null, 2).slice(0, MOST_CHARS) : event.payload);
  find(".cut-note").hidden = !isLong;
  return row;
}

log.addEventListener("toggle", (event) => {
  const row = event.target.closest("tr");
  if (!event.target.open) draw();
  const payload = payloads.get(row);
  if (payload === undefined) return;
  payloads.delete(row);
  row.querySelector(".payload").textContent = seenIn(typeof payload === "string" ? payload : JSON.stringify(payload, null, 2));
}, true);

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

function writeDays(within) {
  const today = new Date().toDateString();
  for (const time of within.querySelectorAll("time[data-clock]")) {
    const when = new Date(time.dateTime);
    if (when.toDateString() !== today) time.previousElementSibling.textContent = day.format(when);
  }
}

// A page that stays open has events of today that are those of yesterday later.
let written = new Date().toDateString(); // the day on which days were written
setInterval(() => {
  const today = new Date().toDateString();
  if (today !== written) writeDays(body);
  written = today;
}, 5_000);

// Batches. While somebody reads – has opened an event, is in the list, or has gone down – or has paused, new ones wait.

let waiting = []; // newest last; never more than the page can show
let chars = 0; // of all that wait
let skipped = 0; // that were never shown, and are older than all that is
let isCut = false; // more of them were never asked for, and nobody has counted those
let isDue = false;
let isResting = false;

function isHeld() {
  if (pause.getAttribute("aria-pressed") === "true") return true;
  if (log.getBoundingClientRect().top < 0 || body.contains(document.activeElement)) return true;
  return body.querySelector("details[open]") !== null;
}

function take(position, data) {
  waiting.push({ position, data });
  chars += data.length;
  if (waiting.length > 2 * MOST_ROWS) skip(waiting.length - MOST_ROWS);
  while (chars > MOST_WAITING && waiting.length > 1) skip(1);
  draw();
}

/** Take the oldest of those that wait. */
function taken(count) {
  const found = waiting.splice(0, count);
  for (const { data } of found) chars -= data.length;
  return found;
}

function skip(count) {
  skipped += taken(count).length;
}

function draw() {
  if (isDue || isResting) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    if (isHeld()) {
      fresh.hidden = waiting.length === 0;
      fresh.textContent = `${(waiting.length + skipped - said).toLocaleString()}${isCut ? " and more" : ""} new`;
      return;
    }
    drawWaiting();
  });
}

let said = 0; // how many of those skipped were said before

function drawWaiting() {
  fresh.hidden = true;
  if (!waiting.length) return;
  const begin = performance.now();
  if (waiting.length > MOST_ROWS) skip(waiting.length - MOST_ROWS);
  const rows = document.createDocumentFragment();
  for (const one of taken(AT_ONCE).reverse()) rows.append(rowOf(one));
  writeTimes(rows);
  writeDays(rows);
  // What was skipped lies behind these: what was shown before it goes with it.
  if (skipped > said || isCut) body.replaceChildren(rows);
  else body.prepend(rows);
  const before = body.rows.length;
  while (body.rows.length > MOST_ROWS) body.lastElementChild.remove();
  table.hidden = false;
  document.getElementById("nothing").hidden = true;
  saySkipped(before > MOST_ROWS);
  isResting = true;
  setTimeout(() => {
    isResting = false;
    if (waiting.length) draw();
  }, Math.min(SHARE * (performance.now() - begin), 1_000));
}

function saySkipped(hasMore) {
  const oldest = body.lastElementChild.dataset.position;
  if (hasMore || skipped > said || isCut) older.hidden = false;
  const url = new URL(older.href);
  url.searchParams.set("before", oldest);
  older.href = url.href;
  const note = document.getElementById("skipped");
  if (skipped > said || isCut) {
    const text = isCut ? "Events were skipped: more came than this page shows." : `${skipped.toLocaleString()} events were skipped: they came faster than anybody can read.`;
    note.querySelector("span").textContent = `${text} These are the newest.`;
    note.hidden = false;
    said = skipped;
    isCut = false;
  }
  note.querySelector("a").href = url.href;
}

function release() {
  if (waiting.length) draw();
}

if (pause) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    const isPaused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Resume" : "Pause";
    if (stream) say(isPaused ? "paused" : "live");
    release();
  });
  fresh.addEventListener("click", () => {
    if (pause.getAttribute("aria-pressed") === "true") pause.click();
    for (const opened of body.querySelectorAll("details[open]")) opened.open = false;
    document.activeElement?.blur?.();
    scrollTo({ top: 0 });
    draw();
  });
  document.addEventListener("focusout", () => setTimeout(release));
  document.addEventListener("scroll", release, { passive: true });
}

// The stream. It is open only while the page is seen.

let stream = null;
let catching = null; // what aborts the look at what was missed
let again = 0;
let last = Number(log.dataset.after);

const hearing = new Hearing(lose);

/** The address of what is behind the last event, with the filters. */
function behind(path, more = {}) {
  const query = new URLSearchParams(log.dataset.stream.split("?")[1]);
  for (const [name, value] of Object.entries({ after: last, ...more })) query.set(name, value);
  return at(`${path}?${query}`);
}

/** The text of an answer, each piece of which is heard: a large one takes its time. */
async function textOf(response) {
  let text = "";
  for await (const piece of piecesOf(response)) {
    hearing.heard();
    text += piece;
  }
  return text;
}

/** Take what was missed: as much of it as can be shown, the newest first, for a stream would bring all of a night. */
async function catchUp(signal) {
  const missed = [];
  let size = 0;
  let limit = MISSED;
  let more = {};
  while (more !== null && missed.length < MOST_ROWS && size < MOST_WAITING) {
    const response = await fetch(behind("/events", { newest_first: true, limit, ...more }), { signal, cache: "no-store" });
    if (!response.ok) throw new Error(`${response.status}`);
    const found = parsed(await textOf(response)).map((event) => ({ position: event.position, data: JSON.stringify(event) }));
    const weight = found.reduce((sum, { data }) => sum + data.length, 0);
    missed.push(...found);
    size += weight;
    // The next ones may be larger, so it asks for twice as many at most.
    limit = Math.max(1, Math.min(2 * limit, MOST_MISSED, Math.floor((found.length * MISSED_CHARS) / weight)));
    const before = response.headers.get("x-pagination-next");
    more = before === null ? null : { before };
  }
  if (more !== null) {
    skip(waiting.length);
    isCut = true;
  }
  for (const { position, data } of missed.reverse()) {
    last = position;
    take(position, data);
  }
}

async function listen() {
  clearTimeout(again);
  if (document.hidden || stream || catching) return;
  catching = new AbortController();
  const { signal } = catching;
  hearing.heard(); // one that does not open is lost as well
  try {
    await catchUp(signal);
  } catch {
    if (!signal.aborted) fail();
    return;
  }
  catching = null;
  stream = new EventSource(behind("/ui/log/stream"));
  stream.addEventListener("open", () => {
    hearing.heard();
    say(pause.getAttribute("aria-pressed") === "true" ? "paused" : "live");
  });
  stream.addEventListener("beat", () => hearing.heard());
  for (const type of log.dataset.types.split(" ")) {
    stream.addEventListener(type, (event) => {
      hearing.heard();
      const position = Number(event.lastEventId);
      if (position <= last) return;
      last = position;
      take(position, event.data);
    });
  }
  stream.addEventListener("error", fail);
}

function lose() {
  close();
  say("lost");
  again = setTimeout(listen, RETRY);
}

async function fail() {
  lose();
  try {
    const { status } = await fetch(at("/events?limit=1"));
    if (status === 401) location.reload(); // to where one can sign in
  } catch {
    // the server is away
  }
}

function close() {
  clearTimeout(again);
  hearing.end();
  catching?.abort();
  stream?.close();
  catching = stream = null;
}

writeDays(body);
if (log.dataset.stream !== undefined) {
  say("connecting");
  listen();
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : listen()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && listen());
}
