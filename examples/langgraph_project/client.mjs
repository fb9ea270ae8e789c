// A visit to the library, through LangGraph's JavaScript client. All it knows of the server is its address.
//
//   node client.mjs http://127.0.0.1:2024
import { Client } from "@langchain/langgraph-sdk";

const VISITOR = { name: "Ada" };
const client = new Client({ apiUrl: process.argv[2] ?? "http://127.0.0.1:2024" });

// Run the assistant, and print what it says, word by word.
async function talk(threadId, asked) {
  let said = false;
  const stream = client.runs.stream(threadId, "desk", { ...asked, context: VISITOR, streamMode: "messages-tuple" });
  for await (const part of stream) {
    if (part.event === "error") throw new Error(part.data.message);
    if (part.event !== "messages") continue;
    const [message, about] = part.data;
    if (about.langgraph_node === "think" && message.content) {
      process.stdout.write((said ? "" : "desk: ") + message.content);
      said = true;
    }
  }
  if (said) console.log();
}

// Say something, and answer what a librarian is asked.
async function say(threadId, text) {
  console.log("you:", text);
  await talk(threadId, { input: { messages: [{ role: "user", content: text }] } });
  const { tasks } = await client.threads.getState(threadId);
  for (const asked of tasks.flatMap((task) => task.interrupts)) {
    console.log("librarian:", asked.value.question, "yes");
    await talk(threadId, { command: { resume: "yes" } });
  }
}

const { thread_id: threadId } = await client.threads.create({ metadata: { visitor: "Ada" } });
await say(threadId, "Where is Solaris?");
await say(threadId, "Then lend me Solaris, please.");
const { values } = await client.threads.getState(threadId);
console.log("messages:", values.messages.map((message) => message.type).join(" "));
for (const language of ["en", "de"]) {
  const asked = { input: {}, config: { configurable: { language } }, context: VISITOR };
  console.log("loans:", (await client.runs.wait(null, "loans", asked)).said);
}
