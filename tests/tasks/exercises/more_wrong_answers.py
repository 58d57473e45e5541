"""Wrong answers to the exercises about classes, images and the training step, as in `wrong_answers`."""

_POWERS = "e = [math.exp(v) for v in z]\n"
SOFTMAX = [
    (f"{_POWERS}return [v / sum(e) for v in e]", "subtract max(z)"),
    ("return [v / sum(z) for v in z]", "The exponential is missing"),
    (f"{_POWERS}return e", "These are powers; divide"),
    ("return [math.exp(v - max(z)) for v in z]", "without their maximum"),
    ("return [1 / (1 + math.exp(-v)) for v in z]", "a sigmoid for each z"),
    (f"{_POWERS}return [v / max(e) for v in e]", "divides by the largest power"),
    (f"{_POWERS}return [v / len(e) for v in e]", "by the number of classes"),
    ("e = [math.exp(-v) for v in z]\nreturn [v / sum(e) for v in e]", "The exponent has a minus sign"),
    (
        "t = math.log(sum(math.exp(v) for v in z))\nreturn [v - t for v in z]",
        "logarithms of the probabilities",
    ),
    ("return [1.0 if v == max(z) else 0.0 for v in z]", "Only the largest z"),
    ("e = [2.0**v for v in z]\nreturn [v / sum(e) for v in e]", "The base is 2"),
    (f"{_POWERS}return [v / sum(z) for v in e]", "by the sum of z"),
    (f"{_POWERS}return max(v / sum(e) for v in e)", "return the list of all"),
]

_SHARES = f"{_POWERS}p = [v / sum(e) for v in e]\n"
CROSS_ENTROPY = [
    (f"{_SHARES}return -math.log(p[y])", "Right for small z"),
    (f"{_SHARES}return math.log(p[y])", "The minus sign is missing"),
    ("return -z[y]", "add log Σ e^z"),
    (f"{_POWERS}return math.log(sum(e))", "subtract z_y"),
    (f"{_SHARES}return p[y]", "This is the probability ŷ_y"),
    (f"{_SHARES}return 1 - p[y]", "This is 1 - ŷ_y"),
    (f"{_SHARES}return sum(-math.log(v) for v in p) / len(p)", "the mean over all classes"),
    (f"{_SHARES}return -sum(math.log(v) for v in p)", "the sum over all classes"),
    (f"{_SHARES}return -math.log(p[y - 1])", "counts classes from 1"),
    ("return -math.log(z[y])", "The logarithm is of z"),
    (f"{_SHARES}return -math.log(max(p))", "It takes the largest class"),
    ("return -math.log(1 / (1 + math.exp(-z[y])))", "a sigmoid of z_y"),
    (f"{_SHARES}return [math.log(v) for v in p]", "logarithms of all probabilities"),
]


def _convolve(body: str, rows: str = "n - k + 1", columns: str = "m - k + 1") -> str:
    return (
        "n, m, k = len(image), len(image[0]), len(w)\nout = []\n"
        f"for r in range({rows}):\n    out.append([])\n    for c in range({columns}):\n"
        f"        z = 0\n{body}        out[-1].append(z)\nreturn out"
    )


def _at(index: str, weight: str = "w[i][j]", i: str = "k", j: str = "k", end: str = "max(0, z + b)") -> str:
    return (
        f"        for i in range({i}):\n            for j in range({j}):\n"
        f"                z += {index} * {weight}\n        z = {end}\n"
    )


_PIXEL = "image[r + i][c + j]"
_INSIDE = "(image[{0}][{1}] if 0 <= {0} < n and 0 <= {1} < m else 0)"
_MAP = _convolve(_at(_PIXEL))
CONVOLUTION = [
    (_convolve(_at(_PIXEL, end="z + b")), "ReLU is missing"),
    (_convolve(_at(_PIXEL, end="max(0, z)")), "The bias b is missing"),
    (_convolve(_at(_PIXEL, "w[i][j] + b", end="max(0, z)")), "The bias is added to each product"),
    (_convolve(_at(_PIXEL, end="max(0, z) + b")), "ReLU comes before the bias"),
    (_convolve(_at(_PIXEL, "w[k - 1 - i][k - 1 - j]")), "The filter is turned around"),
    (_convolve(_at(_PIXEL, "w[j][i]")), "Rows and columns of the filter"),
    (_MAP.replace("return out", "return [list(v) for v in zip(*out)]"), "Rows and columns of the map"),
    (_convolve(_at(_INSIDE.format("r + i", "c + j")), "n", "m"), "The filter leaves the picture"),
    (
        _convolve(
            _at(_INSIDE.format("r + i - k // 2", "c + j - k // 2")),
            "n + 2 * (k // 2) - k + 1",
            "m + 2 * (k // 2) - k + 1",
        ),
        "a border of zeros",
    ),
    (_convolve(_at(_PIXEL), "n - k", "m - k"), "The last row and the last column"),
    (_convolve(_at(_PIXEL), "0, n - k + 1, k", "0, m - k + 1, k"), "The filter jumps"),
    (_convolve(_at(_PIXEL, "1")), "The weights are not used"),
    (_convolve(_at(_PIXEL, end="max(0, z / k**2 + b)")), "the mean of the products"),
    (_convolve(_at(_PIXEL, i="1")), "Only the first row of the filter"),
    (_convolve(_at("image[r + i][c + i]", "w[i][i]", j="1")), "Only the diagonal of the filter"),
]


def _pool(keep: str, step: str = "2") -> str:
    return (
        f"return [[{keep} for c in range(0, len(image[0]) - 1, {step})] "
        f"for r in range(0, len(image) - 1, {step})]"
    )


_FOUR = "image[r][c], image[r][c + 1], image[r + 1][c], image[r + 1][c + 1]"
POOLING = [
    (_pool(f"sum([{_FOUR}]) / 4"), "This is the mean"),
    (_pool(f"min({_FOUR})"), "This is the smallest"),
    (_pool(f"sum([{_FOUR}])"), "This is the sum"),
    (_pool(f"max({_FOUR})", "1"), "The blocks overlap"),
    (_pool("image[r][c]"), "This keeps the first"),
    (_pool("image[r + 1][c + 1]"), "This keeps the last"),
    (_pool(f"max(0, {_FOUR})"), "begin with the first of them"),
    (_pool(f"max({_FOUR}, key=abs)"), "the largest absolute value"),
    (_pool(f"max(map(abs, [{_FOUR}]))"), "makes every value positive"),
    (
        (
            "return [[max(v for row in image[r:r + 2] for v in row[c:c + 2]) "
            "for c in range(0, len(image[0]), 2)] for r in range(0, len(image), 2)]"
        ),
        "A last odd row or column",
    ),
    (
        "return [[max(row[c:c + 2]) for c in range(0, len(row) - 1, 2)] for row in image]",
        "along the rows only",
    ),
    (
        (
            "return [[max(image[r][c], image[r + 1][c]) for c in range(len(image[0]))] "
            "for r in range(0, len(image) - 1, 2)]"
        ),
        "down the columns only",
    ),
    (
        f"return [max({_FOUR}) for r in range(0, len(image) - 1, 2) for c in range(0, len(image[0]) - 1, 2)]",
        "The maxima are in one list",
    ),
    ("return max(v for row in image for v in row)", "the largest value of the whole map"),
    (_pool("max(image[r][c], image[r + 1][c + 1])"), "only the diagonal of each block"),
]

_ZERO, _FORWARD, _LOSS = "optimizer.zero_grad()", "p = model(inputs)", "loss = loss_function(p, targets)"
_BACKWARD, _STEP, _RETURN = "loss.backward()", "optimizer.step()", "return p.detach(), loss.detach()"
_LINES = [
    ((_FORWARD, _LOSS, _BACKWARD, _STEP, _RETURN), "call optimizer.zero_grad() first"),
    ((_FORWARD, _LOSS, _BACKWARD, _ZERO, _STEP, _RETURN), "erases the gradients"),
    ((_ZERO, _FORWARD, _LOSS, _STEP, _RETURN), "loss.backward() is missing"),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _RETURN), "optimizer.step() is missing"),
    ((_ZERO, _FORWARD, _LOSS, _STEP, _BACKWARD, _RETURN), "exchange the two"),
    ((_FORWARD, _LOSS, _STEP, _ZERO, _BACKWARD, _RETURN), "uses the gradients of the last step"),
    (
        (_ZERO, _FORWARD, "loss = loss_function(targets, p)", _BACKWARD, _STEP, _RETURN),
        "arguments of the loss",
    ),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, _FORWARD, _RETURN), "The predictions are computed again"),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, _FORWARD, _LOSS, _RETURN), "Predictions and loss are"),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, "return p, loss"), "still hold the graph"),
    (
        (_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, "return loss.detach(), p.detach()"),
        "The results are exchanged",
    ),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, _STEP, _RETURN), "step() is called twice"),
    ((_ZERO, _FORWARD, _LOSS, "(-loss).backward()", _STEP, _RETURN), "It climbs"),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, "return loss.detach()"), "It should return two values"),
    (
        (_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP, "return p.tolist(), loss.item()"),
        "It should return tensors",
    ),
    ((_ZERO, _FORWARD, _LOSS, _BACKWARD, _STEP), "It returns nothing"),
]
TRAINING_STEP = [("\n".join(lines), hint) for lines, hint in _LINES]
