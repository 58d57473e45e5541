"use strict";
/* The talk's network in plain JavaScript: normalization, forward pass, loss, backward pass and update.

A tensor is { values, channels, rows, columns }: its values in the order channel, row, column. A layer of neurons
is a tensor of one row per neuron's channel, 1 x 1 each. θ is one Float32Array, of which `viewParameters` gives each
layer's W and b. This file knows no page, so that it also runs without a browser. */

const network = (() => {
  const KERNEL = 5;

  /** Decode weights of three bytes each: sign, exponent and the first 15 bits of a float32's mantissa. */
  function decodeWeights(text) {
    const bytes = atob(text);
    const words = new Uint32Array(bytes.length / 3);
    for (let i = 0; i < words.length; i++) {
      words[i] = (bytes.charCodeAt(3 * i) << 24) | (bytes.charCodeAt(3 * i + 1) << 16) | (bytes.charCodeAt(3 * i + 2) << 8);
    }
    return new Float32Array(words.buffer);
  }

  /** Decode base64 to the pixels of an image: rows of columns of R, G, B. */
  function decodePixels(text) {
    return Uint8Array.from(atob(text), character => character.charCodeAt(0));
  }

  /** Return the parameters by name, as views of `theta`; `shapes` is a list of [name, shape]. */
  function viewParameters(theta, shapes) {
    const views = {};
    let start = 0;
    for (const [name, shape] of shapes) {
      const end = start + shape.reduce((product, size) => product * size, 1);
      views[name] = theta.subarray(start, end);
      start = end;
    }
    return views;
  }

  function createTensor(channels, rows, columns) {
    return { values: new Float64Array(channels * rows * columns), channels, rows, columns };
  }

  function indexOf(tensor, channel, row, column) {
    return (channel * tensor.rows + row) * tensor.columns + column;
  }

  /** Turn pixels into the network's input x: from 0 to 1, minus the mean, divided by the standard deviation. */
  function normalize(pixels, size, mean, std) {
    const x = createTensor(3, size, size);
    for (let i = 0; i < size * size; i++) {
      for (let c = 0; c < 3; c++) x.values[c * size * size + i] = (pixels[3 * i + c] / 255 - mean[c]) / std[c];
    }
    return x;
  }

  /** z = W·x + b at each position of a 5x5 filter, one map per filter. */
  function convolve(x, weight, bias) {
    const z = createTensor(bias.length, x.rows - KERNEL + 1, x.columns - KERNEL + 1);
    const area = z.rows * z.columns;
    for (let o = 0; o < z.channels; o++) {
      const out = z.values.subarray(o * area, (o + 1) * area).fill(bias[o]);
      for (let c = 0; c < x.channels; c++) {
        for (let k = 0; k < KERNEL * KERNEL; k++) {
          const w = weight[(o * x.channels + c) * KERNEL * KERNEL + k];
          let from = indexOf(x, c, Math.floor(k / KERNEL), k % KERNEL);
          for (let i = 0, row = 0; row < z.rows; row++, from += KERNEL - 1) {
            for (let column = 0; column < z.columns; column++) out[i++] += w * x.values[from++];
          }
        }
      }
    }
    return z;
  }

  /** f(z) = max(0, z) */
  function relu(z) {
    return { ...z, values: z.values.map(value => Math.max(0, value)) };
  }

  /** Return the largest of each 2x2 values, and in `winners` where it was found. */
  function pool(x) {
    const y = createTensor(x.channels, Math.floor(x.rows / 2), Math.floor(x.columns / 2));
    y.winners = new Int32Array(y.values.length);
    for (let i = 0, c = 0; c < y.channels; c++) {
      for (let row = 0; row < y.rows; row++) {
        for (let column = 0; column < y.columns; column++, i++) {
          const first = indexOf(x, c, 2 * row, 2 * column);
          let winner = first;
          for (const other of [first + 1, first + x.columns, first + x.columns + 1]) {
            if (x.values[other] > x.values[winner]) winner = other;
          }
          y.values[i] = x.values[winner];
          y.winners[i] = winner;
        }
      }
    }
    return y;
  }

  /** z = W·x + b of a layer in which every neuron takes all values of x. */
  function applyDense(x, weight, bias) {
    const z = createTensor(bias.length, 1, 1);
    for (let o = 0, w = 0; o < bias.length; o++) {
      let sum = bias[o];
      for (let i = 0; i < x.values.length; i++) sum += weight[w++] * x.values[i];
      z.values[o] = sum;
    }
    return z;
  }

  /** ŷ_k = e^(z_k / T) / Σ e^(z / T); the largest z is taken off first, so that no power overflows. */
  function softmax(z, temperature) {
    const largest = Math.max(...z.values);
    const powers = z.values.map(value => Math.exp((value - largest) / temperature));
    const sum = powers.reduce((total, power) => total + power, 0);
    return { ...z, values: powers.map(power => power / sum) };
  }

  /** Run the network on x and return every value of every layer. In training, the temperature is 1. */
  function forward(parameters, x, temperature = 1) {
    const p = parameters, values = { x };
    values.z1 = convolve(x, p["conv1.weight"], p["conv1.bias"]);
    values.conv1 = relu(values.z1);
    values.pool1 = pool(values.conv1);
    values.z2 = convolve(values.pool1, p["conv2.weight"], p["conv2.bias"]);
    values.conv2 = relu(values.z2);
    values.pool2 = pool(values.conv2);
    values.z3 = applyDense(values.pool2, p["fc1.weight"], p["fc1.bias"]);
    values.fc1 = relu(values.z3);
    values.z4 = applyDense(values.fc1, p["fc2.weight"], p["fc2.bias"]);
    values.fc2 = relu(values.z4);
    values.logits = applyDense(values.fc2, p["fc3.weight"], p["fc3.bias"]);
    values.output = softmax(values.logits, temperature);
    return values;
  }

  /** J = -log ŷ_y, computed from z, so that it stays finite where ŷ_y is too small for a number. */
  function crossEntropy(logits, label) {
    const largest = Math.max(...logits.values);
    const sum = logits.values.reduce((total, value) => total + Math.exp(value - largest), 0);
    return largest + Math.log(sum) - logits.values[label];
  }

  /** Where z was negative, ReLU was flat and lets no gradient through. */
  function reluBackward(gradient, z) {
    return { ...gradient, values: gradient.values.map((value, i) => (z.values[i] > 0 ? value : 0)) };
  }

  /** The gradient goes to the value that won; the three others did not count. */
  function poolBackward(gradient, pooled, input) {
    const result = createTensor(input.channels, input.rows, input.columns);
    pooled.winners.forEach((winner, i) => { result.values[winner] += gradient.values[i]; });
    return result;
  }

  /** Add ∂J/∂W = ∂J/∂z · x and ∂J/∂b = ∂J/∂z; return ∂J/∂x = Σ ∂J/∂z · W. */
  function denseBackward(dz, x, weight, dWeight, dBias) {
    const dx = createTensor(x.channels, x.rows, x.columns), count = x.values.length;
    for (let o = 0; o < dz.channels; o++) {
      const slope = dz.values[o];
      dBias[o] += slope;
      if (slope === 0) continue;
      for (let i = 0, w = o * count; i < count; i++, w++) {
        dWeight[w] += slope * x.values[i];
        dx.values[i] += slope * weight[w];
      }
    }
    return dx;
  }

  /** The same for a convolution, whose weights are used at each position: their gradients add up. */
  function convolveBackward(dz, x, weight, dWeight, dBias) {
    const dx = createTensor(x.channels, x.rows, x.columns), area = dz.rows * dz.columns;
    for (let o = 0; o < dz.channels; o++) {
      const slopes = dz.values.subarray(o * area, (o + 1) * area);
      dBias[o] += slopes.reduce((sum, slope) => sum + slope, 0);
      for (let c = 0; c < x.channels; c++) {
        for (let k = 0; k < KERNEL * KERNEL; k++) {
          const w = (o * x.channels + c) * KERNEL * KERNEL + k;
          let at = indexOf(x, c, Math.floor(k / KERNEL), k % KERNEL), sum = 0;
          for (let i = 0, row = 0; row < dz.rows; row++, at += KERNEL - 1) {
            for (let column = 0; column < dz.columns; column++, i++, at++) {
              sum += slopes[i] * x.values[at];
              dx.values[at] += slopes[i] * weight[w];
            }
          }
          dWeight[w] += sum;
        }
      }
    }
    return dx;
  }

  /** Go back from J to the parameters by the chain rule. Add ∂J/∂θ to `gradients`; return ∂J/∂ of each layer. */
  function backward(parameters, values, label, gradients) {
    const p = parameters, g = gradients, v = values, maps = {};
    maps.logits = { ...v.output, values: v.output.values.map((value, k) => value - (k === label ? 1 : 0)) };
    maps.fc2 = denseBackward(maps.logits, v.fc2, p["fc3.weight"], g["fc3.weight"], g["fc3.bias"]);
    maps.z4 = reluBackward(maps.fc2, v.z4);
    maps.fc1 = denseBackward(maps.z4, v.fc1, p["fc2.weight"], g["fc2.weight"], g["fc2.bias"]);
    maps.z3 = reluBackward(maps.fc1, v.z3);
    maps.pool2 = denseBackward(maps.z3, v.pool2, p["fc1.weight"], g["fc1.weight"], g["fc1.bias"]);
    maps.conv2 = poolBackward(maps.pool2, v.pool2, v.conv2);
    maps.z2 = reluBackward(maps.conv2, v.z2);
    maps.pool1 = convolveBackward(maps.z2, v.pool1, p["conv2.weight"], g["conv2.weight"], g["conv2.bias"]);
    maps.conv1 = poolBackward(maps.pool1, v.pool1, v.conv1);
    maps.z1 = reluBackward(maps.conv1, v.z1);
    maps.x = convolveBackward(maps.z1, v.x, p["conv1.weight"], g["conv1.weight"], g["conv1.bias"]);
    return maps;
  }

  /** J(θ) and ∇J, the mean over all [x, label]; and of the first one ∂J/∂ of each layer's values. */
  function computeGradients(theta, shapes, batch) {
    const gradient = new Float64Array(theta.length);
    const parameters = viewParameters(theta, shapes), gradients = viewParameters(gradient, shapes);
    let loss = 0, maps = null;
    for (const [x, label] of batch) {
      const values = forward(parameters, x);
      loss += crossEntropy(values.logits, label) / batch.length;
      const own = backward(parameters, values, label, gradients);
      maps = maps || own;
    }
    return { loss, gradient: gradient.map(value => value / batch.length), maps };
  }

  /** Return θ - α∇J as a new array; the old one is what `Back` returns to. */
  function update(theta, gradient, alpha) {
    return theta.map((value, i) => value - alpha * gradient[i]);
  }

  return {
    KERNEL, decodeWeights, decodePixels, viewParameters, indexOf, normalize, forward, crossEntropy,
    computeGradients, update,
  };
})();
