// Numbers as they were written. `JSON.parse` rounds integers above 2^53, which ids are, and makes `10` of `10.0`: what is parsed is
// looked at, and never sent.

const LONGEST = 500_000; // characters of which that is said: it takes several times as long

/** What a JSON text says, to be shown: `JSON.stringify` writes its numbers as they were, in browsers that can. */
export function parsed(text) {
  return JSON.parse(text, JSON.rawJSON && text.length <= LONGEST ? asWritten : undefined);
}

function asWritten(name, value, { source }) {
  return typeof value === "number" && String(value) !== source ? JSON.rawJSON(source) : value;
}

/** A JSON object whose values are texts that are JSON already. */
export function objectOf(fields) {
  return `{${Object.entries(fields).map(([name, text]) => `${JSON.stringify(name)}:${text}`).join(",")}}`;
}
