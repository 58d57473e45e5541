/* One step of learning: forward, loss J, backward, θ ← θ - α∇J; `Back` undoes it. */

const MAX_UNDO = 100;  // A step keeps a copy of all weights.
const GRADIENTS = [
  ["logits", "∂J/∂z of the output: ŷ − y, where T is 1"],
  ["fc2", "∂J/∂ of dense layer 2"],
  ["fc1", "∂J/∂ of dense layer 1"],
  ["pool2", "∂J/∂ of pooling 2"],
  ["pool1", "∂J/∂ of pooling 1"],
];
const learning = { undo: [], losses: [], timers: [] };

function startLearning() {
  const { classes } = page.data;
  find("target").append(...classes.map((name, k) => createElement("option", { value: String(k) }, name)));
  find("alpha").addEventListener("input", showAlpha);
  find("step").addEventListener("click", () => takeSteps(1));
  find("steps").addEventListener("click", () => takeSteps(10));
  find("back").addEventListener("click", goBack);
  find("reset").addEventListener("click", resetLearning);
  document.addEventListener("imagechange", chooseTarget);
  for (const id of ["target", "batch"]) find(id).addEventListener("change", restartLosses);
  showAlpha();
  chooseTarget();
}

/** Begin with the image's own label, or with the predicted class, if it has none. */
function chooseTarget() {
  const { label } = page.image, predicted = page.values.output.values;
  find("target").value = String(label === null ? Math.max(0, predicted.indexOf(Math.max(...predicted))) : label);
  restartLosses();
}

const readAlpha = () => 10 ** Number(find("alpha").value);

function showAlpha() {
  find("alpha-value").textContent = `α = ${formatNumber(readAlpha())}`;
  find("alpha").setAttribute("aria-valuetext", `α = ${formatNumber(readAlpha())}`);
}

/** Return what J is the mean over: the image and its target, or one image of each class and its label. */
function readBatch() {
  find("target").disabled = find("batch").value === "all";
  if (find("batch").value === "one") return [[page.values.x, Number(find("target").value)]];
  return readExamples();
}

function readExamples() {
  const { size, mean, std, examples } = page.data;
  return examples.filter(example => example.kind === "class")
    .map(({ pixels, label }) => [network.normalize(pixels, size, mean, std), label]);
}

/** Measure J and the number of right answers on one image of each class: has the network forgotten them? */
function judgeExamples() {
  const examples = readExamples();
  let loss = 0, right = 0;
  for (const [x, label] of examples) {
    const { logits } = network.forward(page.parameters, x);
    loss += network.crossEntropy(logits, label) / examples.length;
    if (logits.values.indexOf(Math.max(...logits.values)) === label) right++;
  }
  return { loss, right, count: examples.length };
}

/** J of other weights or of other images is another curve. */
function restartLosses() {
  learning.timers.forEach(clearTimeout);
  find("gradients").replaceChildren();
  learning.undo.forEach(step => { step.losses = []; });
  learning.losses = [network.computeGradients(page.theta, page.data.shapes, readBatch()).loss];
  showLosses();
}

function takeSteps(count) {
  let result;
  for (let i = 0; i < count; i++) {
    result = network.computeGradients(page.theta, page.data.shapes, readBatch());
    learning.undo.push({ theta: page.theta, losses: learning.losses });
    if (learning.undo.length > MAX_UNDO) learning.undo.shift();
    useParameters(network.update(page.theta, result.gradient, readAlpha()));
    learning.losses = [...learning.losses, network.computeGradients(page.theta, page.data.shapes, readBatch()).loss];
  }
  runForward();
  showGradients(result);
  showLosses();
  announceResult();
}

function goBack() {
  const last = learning.undo.pop();
  if (!last) return;
  useParameters(last.theta);
  runForward();
  if (last.losses.length) { learning.losses = last.losses; find("gradients").replaceChildren(); showLosses(); }
  else restartLosses();
  announceResult();
}

function resetLearning() {
  learning.undo = [];
  useParameters(page.trained);
  runForward();
  restartLosses();
  announceResult();
}

/** Say what the last step did to J, and draw J over the steps. */
function showLosses() {
  const { losses, undo } = learning, now = losses[losses.length - 1], before = losses[losses.length - 2];
  const write = value => (Number.isFinite(value) ? formatNumber(value) : "not a number any more");
  let text = `J = ${write(now)}.`;
  if (before !== undefined) {
    text = `J was ${write(before)} and is ${write(now)}. `;
    if (!Number.isFinite(now)) text += "The steps were so long that the numbers overflowed: the network diverged. Press Back.";
    else if (now > before) text += "It rose: the step was too long and went past the valley. Press Back, and make α smaller.";
    else text += now < before ? "It fell." : "It did not change.";
  }
  find("loss").textContent = text;
  const examples = judgeExamples();
  const forgotten = find("batch").value === "one" && before !== undefined && !(examples.loss < 5)
    ? " The steps were too long: the network memorized one answer and forgot the rest." : "";
  find("others").textContent = `The examples, one image per class: ${examples.right} of ${examples.count} right, mean J = ${write(examples.loss)}.${forgotten}`;
  find("back").disabled = find("reset").disabled = !undo.length;
  find("changed").textContent = undo.length ? `The page now shows the network after ${undo.length} step${undo.length > 1 ? "s" : ""}, not the trained one.` : "";
  drawCurve(losses);
}

function drawCurve(losses) {
  const shown = losses.filter(Number.isFinite), highest = Math.max(...shown, 1e-9), wide = Math.max(losses.length - 1, 1);
  const points = shown.map((loss, i) => `${10 + 280 * i / wide},${92 - 74 * loss / highest}`);
  find("curve").setAttribute("points", points.join(" "));
  find("curve-dot").setAttribute("cx", points.length ? points[points.length - 1].split(",")[0] : "10");
  find("curve-dot").setAttribute("cy", points.length ? points[points.length - 1].split(",")[1] : "92");
  find("curve-highest").textContent = `J ${formatNumber(highest)}`;
}

/** Show the gradients one layer after the other, from J backward, as they were computed. */
function showGradients({ gradient, maps }) {
  learning.timers.forEach(clearTimeout);
  const rows = GRADIENTS.map(([layer, title]) => buildGradient(title, maps[layer]));
  const parameters = network.viewParameters(gradient, page.data.shapes);
  rows.splice(4, 0, buildWeightGradient("∂J/∂W of convolution 2: its filters", parameters["conv2.weight"], parameters["conv2.weight"].length / 25));
  rows.push(buildWeightGradient("∂J/∂W of convolution 1: its filters", parameters["conv1.weight"], parameters["conv1.bias"].length));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("gradients").replaceChildren(...rows);
  learning.timers = rows.map((row, i) => setTimeout(() => row.classList.add("arrived"), still ? 0 : 220 * i));
}

function buildGradient(title, tensor) {
  const { count, rows, columns } = tensor.channels <= 20 && tensor.rows === 1 ? { count: 1, rows: 1, columns: tensor.channels } : mapSizes(tensor);
  const largest = largestOf(tensor.values);
  const maps = Array.from({ length: count }, (_, number) => {
    const map = createMap(rows, columns, `${title}, map ${number + 1}`);
    drawMap(map, mapValues(tensor, number), largest);
    return map.element;
  });
  return buildRow(title, largest, count === 1 ? "wide" : "many", maps);
}

function buildWeightGradient(title, values, count) {
  const largest = largestOf(values), size = values.length / count;
  const maps = Array.from({ length: count }, (_, number) => {
    const map = createMap(5, 5, `${title}, filter ${number + 1}`);
    if (size === 75) drawColorFilter(map, values.subarray(number * size, (number + 1) * size), largest);
    else drawMap(map, values.subarray(number * size, (number + 1) * size), largest);
    return map.element;
  });
  return buildRow(title, largest, count > 16 ? "many small" : "many", maps);
}

function buildRow(title, largest, kind, maps) {
  const heading = createElement("p", {}, `${title} `, createElement("small", {}, `(at most ${formatNumber(largest)})`));
  return createElement("li", {}, heading, createElement("div", { class: `gradient ${kind}`, "aria-hidden": "true" }, ...maps));
}
