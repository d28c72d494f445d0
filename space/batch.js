// Many pictures: sent one after the other, answered one after the other, taken home as one ZIP.

const find = (selector) => element.querySelector(selector);
const say = (key, values = {}) =>
  props.texts[props.label === "zh" ? "zh" : "en"][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

const button = find(".fcn-many"), input = find(".fcn-manyfiles"), gallery = find(".fcn-gallery");
const status = find(".fcn-batch-status"), bar = find("progress"), zip = find(".fcn-zip");
let asked = 0;
let message = null;

window.fcnHub = window.fcnHub || {};

function tell(key, values = {}) {
  message = key && [key, values];
  status.textContent = key ? say(key, values) : "";
}

function translate() {
  for (const node of element.querySelectorAll("[data-t]")) node.textContent = say(node.dataset.t);
  bar.setAttribute("aria-label", say("batch_title"));
  find(".fcn-batch-lead").textContent = say("batch_lead", { most: props.most });
  if (message) tell(...message);
}

function stop(key, values) {
  button.disabled = false;
  bar.hidden = true;
  tell(key, values);
}

button.onclick = () => input.click();
input.onchange = async () => {
  const files = [...input.files];
  input.value = "";
  if (!files.length) return;
  asked += 1;
  gallery.replaceChildren();
  zip.hidden = true;
  if (files.length > props.most) return stop("batch_too_many", { most: props.most });
  const request = asked;
  button.disabled = true;
  bar.hidden = false;
  const sent = [];
  for (const file of files) {
    if (file.size > props.max_bytes) {
      add({ file: file.name, error: "bytes" });
      continue;
    }
    bar.value = sent.length / files.length / 4; // a quarter of the bar is for sending
    tell("batch_sending", { done: sent.length, total: files.length });
    try {
      const { path } = await upload(file);
      sent.push({ path, orig_name: file.name, meta: { _type: "gradio.FileData" } });
    } catch {
      add({ file: file.name, error: "upload" });
    }
    if (request !== asked) return;
  }
  if (!sent.length) return stop("batch_none");
  window.fcnHub.batch = [sent, window.fcnHub.model, asked];
  trigger("submit");
};

// `error` is one of the kinds that the texts know.
function add({ file, error, thumbnail, classes }) {
  const item = document.createElement("li");
  const caption = document.createElement("span");
  if (thumbnail) {
    const image = document.createElement("img");
    image.src = thumbnail;
    image.alt = classes.map((each) => each.name).join(", ");
    item.append(image);
  }
  const limits = { megabytes: props.max_bytes >> 20, megapixels: Math.round(props.max_pixels / 1e6) };
  caption.textContent = error ? `${file}: ${say(`error_${error}`, limits)}` : file;
  item.classList.toggle("fcn-failed", Boolean(error));
  item.append(caption);
  gallery.append(item);
}

watch("value", () => {
  const value = props.value;
  if (!value || value.request !== asked) return;
  if (value.error) return stop("batch_failed");
  for (const row of value.rows.slice(gallery.querySelectorAll("[data-row]").length)) {
    add(row);
    gallery.lastElementChild.dataset.row = "";
  }
  bar.value = 0.25 + (0.75 * value.rows.length) / value.total;
  tell("batch_working", { done: value.rows.length, total: value.total });
  if (!value.zip) return;
  zip.href = value.zip.url;
  zip.hidden = false;
  const failed = gallery.querySelectorAll(".fcn-failed").length;
  stop("batch_done", { done: gallery.children.length - failed, failed });
});
watch("label", translate);
translate();
