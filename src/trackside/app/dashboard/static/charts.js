// The charts of the overview: bars and lines over time, drawn by uPlot from what the page carries in `#series`.
// A page that fetches itself anew leaves the canvases alone; they take the new numbers, and whoever points at one goes on.

const DAY = 86_400;
const charts = new Map(); // by name: { plot, shape, tip, at }
let said = ""; // the text that is drawn
let given = null;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const UNITS = [["G", 1e9], ["M", 1e6], ["k", 1e3]];
const few = (value) => {
  const [unit, size] = UNITS.find(([, size]) => value >= 0.9995 * size); // 999,960 are 1M, as three digits say of it
  return `${Number((value / size).toPrecision(3))}${unit}`;
};
// Each from where so many of the next one would be written that they are one of it: 59.96 s are 1 min.
const TIMES = [["h", 3_600, 3_597], ["min", 60, 59.95], ["s", 1, 0.9995], ["ms", 0.001, 0]];
const lasting = (value) => {
  const [unit, size, from] = TIMES.find(([, , from]) => value >= from);
  return `${Number(Math.max(value / size, from ? 1 : 0).toPrecision(3))} ${unit}`;
};
const many = new Intl.NumberFormat("en");

const writes = {
  count: (value) => (value < 10_000 ? many.format(value) : few(value)),
  usd: (value) => (value === 0 ? "$0" : `$${value.toLocaleString("en", value >= 0.9995 ? { minimumFractionDigits: 2, maximumFractionDigits: 2 } : { maximumSignificantDigits: 3 })}`),
  seconds: (value) => (value === 0 ? "0" : lasting(value)),
};

function colour(tone) {
  // A custom property is told as it was written, `light-dark(…)`; what it comes to is told of a colour that uses it.
  probe.style.color = `var(--${tone})`;
  return getComputedStyle(probe).color;
}
const probe = document.createElement("span");
probe.hidden = true;
probe.style.forcedColorAdjust = "none"; // where the system has colours of its own, series are told apart all the same
document.body.append(probe);

/** Each layer's upper edge, the last layer first, since bars are drawn over those before them. */
function stacked(chart) {
  const sums = given.starts.map(() => 0);
  return chart.series.map((series) => series.values.map((value, i) => (sums[i] += value ?? 0))).reverse();
}

function dataOf(chart) {
  const middles = given.starts.map((start) => start + given.width / 2);
  return [middles, ...(chart.stacked ? stacked(chart) : chart.series.map((series) => series.values))];
}

function bounds() {
  return [given.starts[0], given.starts.at(-1) + given.width];
}

function ticks(plot, splits) {
  const [from, to] = bounds();
  let before = "";
  return splits.map((split) => {
    const when = new Date(split * 1_000);
    if (to - from > 3 * DAY) {
      const isSame = before === date.format(when);
      before = date.format(when);
      return isSame ? clock.format(when) : before;
    }
    const day = to - from > DAY / 2 ? date.format(when) : "";
    const isNew = before !== "" && before !== day;
    before = day;
    return isNew ? `${clock.format(when)}\n${day}` : clock.format(when);
  });
}

function optionsOf(name, chart, host) {
  const line = colour("line");
  const soft = colour("soft");
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const write = writes[chart.unit];
  const [from, to] = bounds();
  const bars = uPlot.paths.bars({ size: [0.82, 60], gap: 0 });
  const drawn = chart.stacked ? [...chart.series].reverse() : chart.series;
  return {
    width: host.clientWidth,
    height: host.clientHeight,
    padding: [8, 28, 0, 0], // half of the last label
    legend: { show: false },
    cursor: { y: false, points: { show: !chart.stacked, size: 6 }, drag: { x: true, y: false, setScale: false, dist: 6 } },
    scales: {
      x: { time: true, range: () => bounds() },
      y: { range: (_, __, max) => [0, most(max, chart.unit)] },
    },
    axes: [
      { stroke: soft, font, grid: { show: false }, ticks: { stroke: line, width: 1, size: 4 }, space: 64, size: to - from > DAY / 2 && to - from <= 3 * DAY ? 46 : 30, values: ticks },
      { stroke: soft, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: sizeOf, space: 36, incrs: chart.unit === "count" ? uPlotWhole : undefined, values: (_, splits) => splits.map((value) => write(value)) },
    ],
    series: [
      {},
      ...drawn.map((series) => chart.stacked
        ? { label: series.label, fill: colour(series.tone), width: 0, paths: bars, points: { show: false } }
        : { label: series.label, stroke: colour(series.tone), width: 2, spanGaps: false, points: { show: true, size: 5, fill: colour(series.tone) } }),
    ],
    hooks: {
      setCursor: [(plot) => tell(name, plot)],
      setSelect: [(plot) => zoom(plot)],
    },
  };
}

const uPlotWhole = [1, 2, 5].flatMap((n) => Array.from({ length: 13 }, (_, i) => n * 10 ** i)).sort((a, b) => a - b);

function most(max, unit) {
  if (!max) return unit === "usd" ? 0.01 : 1;
  return unit === "count" ? Math.max(max * 1.06, max + 0.2) : max * 1.08;
}

function sizeOf(plot, values) {
  const longest = (values ?? []).reduce((most, value) => Math.max(most, value.length), 0);
  return Math.max(34, longest * 7 + 12);
}

// What is under the pointer.

function layerAt(chart, index, plot) {
  if (!chart.stacked || index === null) return null;
  const value = plot.posToVal(plot.cursor.top, "y");
  let sum = 0;
  for (const series of chart.series) {
    sum += series.values[index] ?? 0;
    if (value <= sum) return value >= 0 ? series : null;
  }
  return null;
}

function stepAt(plot) {
  const when = plot.posToVal(plot.cursor.left, "x");
  const index = Math.floor((when - given.starts[0]) / given.width);
  return index >= 0 && index < given.starts.length ? index : null;
}

const key = (tone, text) => {
  const shown = document.createElement("span");
  shown.className = `key key-${tone}`;
  const name = document.createElement("bdi");
  name.textContent = text;
  shown.append(name);
  return shown;
};

function row(label, text, isHere = false) {
  const shown = document.createElement("div");
  shown.className = isHere ? "tip-row is-here" : "tip-row";
  const number = document.createElement("span");
  number.textContent = text;
  shown.append(label, number);
  return shown;
}

function tell(name, plot) {
  const entry = charts.get(name);
  if (!entry) return;
  const { tip } = entry;
  const chart = given.charts[name];
  const index = plot.cursor.left >= 0 ? stepAt(plot) : null;
  tip.hidden = index === null;
  if (index === null) return;
  const write = writes[chart.unit];
  const here = layerAt(chart, index, plot);
  const when = document.createElement("p");
  when.className = "tip-when";
  when.textContent = span(index);
  const rows = [...chart.series]
    .filter((series) => !chart.stacked || series.values[index])
    .reverse()
    .map((series) => row(key(series.tone, series.label), series.values[index] === null ? "–" : write(series.values[index]), series === here));
  if (!rows.length) rows.push(row("nothing", ""));
  if (chart.stacked && rows.length > 1) rows.push(row("in all", write(chart.series.reduce((sum, series) => sum + (series.values[index] ?? 0), 0))));
  tip.replaceChildren(when, ...rows);
  const left = plot.over.offsetLeft + plot.cursor.left;
  const isRight = left > entry.host.clientWidth / 2;
  tip.style.left = isRight ? "" : `${left + 12}px`;
  tip.style.right = isRight ? `${entry.host.clientWidth - left + 12}px` : "";
  tip.style.top = "4px";
}

function span(index) {
  const start = new Date(given.starts[index] * 1_000);
  const end = new Date(start.getTime() + given.width * 1_000);
  return `${whole.format(start)} – ${start.toDateString() === end.toDateString() ? clock.format(end) : whole.format(end)}`;
}

// Where a click leads: to the runs of the bar, or the time that was dragged over.

function runsOf(index, series = null) {
  const address = new URL(given.runs, location.href);
  address.searchParams.set("since", new Date(given.starts[index] * 1_000).toISOString());
  address.searchParams.set("until", new Date((given.starts[index] + given.width) * 1_000).toISOString());
  if (series?.status) address.searchParams.set("status", series.status);
  return address.href;
}

function zoom(plot) {
  const { left, width } = plot.select;
  if (width < 6) return;
  const first = Math.max(0, Math.floor((plot.posToVal(left, "x") - given.starts[0]) / given.width));
  const last = Math.min(given.starts.length - 1, Math.floor((plot.posToVal(left + width, "x") - given.starts[0]) / given.width));
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); // whoever comes back finds it as it was
  const address = new URL(given.zoom, location.href);
  address.searchParams.set("since", new Date(given.starts[first] * 1_000).toISOString());
  address.searchParams.set("until", new Date((given.starts[last] + given.width) * 1_000).toISOString());
  location.assign(address.href);
}

function follow(event, name) {
  const { plot } = charts.get(name);
  if (plot.select.width >= 6) return;
  const index = stepAt(plot);
  if (index === null) return;
  const chart = given.charts[name];
  const address = runsOf(index, layerAt(chart, index, plot));
  if (event.ctrlKey || event.metaKey) window.open(address, "_blank", "noopener");
  else location.assign(address);
}

// The same in numbers, made when somebody wants to read them.

function cell(name, content, isNumber = true) {
  const shown = document.createElement(name);
  if (isNumber) shown.className = "num";
  if (name === "th") shown.scope = isNumber ? "col" : "row";
  shown.append(content);
  return shown;
}

function link(text, address) {
  const shown = document.createElement("a");
  shown.href = address;
  shown.textContent = text;
  return shown;
}

/** Show a table in its place. Whoever goes by keys stays at the number where he was, or at the table where that is gone. */
function takeOver(place, table) {
  const was = place.contains(document.activeElement) ? document.activeElement.closest("td, th") : null;
  place.replaceChildren(table);
  if (!was) return;
  const [step, column] = [was.parentElement.querySelector("a").href, was.cellIndex];
  const row = [...table.rows].find((one) => one.querySelector("a")?.href === step);
  (row?.cells[column]?.querySelector("a") ?? place).focus({ preventScroll: true });
}

function writeNumbers(name) {
  const place = document.getElementById(`numbers-${name}`);
  if (!place?.closest("details").open) return;
  const chart = given.charts[name];
  const write = writes[chart.unit];
  const columns = chart.series.filter((series) => series.values.some(Boolean));
  const head = document.createElement("tr");
  head.append(cell("th", "When", false), ...columns.map((series) => cell("th", series.label)));
  head.firstChild.scope = "col";
  const rows = given.starts.map((_, index) => index).filter((index) => chart.series.some((series) => series.values[index]));
  const body = document.createElement("tbody");
  for (const index of rows.reverse()) {
    const line = document.createElement("tr");
    const numbers = columns.map((series) => {
      const value = series.values[index];
      return cell("td", value ? link(write(value), runsOf(index, series)) : "–");
    });
    line.append(cell("th", link(span(index), runsOf(index)), false), ...numbers);
    body.append(line);
  }
  const table = document.createElement("table");
  const top = document.createElement("thead");
  top.append(head);
  table.append(top, body);
  takeOver(place, table);
}

// Drawing.

const shapeOf = (chart) => JSON.stringify(chart.series.map((series) => [series.label, series.tone]));

function draw(name, host) {
  const chart = given.charts[name];
  const before = charts.get(name);
  if (before && before.host === host && before.shape === shapeOf(chart)) {
    before.plot.setData(dataOf(chart));
    tell(name, before.plot);
    return;
  }
  const { left = -10, top = -10 } = before?.plot.cursor ?? {};
  before?.plot.destroy();
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const plot = new uPlot(optionsOf(name, chart, host), dataOf(chart), host);
  host.replaceChildren(plot.root, tip);
  host.classList.add("is-link");
  charts.set(name, { plot, host, tip, shape: shapeOf(chart) });
  plot.over.addEventListener("click", (event) => follow(event, name));
  seen.observe(host);
  if (left >= 0) plot.setCursor({ left, top }); // whoever points at it goes on
}

const seen = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const entry = charts.get(target.dataset.chart);
    if (entry?.host === target && (entry.plot.width !== target.clientWidth || entry.plot.height !== target.clientHeight)) {
      entry.tip.hidden = true;
      entry.plot.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  }
});

function drawAll() {
  const series = document.getElementById("series");
  const text = series?.dataset.series ?? "";
  const hosts = [...document.querySelectorAll("[data-chart]")];
  const isDrawn = hosts.every((host) => charts.get(host.dataset.chart)?.host === host);
  if (text === said && isDrawn) return;
  said = text;
  given = text ? JSON.parse(text) : null;
  for (const [name, entry] of charts) {
    if (hosts.includes(entry.host)) continue;
    entry.plot.destroy();
    charts.delete(name);
  }
  if (!given) return;
  for (const host of hosts) {
    draw(host.dataset.chart, host);
    writeNumbers(host.dataset.chart);
  }
}

function redraw() {
  for (const { plot } of charts.values()) plot.destroy();
  charts.clear();
  said = "";
  drawAll();
}

document.addEventListener("htmx:after:swap", drawAll);
document.addEventListener("trackside:theme", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
matchMedia("(forced-colors: active)").addEventListener("change", redraw);
document.addEventListener("toggle", (event) => {
  const name = event.target.dataset?.numbers;
  if (name && given) writeNumbers(name);
}, true);

// A time until now moves on though nothing happens: when a step ends, the next one begins.

function moveOn() {
  const width = (given?.width ?? 60) * 1_000;
  setTimeout(() => {
    if (!document.hidden && !new URL(location.href).searchParams.has("until")) htmx.trigger(document.getElementById("refresh"), "changed");
    moveOn();
  }, Math.min(width - (Date.now() % width) + 50, 2 ** 31 - 1));
}

document.getElementById("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
drawAll();
moveOn();
