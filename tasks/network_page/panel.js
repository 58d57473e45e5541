/* The panel beside the layers: the arithmetic of the chosen value, and the pixels that it depends on. */

const PRODUCT_COLUMNS = 5;

/** Choose a value: its arithmetic is shown and stays until another one is chosen. */
function select(layer, channel, row, column) {
  page.selected = { layer, channel, row, column };
  for (const [name, maps] of Object.entries(page.maps)) {
    const cell = name === layer ? cellOfValue(page.values[name], channel, row, column) : null;
    maps.forEach((map, number) =>
      placeFrame(map.cursor, map, cell && cell[0] === number ? { top: cell[1], left: cell[2], rows: 1, columns: 1 } : null));
  }
  page.outputs.forEach(output => output.button.setAttribute("aria-pressed", String(layer === "output" && output.k === channel)));
  showSelectedField();
  renderArithmetic();
}

/** Begin with the largest value of the first convolution, which the page also explains without JavaScript. */
function selectStrongest() {
  const { values, rows, columns } = page.values.conv1, at = values.indexOf(Math.max(...values));
  select("conv1", Math.floor(at / (rows * columns)), Math.floor(at / columns) % rows, at % columns);
}

/** Frame what a value depends on: its pixels, and its sources in the layer before; write down its value. */
function showReceptiveField(layer, channel, row, column) {
  const { values, data } = page, { size } = data;
  const field = receptiveField(layer, row, column, size), frame = { rows: size, columns: size };
  placeFrame(find("field"), frame, field);
  const sources = findSources(layer, channel, row, column, values);
  for (const [name, maps] of Object.entries(page.maps)) {
    maps.forEach((map, number) => {
      const all = values[name].rows * values[name].columns === 1 ? { top: 0, left: 0, rows: map.rows, columns: map.columns } : null;
      const isSource = sources && sources.layer === name && (sources.channel === null || sources.channel === number);
      placeFrame(map.source, map, isSource ? all || sources : null);
    });
  }
  const tensor = values[layer], value = tensor.values[network.indexOf(tensor, channel, row, column)];
  find("readout").textContent = `${nameValue(layer, channel, row, column, data.classes)}: ${layer === "output" ? formatPercent(value) : formatNumber(value)}. `
    + (field.rows === size ? "It sees the whole image." : `It sees ${field.rows} x ${field.columns} pixels.`);
}

/** Go back from the value under the pointer to the chosen one. */
function showSelectedField() {
  const { selected } = page;
  if (selected) { showReceptiveField(selected.layer, selected.channel, selected.row, selected.column); return; }
  placeFrame(find("field"), { rows: 1, columns: 1 }, null);
  Object.values(page.maps).flat().forEach(map => placeFrame(map.source, map, null));
  find("readout").textContent = "Point at a value to see which pixels it depends on.";
}

function renderArithmetic() {
  const { layer, channel, row, column } = page.selected;
  const explained = explainValue(layer, channel, row, column, page);
  const steps = explained.steps.map(([name, text]) => createElement("li", {}, createElement("b", {}, `${name}: `), text));
  const parts = [createElement("h2", {}, explained.title), createElement("ol", { class: "steps" }, ...steps)];
  if (layer !== "output" && LAYERS[layer].kind !== "dense") parts.push(buildArrows());
  if (explained.groups.length) {
    const largest = largestOf(explained.groups.flatMap(group => group.cells.map(([x, w]) => x * w)));
    parts.push(createElement("p", { class: "note" }, "Each cell: x · w, and below it the product. Orange speaks for the value, blue against it."));
    parts.push(...explained.groups.map(group => buildProducts(group, largest)));
  }
  find("arithmetic").replaceChildren(...parts);
  announce(`${explained.title}: ${explained.steps.slice(-1)[0].join(": ")}`);
}

function buildProducts({ title, cells, sum }, largest) {
  const rows = [];
  for (let start = 0; start < cells.length; start += PRODUCT_COLUMNS) {
    rows.push(createElement("tr", {}, ...cells.slice(start, start + PRODUCT_COLUMNS).map(([x, w]) => {
      const product = x * w, share = Math.min(1, Math.abs(product) / largest);
      const side = product > 0 ? "for" : "against";
      return createElement("td", { class: side, style: `--share:${share.toFixed(3)}` },
        createElement("small", {}, `${formatFixed(x, 2)}\u200a·\u200a${formatFixed(w, 2)}`), createElement("br"), formatFixed(product, 3));
    })));
  }
  const caption = createElement("caption", {}, `${title}: Σ = ${formatNumber(sum)}`);
  return createElement("table", { class: "products" }, caption, createElement("tbody", {}, ...rows));
}

/** Build buttons that move the choice by one value, since a finger is wider than a value. */
function buildArrows() {
  const arrows = [["←", "left", 0, -1], ["↑", "up", -1, 0], ["↓", "down", 1, 0], ["→", "right", 0, 1]];
  return createElement("p", { class: "arrows" }, ...arrows.map(([sign, name, down, right]) => {
    const button = createElement("button", { type: "button", "aria-label": `one value ${name}` }, sign);
    button.addEventListener("click", () => {
      moveSelection(down, right);
      find("arithmetic").querySelector(`[aria-label="one value ${name}"]`).focus();
    });
    return button;
  }));
}

/** Open or close the panel where it covers a part of the page, on a small screen. */
function openPanel(open) {
  find("panel").classList.toggle("open", open);
  find("toggle").setAttribute("aria-expanded", String(open));
  find("toggle").textContent = open ? "Hide the arithmetic" : "Show the arithmetic";
}

function startPanel() {
  find("toggle").addEventListener("click", () => openPanel(!find("panel").classList.contains("open")));
  document.addEventListener("keydown", event => { if (event.key === "Escape") openPanel(false); });
  showSelectedField();
}
