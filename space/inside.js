// Look inside: the stages of the network for the picture above, and convolution as a matrix.

const go = find(".fcn-go"), walk = find(".fcn-walk"), status = find(".fcn-inside-status");
const slider = find(".fcn-slide input"), screen = find(".fcn-screen canvas"), strip = find(".fcn-strip");
let asked = 0;
let stages = []; // {key, stride, canvas}, in the order in which the network computes them
let message = ["inside_first", {}];
let ticking = null;

function tell(key, values = {}) {
  message = [key, values];
  status.textContent = key ? say(key, values) : "";
}

function translate() {
  showTexts();
  tell(...message);
  name();
  if (stages.length) show();
  labelCells();
}

// The stages

onEvent("fcn-picture", () => {
  asked += 1;
  clearInterval(ticking);
  stages = [];
  walk.hidden = true;
  go.disabled = !window.fcnHub.source;
  go.hidden = false;
  tell(go.disabled ? "inside_first" : "");
});

go.onclick = () => {
  if (!window.fcnHub.source) return;
  asked += 1;
  window.fcnHub.inside = [...window.fcnHub.source, asked];
  go.disabled = true;
  const start = performance.now();
  const tick = () => tell("inside_working", { seconds: Math.round((performance.now() - start) / 1000) });
  ticking = setInterval(tick, 500);
  tick();
  trigger("submit");
};

async function receive() {
  const value = props.value;
  if (!value || value.request !== asked) return;
  clearInterval(ticking);
  go.disabled = false;
  if (value.error) return tell("inside_error");
  tell("");
  go.hidden = true;
  const picture = await load(value.picture);
  const pools = props.strides.map((stride, step) => step).reverse();
  stages = [
    ...(await Promise.all(
      pools.map(async (_, step) => ({
        key: `pool${step + 1}`,
        stride: 2 ** (step + 1),
        canvas: heat(await load(value.heat[step])),
      })),
    )),
    ...(await Promise.all(
      props.strides.map(async (stride, step) => ({
        key: `build${stride}`,
        stride,
        canvas: overlay(picture, await load(value.build_up[step])),
      })),
    )),
  ];
  if (value.request !== asked) return;
  screen.width = value.width;
  screen.height = value.height;
  find(".fcn-screen").style.setProperty("--ratio", value.width / value.height);
  strip.replaceChildren(
    ...stages.map((stage, place) => {
      const button = document.createElement("button");
      const caption = document.createElement("span");
      button.type = "button";
      stage.canvas.style.aspectRatio = value.width / value.height;
      button.append(stage.canvas, caption);
      button.onclick = () => choose(place);
      return button;
    }),
  );
  walk.hidden = false;
  name();
  choose(0);
}

function canvasOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}

// Black over red to white, as things glow.
function heat(image) {
  const [canvas, context] = canvasOf(image);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const value = pixels.data[i];
    pixels.data[i] = 1.6 * value + 14;
    pixels.data[i + 1] = 2 * value - 175 + 60 * (value / 255);
    pixels.data[i + 2] = value < 90 ? 40 + 0.7 * value : Math.max(103 - 1.2 * (value - 90), 3.4 * value - 640);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function overlay(picture, labels) {
  const [canvas, context] = canvasOf(labels);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 0.7;
  context.drawImage(labels, 0, 0);
  return canvas;
}

function title(stage) {
  const stride = say("stride_of", { stride: stage.stride });
  return stage.key.startsWith("pool") ? `${stage.key} · ${stride}` : stride;
}

function name() {
  for (const [place, button] of [...strip.children].entries()) {
    const stage = stages[place];
    const kind = say(stage.key.startsWith("pool") ? "backbone" : "build_up");
    button.lastElementChild.textContent = stage.key.startsWith("pool") ? stage.key : title(stage);
    button.setAttribute("aria-label", `${kind}: ${title(stage)}`);
  }
}

function choose(place) {
  slider.value = place;
  show();
}

function show() {
  const place = Number(slider.value), stage = stages[place];
  const isPool = stage.key.startsWith("pool");
  const context = screen.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  // A pool output may reach past the picture, whose sides need not be multiples of the stride.
  const scale = isPool ? stage.stride : 1;
  context.drawImage(stage.canvas, 0, 0, stage.canvas.width * scale, stage.canvas.height * scale);
  find(".fcn-kind").textContent = say(isPool ? "backbone" : "build_up");
  find(".fcn-told h3").textContent = title(stage);
  const unused = !isPool && stage.stride < props.value.finest;
  find(".fcn-story").textContent = say(unused ? "build_unused" : stage.key);
  const alt = isPool ? say("heat_alt", { name: stage.key }) : say("build_alt", { stride: stage.stride });
  screen.setAttribute("aria-label", alt);
  slider.setAttribute("aria-valuetext", `${find(".fcn-kind").textContent}: ${title(stage)}`);
  for (const [at, button] of [...strip.children].entries())
    button.setAttribute("aria-pressed", at === place);
}

slider.oninput = show;

// Convolution as a matrix. Both sides share the kernel: what one weight does, it does on both.

const numbers = {
  kernel: [1, 2, 3, 4, 5, 6, 7, 8, 9],
  input: Array.from({ length: 16 }, (_, index) => index),
  coarse: [1, 10, 100, 1000],
};

// Row r of the matrix holds the kernel at position r of the 2×2 result; null is no connection.
const MATRIX = [0, 1, 4, 5].map((corner) =>
  Array.from({ length: 16 }, (_, cell) => {
    const row = Math.floor(cell / 4) - Math.floor(corner / 4), column = (cell % 4) - (corner % 4);
    return row >= 0 && row < 3 && column >= 0 && column < 3 ? 3 * row + column : null;
  }),
);

const multiply = (rows, vector) =>
  rows.map((row) =>
    row.reduce((sum, at, index) => sum + (at === null ? 0 : numbers.kernel[at] * vector[index]), 0),
  );
const transpose = MATRIX[0].map((_, cell) => MATRIX.map((row) => row[cell]));
const short = (value) => String(Math.round(value * 1000) / 1000);

function grid(kind, columns, count, editable) {
  const box = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const cells = document.createElement("div");
  caption.dataset.t = { kernel: "kernel", fine: "result", small: "result" }[kind] ?? "input";
  cells.className = "fcn-cells";
  cells.style.setProperty("--columns", columns);
  for (let index = 0; index < count; index++) {
    const cell = document.createElement(editable ? "input" : "output");
    if (editable) {
      cell.type = "number";
      cell.step = "any";
      cell.value = numbers[kind][index];
      cell.oninput = () => {
        numbers[kind][index] = Number.isFinite(cell.valueAsNumber) ? cell.valueAsNumber : 0;
        for (const twin of findAll(`[data-kind="${kind}"][data-index="${index}"]`))
          if (twin !== cell) twin.value = cell.value;
        compute();
      };
    } else cell.tabIndex = 0;
    cell.dataset.kind = kind;
    cell.dataset.index = index;
    cell.dataset.columns = columns;
    cells.append(cell);
  }
  box.append(caption, cells);
  return box;
}

function matrix(kind, rows) {
  const box = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const cells = document.createElement("div");
  caption.dataset.t = "as_matrix";
  cells.className = "fcn-cells fcn-matrix";
  cells.style.setProperty("--columns", rows[0].length);
  for (const [row, weights] of rows.entries()) {
    for (const weight of weights) {
      const cell = document.createElement("span");
      cell.dataset.row = row;
      if (weight !== null) cell.dataset.weight = weight;
      cells.append(cell);
    }
  }
  box.dataset.matrix = kind;
  box.append(caption, cells);
  return box;
}

function side(title, figures) {
  const box = document.createElement("div");
  const heading = document.createElement("h3");
  const row = document.createElement("div");
  heading.dataset.t = title;
  row.className = "fcn-sum";
  row.append(figures[0], figures[1], figures[2]);
  box.append(heading, row, figures[3]);
  return box;
}

function labelCells() {
  for (const cell of findAll("[data-kind]")) {
    const { kind, index, columns } = cell.dataset;
    const what = { kernel: "kernel", fine: "result", small: "result" }[kind] ?? "input";
    const where = { row: Math.floor(index / columns) + 1, column: (index % columns) + 1 };
    const label = `${say(what)}, ${say("cell", where)}`;
    cell.setAttribute("aria-label", cell.matches("output") ? `${label}: ${cell.textContent}` : label);
  }
}

function compute() {
  const results = { small: multiply(MATRIX, numbers.input), fine: multiply(transpose, numbers.coarse) };
  for (const cell of findAll("output[data-kind]"))
    cell.textContent = short(results[cell.dataset.kind][cell.dataset.index]);
  for (const cell of findAll("[data-weight]"))
    cell.textContent = short(numbers.kernel[cell.dataset.weight]);
  labelCells();
}

// Where a result comes from: the cells of the input with a connection to it, and its matrix row.
function point(kind, index) {
  for (const cell of findAll(".fcn-lit")) cell.classList.remove("fcn-lit");
  if (kind === null) return;
  const row = (kind === "small" ? MATRIX : transpose)[index];
  const from = kind === "small" ? "input" : "coarse";
  const lit = [
    find(`[data-kind="${kind}"][data-index="${index}"]`),
    ...row.flatMap((weight, at) => (weight === null ? [] : [find(`[data-kind="${from}"][data-index="${at}"]`)])),
    ...findAll(`[data-matrix="${kind}"] [data-row="${index}"]`),
  ];
  for (const cell of lit) cell.classList.add("fcn-lit");
}

find(".fcn-two").append(
  side("convolution", [grid("input", 4, 16, true), grid("kernel", 3, 9, true), grid("small", 2, 4, false), matrix("small", MATRIX)]),
  side("transposed", [grid("coarse", 2, 4, true), grid("kernel", 3, 9, true), grid("fine", 4, 16, false), matrix("fine", transpose)]),
);
for (const cell of findAll("output[data-kind]")) {
  cell.onpointerenter = cell.onfocus = () => point(cell.dataset.kind, Number(cell.dataset.index));
  cell.onpointerleave = cell.onblur = () => point(null);
}

compute();
translate();
watch("value", receive);
watch("label", translate);
