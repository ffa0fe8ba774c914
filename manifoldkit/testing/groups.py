"""Elements of the groups that a function is tested against, class by class."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from manifoldkit.linalg.actions import haar_orthogonal, signed_permutations

_SYNTAX = (
    "'E(3)', 'SE(d)', 'O(d)', 'SO(d)', 'T(d)', 'S(n)', 'scale', 'GL(d)', 'SL(d)', "
    "'Aff(d)', 'SPD-congruence', 'sign', 'basis(k)', 'C4', 'D4', 'octahedral', "
    "'full-octahedral', 'time-shift', or a product such as 'S(n) x E(3)'"
)


@dataclass(frozen=True, eq=False)
class Element:
    """One group element: a linear map, a translation, a permutation, a time shift.

    Attributes
    ----------
    label : str
        Its class, such as "generic" or "translation 100".
    matrix : Tensor, shape (d, d), optional
        Linear part, float64; acts on columns.
    shift : Tensor, shape (d,), optional
        Translation, added after the linear part.
    permutation : Tensor, shape (n,), optional
        New order of the nodes: node ``i`` of the result is node ``permutation[i]``.
    steps : int
        Steps by which a series is rolled.

    Examples
    --------
    >>> turn = Element("turn", torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    >>> move = Element("move", shift=torch.tensor([1.0, 0.0]))
    >>> move.then(turn, "both").shift
    tensor([0., 1.])
    """

    label: str
    matrix: Tensor | None = None
    shift: Tensor | None = None
    permutation: Tensor | None = None
    steps: int = 0

    @property
    def identity(self) -> bool:
        """Whether nothing is done at all."""
        return (
            self.matrix is None
            and self.shift is None
            and self.permutation is None
            and self.steps == 0
        )

    def then(self, other: "Element", label: str) -> "Element":
        """Return the element that acts as this one and then as ``other``."""
        matrix, shift = self.matrix, self.shift
        if other.matrix is not None:
            matrix = other.matrix if matrix is None else other.matrix @ matrix
            shift = None if shift is None else other.matrix @ shift
        if other.shift is not None:
            shift = other.shift if shift is None else shift + other.shift
        order = self.permutation
        if other.permutation is not None:
            order = other.permutation if order is None else order[other.permutation]
        return Element(label, matrix, shift, order, self.steps + other.steps)


def random_orthogonal(d: int, generator: Generator | None = None) -> Tensor:
    """Return a Haar-distributed orthogonal matrix, float64.

    Parameters
    ----------
    d : int
        Dimension.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    Tensor, shape (d, d)

    Examples
    --------
    >>> q = random_orthogonal(3, torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(q @ q.T, torch.eye(3, dtype=q.dtype)))
    True
    """
    return haar_orthogonal((), d, generator=generator)


def random_rotation(d: int, generator: Generator | None = None) -> Tensor:
    """Return a Haar-distributed rotation matrix, float64.

    Parameters
    ----------
    d : int
        Dimension.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    Tensor, shape (d, d)

    Examples
    --------
    >>> r = random_rotation(4, torch.Generator().manual_seed(0))
    >>> round(float(torch.linalg.det(r)), 6)
    1.0
    """
    return haar_orthogonal((), d, special=True, generator=generator)


def random_general_linear(
    d: int, generator: Generator | None = None, special: bool = False
) -> Tensor:
    """Return an invertible matrix with singular values between 1/e and e, float64.

    Parameters
    ----------
    d : int
        Dimension.
    generator : torch.Generator, optional
        Source of randomness.
    special : bool, default=False
        Scale to determinant one.

    Returns
    -------
    Tensor, shape (d, d)

    Examples
    --------
    >>> a = random_general_linear(3, torch.Generator().manual_seed(0), special=True)
    >>> round(float(torch.linalg.det(a)), 6)
    1.0
    """
    s = torch.rand(d, generator=generator, dtype=torch.float64) * 2 - 1
    if special:
        u, v = random_rotation(d, generator), random_rotation(d, generator)
        return u * (s - s.mean()).exp() @ v
    u, v = random_orthogonal(d, generator), random_orthogonal(d, generator)
    return u * s.exp() @ v


def random_permutation(n: int, generator: Generator | None = None) -> Tensor:
    """Return a random order of ``n`` nodes.

    Parameters
    ----------
    n : int
        Number of nodes.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    Tensor of int, shape (n,)

    Examples
    --------
    >>> random_permutation(4, torch.Generator().manual_seed(0)).sort().values.tolist()
    [0, 1, 2, 3]
    """
    return torch.randperm(n, generator=generator)


def _plane(d: int, angle: float) -> Tensor:
    r = torch.eye(d, dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    if angle in (math.pi, math.pi / 2):  # exact quarter turns
        c, s = round(c), round(s)
    r[0, 0], r[0, 1], r[1, 0], r[1, 1] = c, -s, s, c
    return r


def _isometries(d: int, mirrors: bool, g: Generator) -> list[Element]:
    """Return the telling rotations and reflections of O(d) or SO(d)."""
    eye = torch.eye(d, dtype=torch.float64)
    found = []
    if d > 1:
        q = random_orthogonal(d, g)
        found = [
            Element("small angle", q @ _plane(d, 1e-3) @ q.T),
            Element("rotation 90", _plane(d, math.pi / 2)),
            Element("rotation 180", _plane(d, math.pi)),
        ]
        if d > 2:
            cycle = eye.roll(1, 0)
            turn = cycle if torch.linalg.det(cycle) > 0 else cycle.roll(1, 0)
            found.append(Element("rotation 90", turn @ _plane(d, math.pi / 2)))
    if mirrors:
        u = torch.nn.functional.normalize(
            torch.randn(d, generator=g, dtype=torch.float64), dim=0
        )
        axis = eye.clone()
        axis[0, 0] = -1
        found += [
            Element("reflection", axis),
            Element("reflection", eye - 2 * torch.outer(u, u)),
        ]
    if mirrors or d % 2 == 0:
        found.append(Element("inversion", -eye))
    return found


@dataclass(frozen=True)
class Factor:
    """One group: its telling elements and a way to draw more."""

    sample: Callable[[Generator], Element]
    special: Callable[[Generator], list[Element]]

    def elements(self, n: int, g: Generator) -> list[Element]:
        """Return every class of elements, ``n`` draws of the generic one."""
        draws = [replace(self.sample(g), label="generic") for _ in range(n)]
        return self.special(g) + draws


def _translations(d: int, scale: float, g: Generator) -> list[Element]:
    u = torch.nn.functional.normalize(
        torch.randn(d, generator=g, dtype=torch.float64), dim=0
    )
    return [
        Element(f"translation {size:g}", shift=u * size * scale)
        for size in (1.0, 1e2, 1e4)
    ]


def _matrix_group(draw, special, d: int, scale: float, moves: bool) -> Factor:
    def sample(g: Generator) -> Element:
        shift = None
        if moves:
            shift = scale * torch.randn(d, generator=g, dtype=torch.float64)
        return Element("generic", draw(g), shift)

    def telling(g: Generator) -> list[Element]:
        return special(g) + (_translations(d, scale, g) if moves else [])

    return Factor(sample, telling)


def _finite(elements: list[Tensor]) -> Factor:
    def sample(g: Generator) -> Element:
        i = int(torch.randint(len(elements), (1,), generator=g))
        return Element("generic", elements[i])

    return Factor(sample, lambda g: [Element("element", a) for a in elements])


def _permutations(n: int) -> Factor:
    def special(_: Generator) -> list[Element]:
        order = torch.arange(n)
        swapped = order.clone()
        swapped[: 2 if n > 1 else 0] = order[: 2 if n > 1 else 0].flip(0)
        return [
            Element("transposition", permutation=swapped),
            Element("reversal", permutation=order.flip(0)),
        ]

    return Factor(
        lambda g: Element("generic", permutation=random_permutation(n, g)), special
    )


def _blocks(d: int, k: int, g: Generator) -> Tensor:
    sizes = [k] * (d // k) + ([d % k] if d % k else [])
    return torch.block_diag(*(random_orthogonal(size, g) for size in sizes))


def _general_linear(d: int, special: bool):
    def telling(g: Generator) -> list[Element]:
        small = 1e-3 * torch.randn(d, d, generator=g, dtype=torch.float64)
        if special:
            small = small - small.trace() / d * torch.eye(d, dtype=small.dtype)
        near = Element("small", torch.linalg.matrix_exp(small))
        return [near, *_isometries(d, not special, g)]

    return telling


def parse_group(name: str, d: int | None, n: int | None, scale: float) -> list[Factor]:
    """Read a group's name, such as ``"S(n) x E(3)"``, into its factors.

    Parameters
    ----------
    name : str
        The group; ``d`` and ``n`` in it stand for the sizes of the data.
    d, n : int or None
        Dimension of the points and number of nodes of the data.
    scale : float
        Size of the data, the unit of translations.
    """
    parts = [part.strip() for part in re.split(r"\s+[x×]\s+", name.strip())]
    return [_parse_factor(part, d, n, scale) for part in parts]


def _size(argument: str | None, found: int | None, letter: str, name: str) -> int:
    if argument is not None and argument.isdigit():
        size = int(argument)
        if found is not None and size != found:
            acts, has = f"permutes {size} nodes", f"{found} nodes"
            if letter == "d":
                acts, has = f"acts on dimension {size}", f"dimension {found}"
            raise ValueError(f"group: {name} {acts}, the data has {has}")
        return size
    if found is None:
        what = "vectors, points or matrices" if letter == "d" else "nodes"
        raise ValueError(f"group: {name} needs {what} in the inputs; see in_types")
    return found


def _parse_factor(name: str, d: int | None, n: int | None, scale: float) -> Factor:
    match = re.fullmatch(r"([A-Za-z4-][A-Za-z4-]*)(?:\((\w+)\))?", name)
    base, argument = match.groups() if match else (None, None)
    if base == "S":
        return _permutations(_size(argument, n, "n", name))
    if base == "time-shift":
        return Factor(
            lambda g: Element(
                "generic", steps=int(torch.randint(1, 9, (1,), generator=g))
            ),
            lambda g: [Element("shift 1", steps=1), Element("shift -1", steps=-1)],
        )
    if base in ("C4", "D4"):
        return _finite(list(signed_permutations(2, base == "D4")))
    if base in ("octahedral", "full-octahedral"):
        return _finite(list(signed_permutations(3, base == "full-octahedral")))
    if base == "basis":
        d = _size(None, d, "d", name)
        k = int(argument) if argument and argument.isdigit() else 1
        flip = Element("inversion", -torch.eye(d, dtype=torch.float64))
        return _matrix_group(
            lambda g: _blocks(d, k, g), lambda g: [flip], d, scale, False
        )
    if base == "sign":
        return _parse_factor("basis(1)", d, n, scale)
    linear = {"O", "SO", "E", "SE", "T", "GL", "SL", "Aff", "scale", "SPD-congruence"}
    if base not in linear:
        raise ValueError(f"group: expected {_SYNTAX}, found {name!r}")
    return _linear_factor(base, _size(argument, d, "d", name), scale)


def _linear_factor(base: str, d: int, scale: float) -> Factor:
    eye = torch.eye(d, dtype=torch.float64)
    if base == "T":
        return _matrix_group(lambda g: None, lambda g: [], d, scale, True)
    if base == "scale":

        def stretch(g: Generator) -> Tensor:
            return eye * math.exp(float(torch.randn(1, generator=g)))

        telling = [Element("scale 0.1", 0.1 * eye), Element("scale 10", 10.0 * eye)]
        return _matrix_group(stretch, lambda g: telling, d, scale, False)
    if base in ("GL", "SL", "Aff", "SPD-congruence"):
        special = base == "SL"
        return _matrix_group(
            lambda g: random_general_linear(d, g, special),
            _general_linear(d, special),
            d,
            scale,
            base == "Aff",
        )
    mirrors = base in ("O", "E")
    draw = random_orthogonal if mirrors else random_rotation
    return _matrix_group(
        lambda g: draw(d, g),
        lambda g: _isometries(d, mirrors, g),
        d,
        scale,
        base in ("E", "SE"),
    )


def elements_of(factors: list[Factor], n: int, g: Generator) -> list[list[Element]]:
    """Return what to test, each a sequence of elements that act one after another.

    The identity, every class of every factor, joint draws of a product, and pairs of
    joint draws that act in sequence.
    """

    def joint(label: str) -> Element:
        element = Element(label)
        for factor in factors:
            element = element.then(factor.sample(g), label)
        return element

    singles = [Element("identity")]
    for factor in factors:
        singles += factor.elements(n, g)
    if len(factors) > 1:
        singles += [joint("joint") for _ in range(n)]
    pairs = [[joint("composition"), joint("composition")] for _ in range(2)]
    return [[element] for element in singles] + pairs
