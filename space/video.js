// A clip: sent once, segmented frame by frame on the server, taken home as a video with a legend.

const stage = find(".fcn-stage"), file = find(".fcn-clipfile"), bar = find("progress");
const own = find(".fcn-own"), newest = find(".fcn-newest"), film = find(".fcn-result");
const another = find(".fcn-another-clip"), save = find(".fcn-save-clip");
let asked = 0; // number of the latest request; answers to older ones are ignored
let result = null;
let message = ["video_first", {}];

function tell(key, values = {}) {
  message = [key, values];
  find(".fcn-video-status").textContent = say(key, values);
}

function translate() {
  showTexts();
  nameExamples();
  tell(...message);
  find(".fcn-video-help").textContent = say("video_help", { seconds: props.max_seconds, ...limits() });
  if (stage.dataset.state === "error") showError(stage.dataset.error);
  showLegend();
}

function showLegend() {
  find(".fcn-hint").textContent = result
    ? say("video_classes")
    : say("knows", { count: chosenModel().classes.length });
  showClasses(find("tbody"), result?.classes ?? [], { nothing: result ? "–" : "" });
}

function setState(state) {
  const hadFocus = stage.contains(document.activeElement);
  stage.dataset.state = state;
  bar.hidden = state !== "busy";
  save.hidden = state !== "ready";
  another.disabled = state === "empty";
  if (state !== "ready") film.removeAttribute("src");
  if (hadFocus && state === "ready") film.focus({ preventScroll: true });
  if (hadFocus && state === "error") find(".fcn-error button").focus({ preventScroll: true });
  showLegend();
}

function showError(kind) {
  asked += 1;
  result = null;
  stage.dataset.error = kind;
  const isClip = ["bytes", "pixels", "format", "damaged"].includes(kind);
  find(".fcn-error-title").textContent = say(isClip ? "video_error_title" : "error_busy_title");
  find(".fcn-error-text").textContent = say(isClip ? `video_error_${kind}` : `error_${kind}`, limits());
  tell("video_failed");
  setState("error");
}

async function choose(clip) {
  if (!clip) return;
  if (clip.size > props.max_bytes) return showError("bytes");
  begin();
  own.src = URL.createObjectURL(clip);
  tell("video_sending");
  const request = asked;
  try {
    const sent = fileData(await upload(clip), clip.name);
    if (request === asked) ask(sent, null);
  } catch {
    if (request === asked) showError("upload");
  }
}

function begin() {
  asked += 1;
  result = null;
  newest.hidden = true;
  if (own.src) URL.revokeObjectURL(own.src);
  own.removeAttribute("src");
  bar.removeAttribute("value"); // until the first frame it is not known how far things are
  setState("busy");
}

function ask(sent, example) {
  window.fcnHub.video = [sent, window.fcnHub.model, example, asked];
  tell("video_waiting");
  trigger("submit");
}

function receive() {
  const value = props.value;
  if (!value || value.request !== asked) return;
  if (value.error) return showError(value.error);
  if (!value.video) return showProgress(value);
  result = value;
  film.src = save.href = value.video.url;
  const { frames, device, seconds, clip_seconds: whole } = value;
  const rounded = (number) => number.toLocaleString(locale(), { maximumFractionDigits: 1 });
  tell(whole - seconds > 0.5 ? "video_cut" : "video_done", {
    frames,
    device,
    seconds: rounded(seconds),
    whole: rounded(whole ?? seconds),
  });
  setState("ready");
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) film.play().catch(() => {});
}

function showProgress({ seconds, total, frame }) {
  newest.src = frame;
  newest.hidden = false;
  bar.value = seconds / total;
  tell("video_working", { seconds: seconds.toFixed(1), total: total.toFixed(1) });
}

for (const button of findAll(".fcn-choose-clip")) button.onclick = () => file.click();
file.onchange = () => {
  choose(file.files[0]);
  file.value = "";
};
another.onclick = () => {
  asked += 1;
  result = null;
  tell("video_first");
  setState("empty");
  find(".fcn-empty button").focus();
};
onEvent("fcn-files-video", ([clip]) => choose(clip));
onEvent("fcn-model", showLegend);
onEvent("fcn-tab", (name) => name === "video" || film.pause());

showExamples(find(".fcn-thumbs"), (name) => {
  begin();
  ask(null, name);
});
translate();
watch("value", receive);
watch("label", translate);
