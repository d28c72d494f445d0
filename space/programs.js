// How programs call the endpoint, with this server's address and the chosen model filled in.

const here = location.origin + location.pathname.replace(/\/$/, "");

function snippets() {
  const model = JSON.stringify(window.fcnHub?.model ?? props.model);
  return {
    Python: `from gradio_client import Client, handle_file

client = Client("${here}")
overlay, summary, mask = client.predict(
    picture=handle_file("photo.jpg"), model=${model}, api_name="/segment"
)
for entry in summary["classes"]:
    print(entry["name"], entry["fraction"])`,
    JavaScript: `import { Client, handle_file } from "@gradio/client";

const client = await Client.connect("${here}");
const { data: [overlay, summary, mask] } = await client.predict("/segment", {
  picture: handle_file("photo.jpg"), model: ${model},
});`,
    curl: `# the picture by its address: first an event id, then the answer
curl -s ${here}/gradio_api/call/v2/segment -H "Content-Type: application/json" \\
  -d '{"picture": {"path": "https://example.org/photo.jpg", "meta": {"_type": "gradio.FileData"}}}'
curl -sN ${here}/gradio_api/call/segment/EVENT_ID`,
  };
}

function show() {
  showTexts();
  find(".fcn-mcp").hidden = !props.mcp;
  find(".fcn-mcp code").textContent = `${here}/gradio_api/mcp/`;
  find(".fcn-snippets").replaceChildren(
    ...Object.entries(snippets()).map(([language, code]) => {
      const box = document.createElement("div");
      const head = document.createElement("div");
      const pre = document.createElement("pre");
      const button = document.createElement("button");
      box.className = "fcn-snippet";
      pre.textContent = code;
      pre.tabIndex = 0; // it may scroll sideways, also by keyboard
      pre.setAttribute("role", "region");
      pre.setAttribute("aria-label", language);
      button.type = "button";
      button.className = "fcn-button";
      button.textContent = say("copy");
      button.setAttribute("aria-label", `${say("copy")}: ${language}`);
      button.onclick = async () => {
        await navigator.clipboard.writeText(code);
        button.textContent = say("copied");
        setTimeout(() => (button.textContent = say("copy")), 1500);
      };
      head.append(language, button);
      box.append(head, pre);
      return box;
    }),
  );
}

show();
watch("label", show);
onEvent("fcn-model", show);
