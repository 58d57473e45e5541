/* The page: choose an image, look at every value of every layer, and see how each is computed. */

const page = { maps: {}, filters: {}, selected: null };

const find = id => document.getElementById(id);
/** Say something to users of a screen reader. */
const announce = text => { find("announcement").textContent = text; };

function startPage() {
  page.data = JSON.parse(find("data").textContent);
  page.trained = network.decodeWeights(page.data.weights);
  page.data.examples.forEach(example => { example.pixels = network.decodePixels(example.pixels); });
  document.body.classList.add("live");
  document.querySelectorAll("[data-live]").forEach(element => { element.hidden = false; });
  document.querySelectorAll("[data-static]").forEach(element => element.remove());
  useParameters(page.trained);
  buildChooser();
  showImage(page.data.examples.find(example => example.index === page.data.start));
  startPanel();
  selectStrongest();
  startLearning();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawEverything);
}

function useParameters(theta) {
  page.theta = theta;
  page.parameters = network.viewParameters(theta, page.data.shapes);
}

/** Show an image { pixels, label, name }; label is null for an image of the reader's own. */
function showImage(image) {
  page.image = image;
  page.pixels = image.pixels;
  const truth = image.label === null ? "" : ` Its label, y, is ${page.data.classes[image.label]}.`;
  find("chosen").textContent = `${image.name || `Test image ${image.index}.`}${truth}`;
  document.querySelectorAll("#examples button").forEach((button, i) =>
    button.setAttribute("aria-pressed", String(page.data.examples[i] === image)));
  runForward();
  announceResult();
  document.dispatchEvent(new Event("imagechange"));
}

function runForward() {
  const { data } = page;
  const x = network.normalize(page.pixels, data.size, data.mean, data.std);
  page.values = network.forward(page.parameters, x, data.temperature);
  if (!page.maps.x) Object.keys(LAYERS).forEach(buildLayer);
  drawEverything();
}

function announceResult() {
  const probabilities = page.values.output.values, best = probabilities.indexOf(Math.max(...probabilities));
  const text = best < 0 ? "The network's output is not a number any more." : `ŷ: ${page.data.classes[best]}, ${formatPercent(probabilities[best])}`;
  find("verdict").textContent = text;
  announce(text);
}

function buildChooser() {
  for (const example of page.data.examples) {
    const canvas = createElement("canvas", { "aria-hidden": "true" });
    drawPixels(canvas, example.pixels, page.data.size);
    const name = page.data.classes[example.label], mistake = example.kind === "mistake";
    const text = mistake ? `${name}, taken for ${page.data.classes[example.predicted]}` : name;
    const button = createElement("button", { type: "button", "aria-pressed": "false" }, canvas, createElement("span", {}, text));
    button.addEventListener("click", () => showImage(example));
    find(mistake ? "mistakes" : "classes").append(createElement("li", {}, button));
  }
  find("mistakes-title").hidden = !find("mistakes").children.length;
  find("photograph").addEventListener("change", event => readPhotograph(event.target.files[0]));
  document.addEventListener("dragover", event => event.preventDefault());
  document.addEventListener("drop", event => {
    event.preventDefault();
    readPhotograph(event.dataTransfer.files[0]);
  });
  startDrawing();
}

/** Make a photograph as small as the network needs it: its middle square, halved until one step is left. */
async function readPhotograph(file) {
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    find("chosen").textContent = `Your browser cannot read ${file.name} as an image.`;
    return;
  }
  const { size } = page.data;
  let side = Math.min(bitmap.width, bitmap.height), source = bitmap;
  let area = [(bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side];
  while (side > size) {
    const smaller = Math.max(size, Math.floor(side / 2));
    const canvas = createElement("canvas");
    Object.assign(canvas, { width: smaller, height: smaller });
    canvas.getContext("2d").drawImage(source, ...area, 0, 0, smaller, smaller);
    [source, side, area] = [canvas, smaller, [0, 0, smaller, smaller]];
  }
  const canvas = createElement("canvas");
  Object.assign(canvas, { width: size, height: size });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";  // Transparent pixels have a color only on some ground.
  context.fillRect(0, 0, size, size);
  context.drawImage(source, ...area, 0, 0, size, size);
  const rgba = context.getImageData(0, 0, size, size).data;
  showImage({ pixels: rgba.filter((_, i) => i % 4 < 3), label: null, name: `Your image ${file.name}, made small by your browser.` });
}

/** Let the reader draw on the chosen image or on a white one, with a pointer or with the arrow keys. */
function startDrawing() {
  const canvas = find("drawing"), { size } = page.data, at = { row: size >> 1, column: size >> 1 };
  const paint = () => {
    const color = document.querySelector("#colors input:checked").value;
    const pixels = page.image.drawn ? page.pixels : page.pixels.slice();
    for (const [row, column] of [[at.row, at.column], [at.row + 1, at.column], [at.row, at.column + 1], [at.row + 1, at.column + 1]]) {
      if (row < size && column < size) [1, 3, 5].forEach((start, c) => { pixels[3 * (row * size + column) + c] = parseInt(color.slice(start, start + 2), 16); });
    }
    showImage({ pixels, label: page.image.label, name: "Your drawing.", drawn: true });
  };
  const follow = event => {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * size);
    const column = Math.floor((event.clientX - box.left) / box.width * size);
    if (Math.min(row, column) < 0 || Math.max(row, column) >= size) return;
    Object.assign(at, { row, column });
    paint();
  };
  canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); follow(event); });
  canvas.addEventListener("pointermove", event => { if (event.buttons) follow(event); });
  canvas.addEventListener("keydown", event => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (event.key === " ") { paint(); return; }
    at.row = Math.max(0, Math.min(size - 1, at.row + move[0]));
    at.column = Math.max(0, Math.min(size - 1, at.column + move[1]));
    placeFrame(find("brush"), { rows: size, columns: size }, { top: at.row, left: at.column, rows: 2, columns: 2 });
    announce(`row ${at.row + 1}, column ${at.column + 1}`);
  });
  find("clear").addEventListener("click", () =>
    showImage({ pixels: new Uint8Array(3 * size * size).fill(255), label: null, name: "Your drawing.", drawn: true }));
}

/** Create the maps and filters of a layer, and listen to pointer and keyboard. */
function buildLayer(layer) {
  const figure = document.querySelector(`[data-layer="${layer}"]`), tensor = page.values[layer];
  if (layer === "output") { buildOutput(figure); return; }
  const { count, rows, columns } = mapSizes(tensor), { kind, name } = LAYERS[layer];
  page.maps[layer] = Array.from({ length: count }, (_, number) => {
    const title = kind === "dense" ? `${tensor.channels} neurons` : layer === "x" ? COLORS[number] : `map ${number + 1}`;
    const map = createMap(rows, columns, "");
    const label = `${name}, ${title}, ${rows} rows of ${columns} values. Arrow keys move, Page Up and Page Down change the map.`;
    for (const [key, value] of [["role", "application"], ["aria-label", label], ["tabindex", number ? "-1" : "0"]]) map.canvas.setAttribute(key, value);
    const cell = createElement("div", { class: "cell" }, map.element);
    if (kind === "convolution") cell.prepend(buildFilter(layer, number));
    if (kind !== "dense") cell.append(createElement("small", {}, title));
    figure.append(cell);
    listenToMap(layer, number, map);
    return map;
  });
}

function buildFilter(layer, number) {
  const channels = page.values[LAYERS[layer].from].channels, inputs = layer === "conv1" ? 1 : channels;
  const filters = Array.from({ length: inputs }, () => createMap(5, 5, `filter W${number + 1}`));
  (page.filters[layer] = page.filters[layer] || [])[number] = filters;
  return createElement("div", { class: "filters", style: `--count:${inputs}` }, ...filters.map(filter => filter.element));
}

function listenToMap(layer, number, map) {
  const cellAt = event => {
    const box = map.canvas.getBoundingClientRect(), clamp = (value, count) => Math.max(0, Math.min(count - 1, Math.floor(value * count)));
    return [clamp((event.clientY - box.top) / box.height, map.rows), clamp((event.clientX - box.left) / box.width, map.columns)];
  };
  const act = (action, row, column) => {
    const value = valueOfCell(page.values[layer], number, row, column);
    if (value) action(layer, ...value);
  };
  map.canvas.addEventListener("pointermove", event => act(showReceptiveField, ...cellAt(event)));
  map.canvas.addEventListener("pointerleave", showSelectedField);
  map.canvas.addEventListener("click", event => { act(select, ...cellAt(event)); openPanel(true); });
  map.canvas.addEventListener("keydown", event => {
    const pages = { PageUp: -1, PageDown: 1 }[event.key], next = page.maps[layer][number + pages];
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Enter: [0, 0], " ": [0, 0] }[event.key];
    if (next) next.canvas.focus();
    else if (move) { act(select, ...currentCell(layer, number)); moveSelection(...move); if (!move.some(Boolean)) openPanel(true); }
    else return;
    event.preventDefault();
  });
  map.canvas.addEventListener("focus", () =>
    page.maps[layer].forEach(other => other.canvas.setAttribute("tabindex", other === map ? "0" : "-1")));
}

function currentCell(layer, number) {
  const { selected } = page;
  if (!selected || selected.layer !== layer) return [0, 0];
  const [map, row, column] = cellOfValue(page.values[layer], selected.channel, selected.row, selected.column);
  return map === number || mapSizes(page.values[layer]).count > 1 ? [row, column] : [0, 0];
}

function moveSelection(down, right) {
  const { selected } = page;
  if (!selected || selected.layer === "output") return;
  const tensor = page.values[selected.layer], { rows, columns } = mapSizes(tensor);
  const [number, row, column] = cellOfValue(tensor, selected.channel, selected.row, selected.column);
  const value = valueOfCell(tensor, number, Math.max(0, Math.min(rows - 1, row + down)), Math.max(0, Math.min(columns - 1, column + right)));
  if (value) select(selected.layer, ...value);
}

/** Create a bar per class; of many classes, the most probable ones. */
function buildOutput(figure) {
  const { classes } = page.data;
  page.outputs = Array.from({ length: Math.min(classes.length, 20) }, () => {
    const [name, bar, share] = ["name", "bar", "share"].map(part => createElement("span", { class: part }));
    const button = createElement("button", { type: "button" }, name, bar, share), row = { name, bar, share, button, k: 0 };
    button.addEventListener("click", () => { select("output", row.k, 0, 0); openPanel(true); });
    button.addEventListener("pointerenter", () => showReceptiveField("output", row.k, 0, 0));
    button.addEventListener("pointerleave", showSelectedField);
    figure.append(button);
    return row;
  });
}

/** Draw every map, filter and bar again, and repeat the arithmetic of the chosen value. */
function drawEverything() {
  const palette = readPalette(), { values, parameters } = page;
  drawPixels(find("glance"), page.pixels, page.data.size);
  drawPixels(find("drawing"), page.pixels, page.data.size);
  for (const [layer, maps] of Object.entries(page.maps)) {
    const largest = largestOf(values[layer].values);
    maps.forEach((map, number) => drawMap(map, mapValues(values[layer], number), largest, palette));
  }
  for (const [layer, filters] of Object.entries(page.filters)) {
    const weight = parameters[`${layer}.weight`], largest = largestOf(weight), step = weight.length / filters.length;
    filters.forEach((maps, number) => maps.forEach((map, c) => {
      const own = weight.subarray(number * step + 25 * c, (number + 1) * step);
      if (layer === "conv1") drawColorFilter(map, own, largest);
      else drawMap(map, own, largest, palette);
    }));
  }
  const probabilities = values.output.values, order = Array.from(probabilities.keys());
  if (probabilities.length > page.outputs.length) order.sort((a, b) => probabilities[b] - probabilities[a]);
  page.outputs.forEach((row, i) => {
    row.k = order[i];
    row.name.textContent = page.data.classes[row.k];
    row.bar.style.setProperty("--share", Number.isFinite(probabilities[row.k]) ? probabilities[row.k] : 0);
    row.share.textContent = Number.isFinite(probabilities[row.k]) ? formatPercent(probabilities[row.k]) : "not a number";
    row.button.classList.toggle("best", probabilities[row.k] === Math.max(...probabilities));
  });
  if (page.selected) renderArithmetic();
}

if (typeof document !== "undefined") startPage();
