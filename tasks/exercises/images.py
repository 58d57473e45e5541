"""The exercises about images: a filter that slides over a picture, and pooling."""

from collections.abc import Callable, Sequence

from tasks.exercises.checking import Exercise

Picture = Sequence[Sequence[float]]


def convolution(image: Picture, w: Picture, b: float) -> list[list[float]]:
    return [[max(0.0, z) for z in row] for row in _slide(image, w, b)]


def pooling(image: Picture) -> list[list[float]]:
    return _pool(image, max)


def _slide(image: Picture, w: Picture, b: float, stride: int = 1, bias_count: int = 1) -> list[list[float]]:
    """Compute z at each place where the filter fits."""
    size = len(w)
    return [
        [
            sum(w[i][j] * image[row + i][column + j] for i in range(size) for j in range(size))
            + b * bias_count
            for column in range(0, len(image[0]) - size + 1, stride)
        ]
        for row in range(0, len(image) - size + 1, stride)
    ]


def _activate(image: Picture) -> list[list[float]]:
    return [[max(0.0, value) for value in row] for row in image]


def _transpose(image: Picture) -> list[list[float]]:
    return [list(column) for column in zip(*image, strict=True)]


def _flip(w: Picture) -> list[list[float]]:
    return [list(row[::-1]) for row in w[::-1]]


def _pad(image: Picture, border: int) -> list[list[float]]:
    width = len(image[0]) + 2 * border
    sides = [0.0] * border
    rows = [[*sides, *row, *sides] for row in image]
    empty = [[0.0] * width for _ in range(border)]
    return [*empty, *rows, *empty]


def _pool(image: Picture, keep: Callable[[list[float]], float], stride: int = 2) -> list[list[float]]:
    return [
        [
            keep([image[row + i][column + j] for i in (0, 1) for j in (0, 1)])
            for column in range(0, len(image[0]) - 1, stride)
        ]
        for row in range(0, len(image) - 1, stride)
    ]


def _pool_beyond(image: Picture) -> list[list[float]]:
    """Pool what is left in a last odd row or column as well."""
    return [
        [
            max(value for row in image[r : r + 2] for value in row[c : c + 2])
            for c in range(0, len(image[0]), 2)
        ]
        for r in range(0, len(image), 2)
    ]


CONVOLUTION = Exercise(
    convolution,
    cases=[
        ([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0], [2.0, 0.0, 1.0]], [[1.0, -0.5], [0.25, 2.0]], -1.0),
        (
            [[1.0, 0.0, 2.0, 1.0], [0.0, 3.0, 1.0, 0.0], [2.0, 1.0, 0.0, 1.0], [0.5, 0.0, 1.0, 2.0]],
            [[0.5, 1.0, -1.0], [0.0, 2.0, 0.25], [-0.5, 0.0, 1.0]],
            0.5,
        ),
        ([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 3.0, 2.0]], [[0.5, -1.0], [1.0, 0.25]], 0.1),
    ],
    mistakes={
        "ReLU is missing: no value of the map is below 0.": _slide,
        "The bias b is missing.": lambda image, w, b: convolution(image, w, 0),
        "The bias is added to each product; add it once per place.": (
            lambda image, w, b: _activate(_slide(image, w, b, bias_count=len(w) ** 2))
        ),
        "ReLU comes before the bias; add b first.": (
            lambda image, w, b: [[z + b for z in row] for row in convolution(image, w, 0)]
        ),
        "The filter is turned around; lay it on as it is: w[0][0] is at the top left.": lambda image, w, b: (
            convolution(image, _flip(w), b)
        ),
        "Rows and columns of the filter are exchanged.": (
            lambda image, w, b: convolution(image, _transpose(w), b)
        ),
        "Rows and columns of the map are exchanged.": (
            lambda image, w, b: _transpose(convolution(image, w, b))
        ),
        "The filter leaves the picture: use the places where it fits, len(image) - len(w) + 1 per column.": (
            lambda image, w, b: convolution(
                [[*row, *[0.0] * (len(w) - 1)] for row in [*image, *[[0.0] * len(image[0])] * (len(w) - 1)]],
                w,
                b,
            )
        ),
        "The picture has a border of zeros, so the map is too large; the filter stays inside.": (
            lambda image, w, b: convolution(_pad(image, len(w) // 2), w, b)
        ),
        "The last row and the last column of the map are missing: range(n - k + 1) has the last place.": (
            lambda image, w, b: [row[:-1] for row in convolution(image, w, b)[:-1]]
        ),
        "The filter jumps by its own size; it moves by one pixel.": (
            lambda image, w, b: _activate(_slide(image, w, b, stride=len(w)))
        ),
        "The weights are not used: this adds up the pixels below the filter.": (
            lambda image, w, b: convolution(image, [[1.0] * len(w)] * len(w), b)
        ),
        "It is the mean of the products; a neuron adds them up.": (
            lambda image, w, b: convolution(image, [[v / len(w) ** 2 for v in row] for row in w], b)
        ),
        "Only the first row of the filter is used; it needs two loops, over i and j.": (
            lambda image, w, b: convolution(image, [w[0], *[[0.0] * len(w)] * (len(w) - 1)], b)
        ),
        "Only the diagonal of the filter is used; it needs two loops, over i and j.": (
            lambda image, w, b: convolution(
                image, [[v if i == j else 0.0 for j, v in enumerate(row)] for i, row in enumerate(w)], b
            )
        ),
    },
)

POOLING = Exercise(
    pooling,
    cases=[
        ([[1.0, 4.0, 2.0, 0.0], [3.0, 0.5, 5.0, 1.0], [0.0, 2.0, 1.0, 1.5], [6.0, 1.0, 2.5, 7.0]],),
        ([[-1.0, -4.0, 2.0, -6.0], [-3.0, -2.0, 0.0, 1.0]],),
        ([[1.0, 2.0, 9.0], [4.0, 3.0, 0.0], [5.0, 8.0, 7.0]],),
    ],
    mistakes={
        "This is the mean of the four; keep the largest.": lambda image: _pool(image, lambda v: sum(v) / 4),
        "This is the smallest of the four; keep the largest.": lambda image: _pool(image, min),
        "This is the sum of the four; keep the largest.": lambda image: _pool(image, sum),
        "The blocks overlap: go on by two rows and two columns, range(0, n, 2).": (
            lambda image: _pool(image, max, stride=1)
        ),
        "This keeps the first of the four; keep the largest.": lambda image: _pool(image, lambda v: v[0]),
        "This keeps the last of the four; keep the largest.": lambda image: _pool(image, lambda v: v[3]),
        "Where all four are negative, it gives 0: begin with the first of them, not with 0.": (
            lambda image: _pool(image, lambda v: max(0.0, *v))
        ),
        "It keeps the largest absolute value; -4 is smaller than 2.": (
            lambda image: _pool(image, lambda v: max(v, key=abs))
        ),
        "It makes every value positive; -4 is smaller than 2.": (
            lambda image: _pool(image, lambda v: max(map(abs, v)))
        ),
        "A last odd row or column has no partner and is left out: use len(image) // 2 rows.": _pool_beyond,
        "It looks along the rows only: of two neighbors in one row, not of 2x2.": (
            lambda image: [[max(row[c : c + 2]) for c in range(0, len(row) - 1, 2)] for row in image]
        ),
        "It looks down the columns only: of two neighbors in one column, not of 2x2.": (
            lambda image: [
                [max(a, b) for a, b in zip(image[r], image[r + 1], strict=True)]
                for r in range(0, len(image) - 1, 2)
            ]
        ),
        "The maxima are in one list; return a list of rows.": (
            lambda image: [value for row in pooling(image) for value in row]
        ),
        "This is the largest value of the whole map; there is one for each block of 2x2.": (
            lambda image: max(value for row in image for value in row)
        ),
        "It compares only the diagonal of each block; all four count.": (
            lambda image: _pool(image, lambda v: max(v[0], v[3]))
        ),
    },
)
