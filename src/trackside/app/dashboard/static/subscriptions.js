// How fast subscriptions move, as far as this page has seen it, and what going on elsewhere would mean.

const WINDOW = 30_000; // milliseconds that a rate is of
const looks = new Map(); // of each name: [when, cursor] of the looks so far
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en");

function look() {
  const now = performance.now();
  const isLive = !document.hidden && document.getElementById("liveness").dataset.state === "live";
  for (const element of document.querySelectorAll("[data-rate-of]")) {
    const name = element.dataset.rateOf;
    const cursor = Number(element.dataset.cursor);
    let seen = looks.get(name) ?? [];
    if (seen.length && cursor < seen.at(-1)[1]) seen = []; // it was sent back: that is no rate
    const isNew = !seen.length || cursor !== seen.at(-1)[1];
    if (isNew || isLive) seen.push([now, cursor]); // while nothing is heard it may move unseen
    while (seen.length > 2 && seen[1][0] < now - WINDOW) seen.shift();
    looks.set(name, seen);
    const [first, last] = [seen[0], seen.at(-1)];
    const seconds = (last[0] - first[0]) / 1_000;
    const text = seconds < 1 ? "–" : `${number.format((last[1] - first[1]) / seconds)}/s`;
    if (element.textContent !== text) element.textContent = text;
  }
}

function events(many) {
  return many === 1 ? "1 event" : `${whole.format(many)} events`;
}

function say() {
  const form = document.getElementById("seek");
  if (!form) return;
  const facts = document.getElementById("seek-facts").dataset;
  const [cursor, end] = [Number(facts.cursor), Number(facts.end)];
  const to = form.elements.to.value;
  const typed = form.elements.position.value.trim();
  const position = { beginning: 0, now: end }[to] ?? (/^[0-9]{1,15}$/.test(typed) && Number(typed) > 0 ? Number(typed) - 1 : NaN);
  let text = "A position is a whole number from 1 up.";
  if (position > end) text = `The log ends at ${whole.format(end)}.`;
  else if (position < cursor) text = `This moves it back: up to ${events(cursor - position)} will be delivered again. Parked events stay parked.`;
  else if (position > cursor) text = `This moves it ahead: up to ${events(position - cursor)} will be skipped and never delivered. Parked events stay parked.`;
  else if (position === cursor) text = "It is there already.";
  const shown = document.getElementById("seek-effect");
  if (shown.textContent !== text) shown.textContent = text;
  form.dataset.hxConfirm = `${text} Move it?`;
}

document.addEventListener("input", (event) => {
  if (!event.target.closest("#seek")) return;
  if (event.target.name === "position") event.target.form.elements.to.value = "position";
  say();
});
document.addEventListener("htmx:after:swap", () => {
  look();
  say();
});
setInterval(look, 2_000);
look();
say();
