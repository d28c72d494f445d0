// One picture: choose it, ask the server once, then let the visitor explore the answer without
// another word to the server. Everything that is drawn comes from two maps, the class and the
// confidence of every pixel.

const viewer = find(".fcn-viewer"), stage = find(".fcn-stage"), frame = find(".fcn-frame");
const before = find(".fcn-before"), after = find(".fcn-after"), preview = find(".fcn-preview");
const opacity = find(".fcn-opacity input"), divider = find(".fcn-divider");
const tip = find(".fcn-tip"), cross = find(".fcn-cross");
const file = find(".fcn-file"), status = find(".fcn-status"), readout = find(".fcn-readout");

const hidden = new Set(); // indices of classes that are switched off
let result = null; // the server's answer, with `maps` once they are decoded
let source = null; // what was asked for: {picture} or {example}
let highlight = null; // index of the class that alone is shown
let point = null; // the pixel that is read out: {x, y} of the drawn maps
let asked = 0; // number of the latest request; answers to older ones are ignored
let ticking = null;
let keepFocus = false; // the button that had the focus is hidden while the network works

function translate() {
  showTexts();
  nameExamples();
  showLegend();
  showReadout();
  if (stage.dataset.state === "error") showError(stage.dataset.error);
}

const announce = (text) => (status.textContent = text);

// Choosing a picture

async function choose(picture) {
  if (!picture) return;
  stopCamera();
  if (picture.size > props.max_bytes) return showError("bytes");
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  begin(URL.createObjectURL(picture));
  announce(say("uploading"));
  const request = asked;
  try {
    const sent = fileData(await upload(picture), picture.name);
    if (request !== asked) return;
    source = { picture: sent };
  } catch {
    if (request === asked) showError("upload");
    return;
  }
  ask();
}

function chooseExample(name) {
  begin(props.examples[name]);
  source = { example: name };
  ask();
}

// From here on nothing of the previous picture is shown.
function begin(url) {
  keepFocus = stage.contains(document.activeElement);
  asked += 1;
  result = null;
  point = null;
  highlight = null;
  preview.onload = () => {
    if (!result && preview.naturalWidth) setRatio(preview.naturalWidth, preview.naturalHeight);
  };
  preview.src = url;
  setState("busy");
  showLegend();
  showReadout();
  showFiles();
  notify();
}

function ask() {
  if (!source) return;
  asked += 1;
  window.fcnHub.stage = [source.picture ?? null, window.fcnHub.model, source.example ?? null, asked];
  setState("busy");
  const start = performance.now();
  clearInterval(ticking);
  const tick = () => {
    const seconds = Math.round((performance.now() - start) / 1000);
    readout.textContent = say(seconds < 8 ? "working" : "waiting", { seconds });
  };
  ticking = setInterval(tick, 500);
  tick();
  announce(readout.textContent);
  trigger("submit");
}

async function receive() {
  const value = props.value;
  if (!value || value.request !== asked) return;
  clearInterval(ticking);
  if (value.error) return showError(value.error);
  try {
    value.maps = await decode(value);
  } catch {
    if (value.request === asked) showError("server");
    return;
  }
  if (value.request !== asked) return;
  result = value;
  for (const index of [...hidden]) if (!entry(index)) hidden.delete(index);
  applyHiddenNames();
  setRatio(result.maps.width, result.maps.height);
  for (const canvas of [before, after]) {
    canvas.width = result.maps.width;
    canvas.height = result.maps.height;
  }
  before.getContext("2d").putImageData(result.maps.picture, 0, 0);
  setState("ready");
  draw();
  showLegend();
  showReadout();
  showFiles();
  announce(say("done", { names: result.classes.map((each) => each.name).join(", ") }));
  notify();
}

// The other parts of the page want to know which picture is there.
function notify() {
  const ready = result && source;
  window.fcnHub.source = ready
    ? [source.picture ?? null, window.fcnHub.model, source.example ?? null]
    : null;
  announceTo("fcn-picture");
  announceTo("fcn-timing", result);
}

function setState(state) {
  stage.dataset.state = state;
  viewer.dataset.view = find(".fcn-views input:checked").value;
  const idle = state === "empty" || state === "camera";
  find(".fcn-another").disabled = idle;
  frame.tabIndex = state === "ready" ? 0 : -1;
  if (keepFocus && (state === "ready" || state === "error")) {
    (state === "ready" ? frame : find(".fcn-error button")).focus({ preventScroll: true });
    keepFocus = false;
  }
}

function setRatio(width, height) {
  frame.style.setProperty("--ratio", width / height);
}

function showError(kind) {
  asked += 1;
  clearInterval(ticking);
  result = null;
  source = null;
  stage.dataset.error = kind;
  setState("error");
  const isPicture = ["bytes", "pixels", "format", "damaged"].includes(kind);
  find(".fcn-error-title").textContent = say(isPicture ? "error_title" : "error_busy_title");
  find(".fcn-error-text").textContent = say(`error_${kind}`, limits());
  announce(`${find(".fcn-error-title").textContent}. ${find(".fcn-error-text").textContent}`);
  showLegend();
  showReadout();
  showFiles();
  notify();
}

// The maps

function pixels(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

// The classes come as their colours, which no two share: back to the place in `value.classes`.
async function decode(value) {
  const [picture, labels, confidence] = await Promise.all(
    ["picture", "labels", "confidence"].map((key) => load(value.files[key].url)),
  );
  const { naturalWidth: width, naturalHeight: height } = labels;
  const places = new Map(value.classes.map((each, place) => [parseInt(each.color.slice(1), 16), place]));
  const colors = pixels(labels, width, height).data;
  const places_of = new Uint16Array(width * height);
  for (let i = 0, j = 0; i < places_of.length; i++, j += 4) {
    places_of[i] = places.get((colors[j] << 16) | (colors[j + 1] << 8) | colors[j + 2]) ?? 0;
  }
  const grey = pixels(confidence, width, height).data;
  const sure = new Uint8Array(width * height);
  for (let i = 0; i < sure.length; i++) sure[i] = grey[4 * i];
  return { width, height, picture: pixels(picture, width, height), classes: places_of, sure };
}

const entry = (index) => result?.classes.find((each) => each.index === index);
const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

// Viridis: even steps of lightness, also for those who do not see all colours.
const VIRIDIS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"].map(rgb);
const SCALE = Array.from({ length: 256 }, (_, value) => {
  const at = (value / 255) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((from, channel) => from + (VIRIDIS[low + 1][channel] - from) * (at - low));
});

let scheduled = false;
function draw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    if (result) paint();
  });
}

// Colours over the picture: (1 - opacity) * picture + opacity * colour. A class that is switched
// off leaves the picture as it is; with one class highlighted all others are grey and dark.
function paint() {
  const { width, height, picture, classes, sure } = result.maps;
  const confidence = viewer.dataset.view === "confidence";
  const colors = result.classes.map((each) => rgb(each.color));
  const faded = result.classes.map((each) => highlight !== null && each.index !== highlight);
  const weights = result.classes.map((each, place) =>
    faded[place] || (hidden.has(each.index) && each.index !== highlight)
      ? 0
      : confidence ? 1 : opacity.value / 100,
  );
  const context = after.getContext("2d", { willReadFrequently: true });
  const image = context.createImageData(width, height);
  const from = picture.data, to = image.data;
  for (let i = 0, j = 0; i < classes.length; i++, j += 4) {
    const place = classes[i], weight = weights[place];
    const color = confidence ? SCALE[sure[i]] : colors[place];
    let red = from[j], green = from[j + 1], blue = from[j + 2];
    if (faded[place]) {
      red = green = blue = 0.3 * (0.3 * red + 0.59 * green + 0.11 * blue) + 24;
    }
    to[j] = red + (color[0] - red) * weight;
    to[j + 1] = green + (color[1] - green) * weight;
    to[j + 2] = blue + (color[2] - blue) * weight;
    to[j + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Classes

function showLegend() {
  find(".fcn-hint").textContent = result
    ? say("classes_help")
    : say("knows", { count: chosenModel().classes.length });
  const prepare = ({ index }, row, button) => {
    button.type = "button";
    button.setAttribute("aria-pressed", !hidden.has(index));
    const show = (only) => () => {
      highlight = only;
      draw();
    };
    row.onpointerenter = (event) => event.pointerType === "mouse" && show(index)();
    row.onpointerleave = show(null);
    // By keyboard only: a click focuses, too, and would hide what it has just switched.
    button.onfocus = () => button.matches(":focus-visible") && show(index)();
    button.onblur = show(null);
    button.onclick = () => toggle(index, button);
  };
  showClasses(find(".fcn-legend tbody"), result?.classes ?? [], { nothing: result ? "–" : "", prepare });
  find(".fcn-show-all").disabled = hidden.size === 0 || !result;
}

function toggle(index, button) {
  if (!hidden.delete(index)) hidden.add(index);
  highlight = null;
  button.setAttribute("aria-pressed", !hidden.has(index));
  find(".fcn-show-all").disabled = hidden.size === 0;
  draw();
}

find(".fcn-show-all").onclick = () => {
  hidden.clear();
  for (const button of findAll("button.fcn-entry")) button.setAttribute("aria-pressed", true);
  find(".fcn-show-all").disabled = true;
  draw();
};

// Reading pixels

function pixelAt(event) {
  const box = frame.getBoundingClientRect();
  const { width, height } = result.maps;
  return {
    x: Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * width))),
    y: Math.min(height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * height))),
  };
}

function read({ x, y }) {
  const { width, height, classes, sure } = result.maps;
  const place = classes[y * width + x];
  const { name, color } = result.classes[place];
  // In pixels of the visitor's picture, of which the page may draw a smaller copy.
  const scale = result.width / width;
  return {
    name, color,
    confidence: percent(sure[y * width + x] / 255),
    x: Math.floor((x + 0.5) * scale),
    y: Math.floor(((y + 0.5) * result.height) / height),
  };
}

function showReadout() {
  if (stage.dataset.state === "busy" && !result) return;
  cross.hidden = !(result && point);
  if (!result) readout.textContent = "";
  else if (!point) readout.textContent = say("read_help");
  else {
    const { color, ...values } = read(point);
    readout.replaceChildren(swatch(color), say("readout", values));
    cross.style.left = `${((point.x + 0.5) / result.maps.width) * 100}%`;
    cross.style.top = `${((point.y + 0.5) / result.maps.height) * 100}%`;
  }
}

frame.onpointermove = (event) => {
  tip.hidden = !result || event.pointerType !== "mouse";
  if (tip.hidden) return;
  const { name, color, confidence } = read(pixelAt(event));
  tip.replaceChildren(swatch(color), `${name} · ${confidence}`);
  const box = frame.getBoundingClientRect();
  tip.style.left = `${event.clientX - box.left}px`;
  tip.style.top = `${Math.min(event.clientY - box.top, box.height - 48)}px`;
  tip.classList.toggle("fcn-flip", event.clientX - box.left > box.width / 2);
};
frame.onpointerleave = () => (tip.hidden = true);
frame.onclick = (event) => {
  if (!result || event.target === divider) return;
  point = pixelAt(event);
  showReadout();
};
frame.onkeydown = (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !result || event.target === divider) return;
  event.preventDefault();
  const { width, height } = result.maps;
  const by = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 10 : 60)));
  const from = point ?? { x: width >> 1, y: height >> 1 };
  point = {
    x: Math.min(width - 1, Math.max(0, from.x + by * step[0])),
    y: Math.min(height - 1, Math.max(0, from.y + by * step[1])),
  };
  showReadout();
};

// Controls

opacity.oninput = () => {
  find(".fcn-opacity output").textContent = percent(opacity.value / 100);
  draw();
};
divider.oninput = () => frame.style.setProperty("--split", `${divider.value}%`);
for (const radio of findAll(".fcn-views input")) {
  radio.onchange = () => {
    viewer.dataset.view = radio.value;
    draw();
  };
}
for (const button of findAll(".fcn-choose")) button.onclick = () => file.click();
file.onchange = () => {
  choose(file.files[0]);
  file.value = "";
};
find(".fcn-another").onclick = () => {
  asked += 1;
  clearInterval(ticking);
  result = source = point = null;
  setState("empty");
  showLegend();
  showReadout();
  showFiles();
  notify();
  find(".fcn-empty .fcn-choose").focus();
};

onEvent("fcn-files-stage", ([picture]) => choose(picture));

// The camera

const video = find("video");

function stopCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

find(".fcn-camera").onclick = async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
    setState("camera");
    find(".fcn-capture").focus();
  } catch {
    stopCamera();
    showError("camera");
  }
};
find(".fcn-cancel").onclick = () => {
  stopCamera();
  setState("empty");
};
find(".fcn-capture").onclick = () => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => choose(new File([blob], "camera.jpg", { type: blob.type })), "image/jpeg", 0.95);
};

onEvent("fcn-tab", (name) => {
  if (name !== "stage" && stage.dataset.state === "camera") find(".fcn-cancel").click();
});
onEvent("fcn-model", () => {
  hidden.clear();
  if (source && result) {
    begin(preview.src);
    ask();
  } else showLegend();
});

// Files and links

function showFiles() {
  find(".fcn-save").disabled = !result;
  const names = { mask: "mask.png", summary: "summary.json", coco: "coco.json" };
  for (const link of findAll("[data-file]")) {
    if (result) {
      link.href = result.files[link.dataset.file].url;
      link.download = names[link.dataset.file];
    } else link.removeAttribute("href");
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

find(".fcn-save").onclick = () =>
  after.toBlob((blob) => save(blob, `${viewer.dataset.view === "confidence" ? "confidence" : "overlay"}.png`));

async function copy(text, button) {
  await navigator.clipboard.writeText(text);
  button.textContent = say("copied");
  setTimeout(() => (button.textContent = say(button.dataset.t)), 1500);
}

find(".fcn-link").onclick = (event) => {
  const link = new URLSearchParams({
    model: window.fcnHub.model,
    view: viewer.dataset.view,
    opacity: opacity.value,
    divider: divider.value,
  });
  const names = result ? result.classes.filter((each) => hidden.has(each.index)) : [];
  for (const each of names) link.append("hide", each.name);
  if (source?.example) link.set("example", source.example);
  const url = new URL(location.href);
  url.hash = link;
  copy(url.href, event.currentTarget);
};

let hiddenNames = [];

function applyHiddenNames() {
  for (const each of result.classes) if (hiddenNames.includes(each.name)) hidden.add(each.index);
  hiddenNames = [];
}

function applyLink() {
  const view = findAll(".fcn-views input").find((each) => each.value === settings.get("view"));
  if (view) view.checked = true;
  for (const [input, key] of [[opacity, "opacity"], [divider, "divider"]]) {
    if (settings.has(key)) input.value = settings.get(key);
    input.oninput();
  }
  hiddenNames = settings.getAll("hide");
  if (settings.get("example") in props.examples) return settings.get("example");
  return null;
}

// Start

showExamples(find(".fcn-thumbs"), chooseExample);

const example = applyLink();
setState("empty");
translate();
showFiles();
watch("value", receive);
watch("label", translate);
if (example) chooseExample(example);
