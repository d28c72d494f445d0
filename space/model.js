// The model: which one, what its card says of it, and how long it took for the last answer.

const select = find("select");
let timing = null; // {device, milliseconds} of the last answer

function show() {
  showTexts();
  const model = chosenModel(), figures = model.evaluation;
  const licence = model.licence ?? say("not_recorded");
  find(".fcn-summary").textContent = model.summary ?? "";
  find(".fcn-facts").replaceChildren(
    fact("mean_iu", figures ? percent(figures.mean_iu, 1) : say("not_measured")),
    fact("pixel_accuracy", figures ? percent(figures.pixel_accuracy, 1) : say("not_measured")),
    fact("parameters", say("millions", { count: (model.parameters / 1e6).toFixed(1) })),
    fact("licence", model.licence_link ? linked(licence, model.licence_link) : licence),
    ...(model.link ? [fact("card", linked(model.name, model.link))] : []),
  );
  find(".fcn-protocol").hidden = !figures;
  find(".fcn-protocol p").textContent = figures?.protocol ?? "";
  showTiming();
}

function fact(name, value) {
  const pair = document.createElement("div");
  const [term, description] = ["dt", "dd"].map((tag) => document.createElement(tag));
  term.textContent = say(name);
  description.append(value);
  pair.append(term, description);
  return pair;
}

function linked(text, address) {
  const link = document.createElement("a");
  Object.assign(link, { textContent: text, href: address, target: "_blank", rel: "noopener" });
  return link;
}

function showTiming() {
  const rounded = Object.entries(timing?.milliseconds ?? {}).map(([key, value]) => [key, Math.round(value)]);
  find(".fcn-timing").textContent = timing
    ? say("timing", { device: timing.device, ...Object.fromEntries(rounded) })
    : say("timing_help");
}

select.append(
  ...props.models.map(({ name, revision }) => new Option(revision ? `${name} @ ${revision.slice(0, 12)}` : name, name)),
);
select.value = window.fcnHub.model;
select.onchange = () => {
  window.fcnHub.model = select.value;
  show();
  announceTo("fcn-model");
};

show();
watch("label", show);
onEvent("fcn-timing", (detail) => {
  timing = detail;
  showTiming();
});
