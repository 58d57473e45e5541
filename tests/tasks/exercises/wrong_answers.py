"""Wrong answers as a learner writes them: the body of the function, and a part of the hint that it gets."""

NEURON = [
    ("return sum(a * c for a, c in zip(x, w)) + b", "The activation is missing"),
    ("z = sum(a * c for a, c in zip(x, w))\nreturn 1 / (1 + math.exp(-z))", "The bias b is missing"),
    ("z = sum(a * c for a, c in zip(x, w)) - b\nreturn 1 / (1 + math.exp(-z))", "bias has the wrong sign"),
    ("z = sum(a * c for a, c in zip(x, w)) * b\nreturn 1 / (1 + math.exp(-z))", "The bias is multiplied"),
    ("z = sum(a * c for a, c in zip(x, w)) + b\nreturn 1 / (1 + math.exp(z))", "minus sign in the exponent"),
    (
        "z = sum(a * c for a, c in zip(x, w)) + b\nreturn math.exp(z) if z < -99 else max(0, z)",
        "This is ReLU",
    ),
    ("return math.tanh(sum(a * c for a, c in zip(x, w)) + b)", "This is tanh"),
    ("return 1 if sum(a * c for a, c in zip(x, w)) + b > 0 else 0", "a step from 0 to 1"),
    ("z = sum(x) * sum(w) + b\nreturn 1 / (1 + math.exp(-z))", "Sums are multiplied"),
    ("z = sum(a + c for a, c in zip(x, w)) + b\nreturn 1 / (1 + math.exp(-z))", "weights are added"),
    ("z = sum(x) + b\nreturn 1 / (1 + math.exp(-z))", "The weights w are not used"),
    (
        "y = 0\nfor i in range(len(x)):\n    y += 1 / (1 + math.exp(-x[i] * w[i]))\nreturn y + b",
        "Each product is",
    ),
    ("z = sum(a * c for a, c in zip(x, w))\nreturn 1 / (1 + math.exp(-z)) + b", "added after the activation"),
    ("z = 0\nfor a, c in zip(x, w):\n    z += a * c + b\nreturn 1 / (1 + math.exp(-z))", "once per input"),
    ("for a, c in zip(x, w):\n    z = a * c + b\n    return 1 / (1 + math.exp(-z))", "Only the first input"),
    ("for a, c in zip(x, w):\n    z = a * c + b\nreturn 1 / (1 + math.exp(-z))", "Only the last input"),
]

LAYER = [
    ("return [sum(a * c for a, c in zip(x, row)) + e for row, e in zip(W, b)]", "The activation is missing"),
    (
        (
            "import math\nz = [sum(a * c for a, c in zip(x, row)) + e for row, e in zip(W, b)]\n"
            "return [1 / (1 + math.exp(-v)) for v in z]"
        ),
        "This is the sigmoid",
    ),
    ("return [max(0, sum(a * c for a, c in zip(x, row))) for row in W]", "The biases b are missing"),
    ("return [max(0, sum(a * c for a, c in zip(x, row)) + b[0]) for row in W]", "the same bias"),
    ("return [max(0, sum(a * c for a, c in zip(x, row)) + sum(b)) for row in W]", "adds all biases"),
    (
        "return [max(0, sum(W[j][i] * x[j] for j in range(len(x))) + b[i]) for i in range(len(W))]",
        "Rows and columns of W",
    ),
    ("return [max(0, sum(a * c for a, c in zip(x, row))) + e for row, e in zip(W, b)]", "ReLU comes before"),
    ("return [min(0, sum(a * c for a, c in zip(x, row)) + e) for row, e in zip(W, b)]", "upside down"),
    ("return [abs(sum(a * c for a, c in zip(x, row)) + e) for row, e in zip(W, b)]", "absolute value"),
    (
        (
            "out = []\nfor row, e in zip(W, b):\n"
            "    out.append(max(0, sum(a * c for a, c in zip(x, row)) + e))\n"
            "    return out"
        ),
        "one neuron only",
    ),
    (
        "return sum(max(0, sum(a * c for a, c in zip(x, r)) + e) for r, e in zip(W, b))",
        "The outputs are added up",
    ),
    (
        "z = [sum(a * c for a, c in zip(x, r)) + e for r, e in zip(W, b)]\nreturn [v for v in z if v > 0]",
        "are left out",
    ),
]

_LINEAR = "def lin(W, x, b):\n    return [sum(a * c for a, c in zip(r, x)) + e for r, e in zip(W, b)]\n"
_RELU = "def relu(z):\n    return [max(0, v) for v in z]\n"
_SIGMOID = "import math\ndef sig(z):\n    return [1 / (1 + math.exp(-v)) for v in z]\n"
NETWORK = [
    (f"{_LINEAR}return lin(W1, lin(W0, x, b0), b1)", "No layer is activated"),
    (f"{_LINEAR}{_RELU}return relu(lin(W1, relu(lin(W0, x, b0)), b1))", "The output is activated as well"),
    (f"{_LINEAR}{_RELU}return lin(W1, relu(lin(W0, x, [0] * 9)), [0] * 9)", "The biases are missing"),
    (f"{_LINEAR}{_RELU}return lin(W1, relu(lin(W0, x, [0] * 9)), b1)", "b0 is missing"),
    (f"{_LINEAR}{_RELU}return lin(W1, relu(lin(W0, x, b0)), [0] * 9)", "b1 is missing"),
    (f"{_LINEAR}{_RELU}return lin(W1, relu(lin(W0, x, b1)), b0)", "b0 and b1 are exchanged"),
    (f"{_LINEAR}{_RELU}return lin(W0, relu(lin(W1, x, b1)), b0)", "W0 comes first"),
    (f"{_LINEAR}h = lin(W0, x, b0)\nreturn lin(W1, x, b1)", "takes x again"),
    (f"{_LINEAR}{_RELU}return relu(lin(W0, x, b0))", "the first layer only"),
    (f"{_LINEAR}{_RELU}return lin(W1, lin(W0, relu(x), b0), b1)", "f is applied to x"),
    (f"{_LINEAR}{_RELU}return relu(lin(W1, lin(W0, x, b0), b1))", "ReLU is at the end"),
    (f"{_LINEAR}{_SIGMOID}return lin(W1, sig(lin(W0, x, b0)), b1)", "This is the sigmoid"),
]

MEAN_SQUARED_ERROR = [
    (
        "return sum(a - p for a, p in zip(y, y_hat)) / len(y)",
        "are not squared, so errors above and below cancel:",
    ),
    ("return sum(p - a for a, p in zip(y, y_hat)) / len(y)", "the sign is that of ŷ - y"),
    ("return sum(abs(a - p) for a, p in zip(y, y_hat)) / len(y)", "absolute differences"),
    ("return sum((a - p) ** 2 for a, p in zip(y, y_hat))", "This is the sum"),
    ("return (sum((a - p) ** 2 for a, p in zip(y, y_hat)) / len(y)) ** 0.5", "the root of J"),
    ("return (sum(a - p for a, p in zip(y, y_hat)) / len(y)) ** 2", "The mean is squared"),
    ("return sum((a - p) ** 2 for a, p in zip(y, y_hat)) / (2 * len(y))", "half of J"),
    ("return -sum((a - p) ** 2 for a, p in zip(y, y_hat)) / len(y)", "J is negative"),
    ("return sum((a - p) ** 2 for a, p in zip(y, y_hat)) / (len(y) - 1)", "divides by n - 1"),
    ("for a, p in zip(y, y_hat):\n    return (a - p) ** 2", "Only the first point"),
    ("return sum((a + p) ** 2 for a, p in zip(y, y_hat)) / len(y)", "adds y and ŷ"),
    ("return sum(a ** 2 - p ** 2 for a, p in zip(y, y_hat)) / len(y)", "difference of the squares"),
]

_PAIRS = "for a, p in zip(y, y_hat)) / len(y)"
BINARY_CROSS_ENTROPY = [
    (f"return sum(a * math.log(p) + (1 - a) * math.log(1 - p) {_PAIRS}", "The minus sign is missing"),
    ("return -sum(a * math.log(p) + (1 - a) * math.log(1 - p) for a, p in zip(y, y_hat))", "This is the sum"),
    (f"return -sum(a * math.log(p) {_PAIRS}", "Only points with y = 1"),
    (f"return -sum((1 - a) * math.log(1 - p) {_PAIRS}", "Only points with y = 0"),
    (f"return -sum(a * math.log(p) + (1 - a) * math.log(p) {_PAIRS}", "Both logarithms are of ŷ"),
    (f"return -sum(a * math.log(p) + math.log(1 - p) {_PAIRS}", "(1 - y) is missing"),
    (f"return -sum(math.log(p) + (1 - a) * math.log(1 - p) {_PAIRS}", "y is missing before log ŷ"),
    (f"return sum(-a * math.log(p) + (1 - a) * math.log(1 - p) {_PAIRS}", "second term is subtracted"),
    (f"return -sum((1 - a) * math.log(p) + a * math.log(1 - p) {_PAIRS}", "The targets are exchanged"),
    (f"return -sum(a * math.log2(p) + (1 - a) * math.log2(1 - p) {_PAIRS}", "to base 2"),
    (f"return -sum(a * math.log10(p) + (1 - a) * math.log10(1 - p) {_PAIRS}", "to base 10"),
    (f"return sum((a - p) ** 2 {_PAIRS}", "the mean squared error"),
]

_NEXT = "theta = [t - alpha * g for t, g in zip(theta, gradient(theta))]"
GRADIENT_DESCENT = [
    (f"for _ in range(steps):\n    {_NEXT.replace('t - a', 't + a')}\nreturn theta", "It climbs"),
    (f"for _ in range(steps):\n    {_NEXT}\n    return theta\nreturn theta", "one step only"),
    (f"{_NEXT}\nreturn theta", "whatever `steps` says"),
    (f"for _ in range(steps + 1):\n    {_NEXT}\nreturn theta", "one step too many"),
    (f"for _ in range(1, steps):\n    {_NEXT}\nreturn theta", "one step too few"),
    (f"for _ in range(steps):\n    {_NEXT.replace('alpha * g ', 'g ')}\nreturn theta", "α is missing"),
    (f"for _ in range(steps):\n    {_NEXT.replace('alpha * g ', 'g / alpha ')}\nreturn theta", "divides by"),
    (
        f"for _ in range(steps):\n    {_NEXT.replace('t - alpha', '-alpha')}\nreturn theta",
        "replaced by the step",
    ),
    (
        (
            "g = gradient(theta)\nfor _ in range(steps):\n"
            "    theta = [theta[i] - alpha * g[i] for i in range(len(g))]\nreturn theta"
        ),
        "computed once, at the start",
    ),
    (
        (
            "theta = list(theta)\nfor _ in range(steps):\n    for i in range(len(theta)):\n"
            "        theta[i] = theta[i] - alpha * gradient(theta)[i]\nreturn theta"
        ),
        "Some parameters have moved",
    ),
    (
        "t = list(theta)\nfor _ in range(steps):\n    t[0] -= alpha * gradient(t)[0]\nreturn t",
        "Only the first parameter moves",
    ),
    (
        (
            "for _ in range(steps):\n    g = gradient(theta)[0]\n"
            "    theta = [t - alpha * g for t in theta]\nreturn theta"
        ),
        "by the first part of the gradient",
    ),
    (
        (
            "for _ in range(steps):\n    theta = [t - alpha * (1 if g > 0 else -1) "
            "for t, g in zip(theta, gradient(theta))]\nreturn theta"
        ),
        "Only the sign",
    ),
    (
        (
            "for _ in range(steps):\n    g = gradient(theta)\n    n = sum(v * v for v in g) ** 0.5\n"
            "    theta = [t - alpha * v / n for t, v in zip(theta, g)]\nreturn theta"
        ),
        "Each step has the length α",
    ),
    (f"for _ in range(steps):\n    {_NEXT}\nreturn gradient(theta)", "the gradient at the end"),
    (f"for _ in range(steps):\n    new_{_NEXT}\nreturn theta", "θ comes back as it was"),
]

_FORWARD = "z = w * x + b\np = 1 / (1 + math.exp(-z))\n"
_RETURN = "\nreturn d * x, d, d * w"
BACKPROP = [
    (f"{_FORWARD}d = 2 * (y - p) * p * (1 - p){_RETURN}", "The sign of ∂J/∂ŷ"),
    (f"{_FORWARD}d = (p - y) * p * (1 - p){_RETURN}", "The factor 2 of"),
    (f"{_FORWARD}d = (y - p) * p * (1 - p){_RETURN}", "The factor 2 and the sign"),
    (f"{_FORWARD}d = -2 * (y - p){_RETURN}", "The activation is left out"),
    (f"{_FORWARD}s = 1 / (1 + math.exp(-p))\nd = -2 * (y - p) * s * (1 - s){_RETURN}", "f' is taken at ŷ"),
    (f"{_FORWARD}d = -2 * (y - p) * z * (1 - z){_RETURN}", "takes z(1 - z)"),
    (f"{_FORWARD}d = -2 * (y - p) * p{_RETURN}", "the factor (1 - ŷ) is missing"),
    (f"{_FORWARD}d = -2 * (y - p) * (1 - p){_RETURN}", "the factor ŷ is missing"),
    (f"{_FORWARD}d = -2 * (y - p) * (1 - p**2){_RETURN}", "the slope of tanh"),
    (f"{_FORWARD}d = -2 * (y - p) * (1 if z > 0 else 0){_RETURN}", "the slope of ReLU"),
    (f"{_FORWARD}d = -2 * (y - z) * p * (1 - p){_RETURN}", "It compares y with z"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d, d, d * w", "∂J/∂w lacks its factor x"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d * x, d, d", "∂J/∂x lacks its factor w"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d * x, d * b, d * w", "∂J/∂b is multiplied by b"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d * x, d * x, d * w", "∂J/∂b is multiplied by x"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d * w, d, d * x", "∂J/∂w and ∂J/∂x are exchanged"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d, d * x, d * w", "∂J/∂w and ∂J/∂b are exchanged"),
    (f"{_FORWARD}d = -2 * (y - p) * p * (1 - p)\nreturn d * x, d * w, d", "∂J/∂b and ∂J/∂x are exchanged"),
    (f"{_FORWARD}return (y - p) ** 2", "This is J"),
]
