// The desk as a page: messages as they come, and a librarian's two buttons where one is asked.
import { createElement as h, useState } from "react";
import { useStream } from "@langchain/langgraph-sdk/react";

export function Chat({ url, visitor = "Ada" }) {
  const [text, setText] = useState("");
  const stream = useStream({ apiUrl: url, assistantId: "desk", fetchStateHistory: true, reconnectOnMount: true });
  const about = { context: { name: visitor } };

  const send = (event) => {
    event.preventDefault();
    const message = { type: "human", content: text };
    setText("");
    stream.submit({ messages: [message] }, {
      ...about,
      optimisticValues: (values) => ({ messages: [...(values.messages ?? []), message] }),
    });
  };
  const answer = (resume) => stream.submit(undefined, { ...about, command: { resume } });

  const said = stream.messages.filter((message) => message.type !== "tool" && message.content);
  return h("section", null,
    h("ul", null, said.map((message, at) => h("li", { key: message.id ?? at, className: message.type }, message.content))),
    stream.error && h("p", { role: "alert" }, String(stream.error.message ?? stream.error)),
    stream.interrupt && !stream.isLoading && h("p", null, `${stream.interrupt.value.question} `,
      h("button", { type: "button", onClick: () => answer("yes") }, "Yes"),
      h("button", { type: "button", onClick: () => answer("no") }, "No")),
    h("form", { onSubmit: send },
      h("input", { value: text, onChange: (event) => setText(event.target.value), placeholder: "Where is Solaris?" }),
      stream.isLoading
        ? h("button", { type: "button", onClick: () => stream.stop() }, "Stop")
        : h("button", { type: "submit" }, "Send")));
}
