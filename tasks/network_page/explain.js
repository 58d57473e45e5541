/* The arithmetic behind each value of the network, and the part of the image that it depends on. */

const LAYERS = {
  x: { name: "Input x" },
  conv1: { name: "Convolution 1", weights: "conv1", z: "z1", from: "x", kind: "convolution" },
  pool1: { name: "Pooling 1", from: "conv1", kind: "pooling" },
  conv2: { name: "Convolution 2", weights: "conv2", z: "z2", from: "pool1", kind: "convolution" },
  pool2: { name: "Pooling 2", from: "conv2", kind: "pooling" },
  fc1: { name: "Dense layer 1", weights: "fc1", z: "z3", from: "pool2", kind: "dense" },
  fc2: { name: "Dense layer 2", weights: "fc2", z: "z4", from: "fc1", kind: "dense" },
  output: { name: "Output ŷ", weights: "fc3", z: "logits", from: "fc2", kind: "output" },
};
const COLORS = ["red", "green", "blue"];

/** Write a number with three significant digits and a typographic minus sign. */
function formatNumber(value) {
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

/** Write a number with a fixed number of decimals, so that columns of numbers are aligned. */
function formatFixed(value, digits) {
  return value.toFixed(digits).replace("-", "−");
}

/** Write a share of 1 in percent, as the report does. */
function formatPercent(share) {
  return `${(100 * share).toFixed(1)}\u202f%`;
}

/** Return the rectangle of pixels that a value of the layer depends on: its receptive field. */
function receptiveField(layer, row, column, size) {
  const whole = { top: 0, left: 0, rows: size, columns: size };
  const [step, width] = { x: [1, 1], conv1: [1, 5], pool1: [2, 6], conv2: [2, 14], pool2: [4, 16] }[layer] || [];
  return step ? { top: step * row, left: step * column, rows: width, columns: width } : whole;
}

/** Return which values of the layer before a value is made from; `channel` is null where it is all of them. */
function findSources(layer, channel, row, column, values) {
  const { kind, from } = LAYERS[layer];
  if (!from) return null;
  const source = values[from];
  if (kind === "convolution") return { layer: from, channel: null, top: row, left: column, rows: 5, columns: 5 };
  if (kind === "pooling") return { layer: from, channel, top: 2 * row, left: 2 * column, rows: 2, columns: 2 };
  return { layer: from, channel: null, top: 0, left: 0, rows: source.rows, columns: source.columns };
}

/** Name one value, such as "Convolution 1, feature map 3, row 5, column 7". */
function nameValue(layer, channel, row, column, classes) {
  if (layer === "output") return `Output ŷ for ${classes[channel]}`;
  if (LAYERS[layer].kind === "dense") return `${LAYERS[layer].name}, neuron ${channel + 1}`;
  const map = layer === "x" ? COLORS[channel] : `feature map ${channel + 1}`;
  return `${LAYERS[layer].name}, ${map}, row ${row + 1}, column ${column + 1}`;
}

/** List the pairs (x, w) behind a value, in groups of the map or layer that the x come from. */
function listProducts(layer, channel, row, column, values, parameters) {
  const { kind, from, weights } = LAYERS[layer];
  const x = values[from], weight = parameters[`${weights}.weight`];
  if (kind === "convolution") {
    return Array.from({ length: x.channels }, (_, c) => ({
      title: from === "x" ? COLORS[c] : `${LAYERS[from].name}, map ${c + 1}`,
      cells: Array.from({ length: 25 }, (_, k) => {
        const at = network.indexOf(x, c, row + Math.floor(k / 5), column + (k % 5));
        return [x.values[at], weight[(channel * x.channels + c) * 25 + k]];
      }),
    }));
  }
  const count = x.values.length, area = x.rows * x.columns;
  const cells = Array.from(x.values, (value, i) => [value, weight[channel * count + i]]);
  if (area === 1) return [{ title: LAYERS[from].name, cells }];
  return Array.from({ length: x.channels }, (_, c) => ({
    title: `${LAYERS[from].name}, map ${c + 1}`, cells: cells.slice(c * area, (c + 1) * area),
  }));
}

/** Explain one value: { title, value, steps, groups }. The steps are those of the talk's neuron. */
function explainValue(layer, channel, row, column, model) {
  const { values, parameters, pixels, data } = model, { kind } = LAYERS[layer];
  const tensor = values[layer], value = tensor.values[network.indexOf(tensor, channel, row, column)];
  const result = { title: nameValue(layer, channel, row, column, data.classes), value, steps: [], groups: [] };
  if (layer === "x") return explainInput(result, channel, pixels[3 * (row * data.size + column) + channel], data);
  if (kind === "pooling") return explainPooling(result, layer, channel, row, column, values);
  result.groups = listProducts(layer, channel, row, column, values, parameters);
  const bias = parameters[`${LAYERS[layer].weights}.bias`][channel];
  const sums = result.groups.map(group => group.cells.reduce((sum, [x, w]) => sum + x * w, 0));
  result.groups.forEach((group, i) => { group.sum = sums[i]; });
  const sum = sums.reduce((total, part) => total + part, 0);
  const count = result.groups.reduce((total, group) => total + group.cells.length, 0), z = sum + bias;
  result.steps.push(["multiply", `Each input x is multiplied by its weight w: ${count} products, which are listed below.`]);
  result.steps.push(["sum", `The products add up to W·x = ${formatNumber(sum)}.`]);
  result.steps.push(["bias", `z = W·x + b = ${formatNumber(sum)} + ${formatNumber(bias)} = ${formatNumber(z)}`]);
  if (kind !== "output") {
    const verdict = z > 0 ? "z is positive and passes" : "z is not positive, so the neuron is silent";
    result.steps.push(["activate", `f(z) = ReLU(z) = max(0, z) = ${formatNumber(Math.max(0, z))}: ${verdict}.`]);
    return result;
  }
  return explainProbability(result, z, values.logits.values, data.temperature);
}

function explainProbability(result, z, all, temperature) {
  const largest = Math.max(...all);
  const sumPowers = t => all.reduce((sum, other) => sum + Math.exp((other - largest) / t), 0);
  let exponent = `z − ${formatNumber(largest)}`;
  if (temperature !== 1) {
    exponent = `(${exponent}) / T`;
    result.steps.push(["calibrate", `All z are divided by the temperature T = ${formatNumber(temperature)}. Without it ŷ would be `
      + `${formatPercent(Math.exp(z - largest) / sumPowers(1))}. T is one number for all images. It was chosen after training so `
      + "that, on validation images, the probabilities say how often the network is right."]);
  }
  const power = Math.exp((z - largest) / temperature), total = sumPowers(temperature);
  result.steps.push(["softmax", `ŷ = e^(${exponent}) / Σ e^(${exponent}) = ${formatNumber(power)} / `
    + `${formatNumber(total)} = ${formatPercent(power / total)}. Softmax makes probabilities of all z; taking off the `
    + "largest z changes nothing and keeps the powers small."]);
  return result;
}

function explainInput(result, channel, pixel, data) {
  const [mean, std] = [data.mean[channel], data.std[channel]].map(formatNumber);
  result.steps.push(["pixel", `The pixel's ${COLORS[channel]} is ${pixel}, of 0 to 255.`]);
  result.steps.push(["normalize", `x = (${pixel} / 255 − ${mean}) / ${std} = ${formatNumber(result.value)}. The mean and `
    + "the standard deviation are those of the training images, so that x is around 0."]);
  return result;
}

function explainPooling(result, layer, channel, row, column, values) {
  const source = values[LAYERS[layer].from];
  const four = [0, 1, 2, 3].map(k =>
    source.values[network.indexOf(source, channel, 2 * row + Math.floor(k / 2), 2 * column + (k % 2))]);
  result.steps.push(["pool", `max(${four.map(formatNumber).join(", ")}) = ${formatNumber(result.value)}. Pooling keeps the `
    + "largest of 2 x 2 neighbors: a pattern may move by a pixel and still counts."]);
  return result;
}
