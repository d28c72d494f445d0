// What the scripts of the page's parts share; it stands before each of them. Gradio gives every
// script its own `element`, `props`, `trigger`, `watch` and `upload`.

const find = (selector) => element.querySelector(selector);
const findAll = (selector) => [...element.querySelectorAll(selector)];

// Words and numbers

const locale = () => (props.label === "zh" ? "zh" : "en");
const say = (key, values = {}) =>
  props.texts[locale()][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const percent = (value, digits = 0) =>
  value.toLocaleString(locale(), {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
const share = (value) => (value > 0 && value < 0.001 ? `<${percent(0.001, 1)}` : percent(value, 1));
const limits = () => ({
  megabytes: Math.round(props.max_bytes / 2 ** 20),
  megapixels: Math.round(props.max_pixels / 1e6),
});

function showTexts() {
  element.firstElementChild.lang = locale() === "zh" ? "zh-CN" : "en";
  for (const node of findAll("[data-t]")) node.textContent = say(node.dataset.t);
  for (const node of findAll("[data-t-label]"))
    node.setAttribute("aria-label", say(node.dataset.tLabel));
}

// What the parts tell each other: window.fcnHub holds it, events of the document announce it.

window.fcnHub ??= {};
const announceTo = (event, detail) => document.dispatchEvent(new CustomEvent(event, { detail }));
const onEvent = (event, act) => document.addEventListener(event, ({ detail }) => act(detail));

// Settings travel behind the #, which browsers do not send to servers.
const settings = new URLSearchParams(location.hash.slice(1));
const modelCalled = (name) => props.models.find((each) => each.name === name);
if (props.models)
  window.fcnHub.model ??= (modelCalled(settings.get("model")) ?? props.models[0]).name;
const chosenModel = () => modelCalled(window.fcnHub.model);

// Classes

function swatch(color) {
  const node = document.createElement("i");
  node.style.background = color;
  return node;
}

// Fills a table: the classes that were found, then the others that the model knows, so that nothing
// moves and nobody wonders. Where there is something to do with a row, `prepare` gets it and a button.
function showClasses(body, found, { nothing = "–", prepare = null } = {}) {
  const absent = chosenModel().classes.filter(({ index }) => !found.some((each) => each.index === index));
  const rows = [...found, ...absent].map((each) => {
    const row = document.createElement("tr");
    const present = "fraction" in each;
    const head = document.createElement(present && prepare ? "button" : "span");
    head.className = "fcn-entry";
    head.append(swatch(each.color), each.name);
    const cells = [
      head,
      present ? share(each.fraction) : nothing,
      present ? percent(each.confidence) : nothing,
    ];
    row.append(
      ...cells.map((content) => {
        const cell = document.createElement("td");
        cell.append(content);
        return cell;
      }),
    );
    if (present) row.dataset.present = each.index;
    if (present && prepare) prepare(each, row, head);
    return row;
  });
  body.replaceChildren(...rows);
}

// Pictures

function showExamples(row, choose) {
  row.append(
    ...Object.entries(props.examples).map(([name, url]) => {
      const button = document.createElement("button");
      const image = document.createElement("img");
      button.type = "button";
      button.dataset.example = name;
      image.src = url;
      image.alt = "";
      button.append(image);
      button.onclick = () => choose(name);
      return button;
    }),
  );
}

function nameExamples() {
  for (const button of findAll("[data-example]"))
    button.title = button.ariaLabel = say(`example_${button.dataset.example}`);
}

async function load(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

const fileData = ({ path }, name) => ({ path, orig_name: name, meta: { _type: "gradio.FileData" } });
