// Many pictures: sent one after the other, answered one after the other, taken home as one ZIP.

const stage = find(".fcn-stage"), others = find(".fcn-others"), input = find(".fcn-manyfiles"), gallery = find(".fcn-gallery");
const status = find(".fcn-batch-status"), bar = find("progress"), zip = find(".fcn-zip");
let asked = 0;
let working = false;
let message = ["batch_first", {}];

function tell(key, values = {}) {
  message = [key, values];
  status.textContent = say(key, values);
}

function translate() {
  showTexts();
  find(".fcn-batch-lead").textContent = say("batch_lead", { most: props.most });
  tell(...message);
}

function stop(key, values) {
  working = false;
  stage.dataset.state = gallery.children.length ? "ready" : "empty";
  others.disabled = stage.dataset.state === "empty";
  bar.hidden = true;
  tell(key, values);
}

for (const button of findAll(".fcn-many")) button.onclick = () => input.click();
input.onchange = () => {
  const files = [...input.files];
  input.value = "";
  send(files);
};
onEvent("fcn-files-batch", (files) => working || send(files));

async function send(files) {
  if (!files.length) return;
  asked += 1;
  gallery.replaceChildren();
  zip.hidden = true;
  if (files.length > props.most) return stop("batch_too_many", { most: props.most });
  const request = asked;
  working = others.disabled = true;
  stage.dataset.state = "ready";
  bar.hidden = false;
  const uploads = [];
  for (const file of files) {
    if (file.size > props.max_bytes) {
      add({ file: file.name, error: "bytes" });
      continue;
    }
    bar.value = uploads.length / files.length / 4; // a quarter of the bar is for sending
    tell("batch_sending", { done: uploads.length, total: files.length });
    try {
      uploads.push(fileData(await upload(file), file.name));
    } catch {
      add({ file: file.name, error: "upload" });
    }
    if (request !== asked) return;
  }
  if (!uploads.length) return stop("batch_none");
  window.fcnHub.batch = [uploads, window.fcnHub.model, asked];
  trigger("submit");
}

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
  caption.textContent = error ? `${file}: ${say(`error_${error}`, limits())}` : file;
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
