// The camera, live. One picture is under way at a time; what the camera sees meanwhile is dropped, so
// that what is shown is never older than one answer takes. A picture is shown with its own classes.

const stage = find(".fcn-stage"), screen = find("canvas"), video = find("video");
const opacity = find(".fcn-opacity input");
const SIDES = [160, 224, 320, 448, 640].filter((side) => side <= props.most);
const AT_MOST = 300; // milliseconds for the network; slower, and smaller pictures are sent
const REST = 120_000; // without a word from the visitor, the camera stops after this long
let asked = 0; // number of the latest request; answers to older ones are ignored
let shown = null; // {picture, labels, classes} of the newest answer
let size = 1; // place in SIDES
let rates = []; // pictures per second, the latest few
let sentAt = 0;
let startedAt = 0;
let seen = []; // classes in the order in which they came up
let message = ["live_idle", {}];
let error = null;

function tell(key, values = {}) {
  message = [key, values];
  find(".fcn-live-status").textContent = say(key, values);
}

function translate() {
  showTexts();
  tell(...message);
  opacity.oninput();
  const able = props.possible && navigator.mediaDevices;
  find(".fcn-live-title").textContent = say(error ? "error_busy_title" : "live_title");
  find(".fcn-live-help").textContent = say(
    error ? `error_${error}` : able ? "live_help" : props.possible ? "live_insecure" : "live_off",
  );
  find(".fcn-start").disabled = !able;
  showLegend();
}

function showLegend() {
  const classes = shown?.classes ?? [];
  for (const { index } of classes) if (!seen.includes(index)) seen.push(index);
  find(".fcn-hint").textContent = shown
    ? say("live_classes")
    : say("knows", { count: chosenModel().classes.length });
  // In the order in which they came up, so that rows do not jump at every picture.
  const found = seen.map((index) => {
    const known = chosenModel().classes[index];
    return classes.find((each) => each.index === index) ?? { ...known, fraction: 0, confidence: 0 };
  });
  showClasses(find("tbody"), found, { nothing: shown ? "–" : "" });
}

function setState(state) {
  stage.dataset.state = state;
  find(".fcn-stop").disabled = state !== "ready";
}

async function start() {
  error = null;
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
  } catch {
    return stop("live_idle", "camera");
  }
  [rates, seen, startedAt] = [[], [], performance.now()];
  setState("ready");
  tell("live_starting");
  find(".fcn-stop").focus();
  send();
}

function stop(key, kind = null) {
  const hadFocus = element.contains(document.activeElement);
  asked += 1;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  [shown, seen, error] = [null, [], kind];
  find(".fcn-speed").hidden = true;
  message = [key, {}];
  setState("empty");
  translate();
  announceTo("fcn-timing", null);
  if (hadFocus) find(".fcn-start").focus();
}

// What the camera sees now, as small as the server is slow.
function grab() {
  const scale = Math.min(1, SIDES[size] / Math.max(video.videoWidth, video.videoHeight));
  const picture = document.createElement("canvas");
  picture.width = Math.max(1, Math.round(video.videoWidth * scale));
  picture.height = Math.max(1, Math.round(video.videoHeight * scale));
  picture.getContext("2d").drawImage(video, 0, 0, picture.width, picture.height);
  return picture;
}

let picture = null; // the one that is under way

function send() {
  if (!video.srcObject) return;
  if (performance.now() - startedAt > REST) return stop("live_rest");
  picture = grab();
  asked += 1;
  sentAt = performance.now();
  window.fcnHub.live = [picture.toDataURL("image/jpeg", 0.85), window.fcnHub.model, asked];
  trigger("submit");
}

async function receive() {
  const value = props.value;
  if (!value || value.request !== asked || !video.srcObject) return;
  if (value.error) return stop("live_idle", "server");
  if (value.model !== window.fcnHub.model) return send(); // another was chosen meanwhile
  const labels = await load(value.labels);
  if (value.request !== asked) return;
  shown = { picture, labels, classes: value.classes };
  draw();
  showLegend();
  announceTo("fcn-timing", value);
  showSpeed(performance.now() - sentAt);
  const { network } = value.milliseconds;
  if (network > AT_MOST && size > 0) size -= 1;
  else if (network < AT_MOST / 3 && size < SIDES.length - 1) size += 1; // about twice the pixels
  send();
}

function showSpeed(took) {
  rates = [...rates.slice(-4), 1000 / took];
  const rate = rates.reduce((sum, each) => sum + each, 0) / rates.length;
  find(".fcn-speed").textContent = say("live_speed", {
    rate: rate.toFixed(1),
    width: shown.picture.width,
    height: shown.picture.height,
  });
  find(".fcn-speed").hidden = false;
}

function draw() {
  if (!shown) return;
  const { width, height } = shown.picture;
  if (screen.width !== width || screen.height !== height) [screen.width, screen.height] = [width, height];
  screen.parentElement.style.setProperty("--ratio", width / height);
  const context = screen.getContext("2d");
  context.globalAlpha = 1;
  context.drawImage(shown.picture, 0, 0);
  context.globalAlpha = opacity.value / 100;
  context.drawImage(shown.labels, 0, 0);
}

opacity.oninput = () => {
  find(".fcn-opacity output").textContent = percent(opacity.value / 100);
  draw();
};
find(".fcn-start").onclick = start;
find(".fcn-stop").onclick = () => stop("live_idle");
onEvent("fcn-tab", (name) => name !== "live" && video.srcObject && stop("live_idle"));
onEvent("fcn-model", () => {
  seen = [];
  showLegend();
});

translate();
watch("value", receive);
watch("label", translate);
