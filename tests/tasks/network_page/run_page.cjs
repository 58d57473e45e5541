// node run_page.cjs PAGE COMMAND: run the page's own script on the page's own weights, without a browser.
// Input and output are JSON; `images` is the base64 of uint8 images (N, S, S, 3).
const fs = require("fs");

const [page, command] = process.argv.slice(2);
const html = fs.readFileSync(page, "utf8");
const script = html.match(/<script>([\s\S]*)<\/script>/)[1];
const data = JSON.parse(html.match(/<script type="application\/json" id="data">([\s\S]*?)<\/script>/)[1]);
const { network, explainValue, receptiveField, LAYERS } =
  new Function(`${script}; return { network, explainValue, receptiveField, LAYERS };`)();

const { images, labels, steps, alpha } = JSON.parse(fs.readFileSync(0, "utf8"));
const bytes = network.decodePixels(images), length = 3 * data.size * data.size;
const pixels = Array.from({ length: bytes.length / length }, (_, i) => bytes.subarray(i * length, (i + 1) * length));
const inputs = pixels.map(each => network.normalize(each, data.size, data.mean, data.std));
const theta = network.decodeWeights(data.weights);
const parameters = network.viewParameters(theta, data.shapes);

const commands = {
  // the probabilities of each image
  forward: () => inputs.map(x => Array.from(network.forward(parameters, x, data.temperature).output.values)),
  // θ, and J and ∇J of each image
  gradients: () => ({
    theta: Array.from(theta),
    results: inputs.map((x, i) => {
      const { loss, gradient } = network.computeGradients(theta, data.shapes, [[x, labels[i]]]);
      return { loss, gradient: Array.from(gradient) };
    }),
  }),
  // J before each of some steps that learn from all images at once
  learn: () => {
    let current = theta;
    return Array.from({ length: steps }, () => {
      const { loss, gradient } = network.computeGradients(current, data.shapes, inputs.map((x, i) => [x, labels[i]]));
      current = network.update(current, gradient, alpha);
      return loss;
    });
  },
  // of the first image, what the page says of values all over each layer, beside the values themselves
  explain: () => {
    const values = network.forward(parameters, inputs[0], data.temperature);
    return Object.keys(LAYERS).flatMap(layer => {
      const tensor = values[layer], found = [];
      for (let at = 0; at < tensor.values.length; at += 7) {
        const column = at % tensor.columns, row = Math.floor(at / tensor.columns) % tensor.rows;
        const channel = Math.floor(at / (tensor.rows * tensor.columns));
        const told = explainValue(layer, channel, row, column, { values, parameters, pixels: pixels[0], data });
        const field = receptiveField(layer, row, column, data.size);
        found.push({ layer, channel, row, column, field, ...told, logit: values.logits.values[channel] });
      }
      return found;
    });
  },
};
process.stdout.write(JSON.stringify(commands[command]()));
