// The page of examples/langgraph_project in a DOM without a browser: somebody types, reads, and presses buttons.
import assert from "node:assert/strict";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { render } from "./rendering.mjs";
import { SERVER } from "./serving.mjs";

const { Chat } = await import(pathToFileURL(process.env.PAGE));

const items = (page) => page.all("li").map((item) => item.textContent);

function say(page, text) {
  page.type(page.one("input"), text);
  page.submit(page.one("form"));
}

test("a book is found, and lent when the librarian says yes", { timeout: 60_000 }, async () => {
  const page = await render(Chat, { url: SERVER });
  say(page, "Where is Solaris?");
  const found = "Solaris by Stanisław Lem stands on shelf B3.";
  await page.until(() => items(page)[1] === found && page.one("form button").textContent === "Send");
  assert.deepEqual(items(page), ["Where is Solaris?", found]);
  // It came word by word.
  const growing = ["Solaris by", "Solaris by Stanisław", "Solaris by Stanisław Lem"].map((text) => text + " ");
  assert.ok(growing.some((text) => page.looks.some((look) => look.includes(`${text}</li>`))), page.looks.join("\n"));

  say(page, "Then lend me Solaris, please.");
  await page.until(() => page.all("section > p > button").length === 2);
  assert.match(page.one("section > p").textContent, /Lend Solaris to Ada\?/);
  page.click(page.one("section > p > button"));
  await page.until(() => items(page).at(-1) === "Solaris is yours for 3 weeks, Ada.");
  assert.equal(page.all("[role=alert]").length, 0);
});
