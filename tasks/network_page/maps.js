/* Maps: small pictures of a layer's values, one cell per value, which a pointer or the keyboard reaches. */

const DENSE_COLUMNS = 12;  // A layer of 120 neurons is drawn as 10 rows of 12.

/** Create an element with text, which is never read as HTML, and children. */
function createElement(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Read the colors of the theme: for 0, for positive and for negative values. */
function readPalette() {
  const style = getComputedStyle(document.documentElement);
  return ["--paper", "--orange", "--blue"].map(name => {
    const hex = style.getPropertyValue(name).trim();
    return [1, 3, 5].map(start => parseInt(hex.slice(start, start + 2), 16));
  });
}

/** Create a map of rows x columns cells: a canvas, and frames for the chosen cell and for the sources of another. */
function createMap(rows, columns, label) {
  const canvas = createElement("canvas", { role: "img", "aria-label": label });
  Object.assign(canvas, { width: columns, height: rows });
  const cursor = createElement("span", { class: "cursor", hidden: "" });
  const source = createElement("span", { class: "source", hidden: "" });
  return { canvas, cursor, source, rows, columns, element: createElement("div", { class: "map" }, canvas, cursor, source) };
}

/** Frame a rectangle of cells of a map; null hides the frame. */
function placeFrame(frame, map, rectangle) {
  frame.hidden = !rectangle;
  if (!rectangle) return;
  const percent = (part, whole) => `${100 * part / whole}%`;
  Object.assign(frame.style, {
    top: percent(rectangle.top, map.rows), height: percent(rectangle.rows, map.rows),
    left: percent(rectangle.left, map.columns), width: percent(rectangle.columns, map.columns),
  });
}

/** Color each cell by its value: positive orange, negative blue, 0 like the paper. */
function drawMap(map, values, largest, palette = readPalette()) {
  const context = map.canvas.getContext("2d"), image = context.createImageData(map.columns, map.rows);
  const [zero, positive, negative] = palette;
  for (let i = 0; i < map.rows * map.columns; i++) {
    const value = i < values.length ? values[i] : 0, color = value > 0 ? positive : negative;
    const share = Math.min(1, Math.abs(value) / largest) || 0;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(zero[c] + share * (color[c] - zero[c]));
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Draw pixels as they are: rows of columns of R, G, B. */
function drawPixels(canvas, pixels, size) {
  Object.assign(canvas, { width: size, height: size });
  const context = canvas.getContext("2d"), image = context.createImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[3 * i + c];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Draw a filter over red, green and blue as a colored picture, in which gray is 0. */
function drawColorFilter(map, weight, largest) {
  const pixels = new Uint8Array(75).map((_, i) => Math.round(127.5 + 127.5 * Math.max(-1, Math.min(1, weight[25 * (i % 3) + Math.floor(i / 3)] / largest)) || 0));
  drawPixels(map.canvas, pixels, 5);
}

function largestOf(values) {
  let largest = 0;
  for (const value of values) if (Math.abs(value) > largest) largest = Math.abs(value);
  return largest > 0 && Number.isFinite(largest) ? largest : 1;
}

/** Return where a layer's values stand in its maps; neurons of a dense layer are the cells of one map. */
function mapSizes(tensor) {
  if (tensor.rows * tensor.columns > 1) return { count: tensor.channels, rows: tensor.rows, columns: tensor.columns };
  return { count: 1, rows: Math.ceil(tensor.channels / DENSE_COLUMNS), columns: DENSE_COLUMNS };
}

/** Return the part of a tensor that a map shows. */
function mapValues(tensor, number) {
  const area = tensor.rows * tensor.columns;
  return area > 1 ? tensor.values.subarray(number * area, (number + 1) * area) : tensor.values;
}

/** Return the value under a cell of a map as [channel, row, column], or null for a cell without one. */
function valueOfCell(tensor, number, row, column) {
  if (tensor.rows * tensor.columns > 1) return [number, row, column];
  const channel = row * DENSE_COLUMNS + column;
  return channel < tensor.channels ? [channel, 0, 0] : null;
}

/** Return the cell of a value as [map, row, column]. */
function cellOfValue(tensor, channel, row, column) {
  if (tensor.rows * tensor.columns > 1) return [channel, row, column];
  return [0, Math.floor(channel / DENSE_COLUMNS), channel % DENSE_COLUMNS];
}
