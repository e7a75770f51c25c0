"""Translate the equations in docstrings to LaTeX.

In a docstring an equation is readable text: ``m <- beta1 * m + (1 - beta1) * g``, with Python's operators. A line is an
assignment (``<-`` or ``=``) or an expression. Text follows after two or more spaces: ``if rho > 5``, ``otherwise``. A
``;`` or ``,`` with two or more spaces behind it separates two equations on one line. ``y.s`` is an inner product,
``y.T`` a transpose. This module needs neither Sphinx nor any other library.
"""

import ast
import itertools
import re
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

ARROWS = {"<-": r"\leftarrow", "=": "="}
GREEK = {name: rf"\{name}" for name in ("alpha", "beta", "gamma", "eta", "theta", "mu", "rho", "sigma", "tau")}
GREEK |= {"eps": r"\varepsilon", "lambd": r"\lambda"}
SUFFIXES = {"inf": r"\infty", "plus": "+", "minus": "-"}
FENCES = {"sqrt": (r"\sqrt{", "}"), "abs": (r"\left|", r"\right|"), "norm": (r"\left\lVert ", r"\right\rVert ")}
OPERATORS = {"max": r"\max", "min": r"\min", "exp": r"\exp", "log": r"\log"}
COMPARISONS = {ast.Gt: ">", ast.GtE: r"\ge", ast.Lt: "<", ast.LtE: r"\le", ast.Eq: "=", ast.NotEq: r"\ne"}
SUM, PRODUCT, POWER, ATOM = range(4)  # how tightly a piece of LaTeX binds


def is_code(block: str) -> bool:
    """Whether a literal block is Python to read as code: it calls a method or a module's function.

    >>> is_code("fo.chain(fo.adam())"), is_code("p <- p - lr * max(g, y.s)")
    (True, False)
    """
    return re.search(r"\w\.\w+\(", block) is not None


def to_latex(block: str) -> str:
    """Translate a block of equations, one row for each line.

    Raises:
        ValueError: a line is not an equation; the message names it.
    """
    rows = [_row(line) for line in textwrap.dedent(block).splitlines() if line.strip()]
    if len(rows) == 1:
        return " ".join(filter(None, rows[0][:2])) + (rf" \qquad {rows[0].text}" if rows[0].text else "")
    lines = [f"{row.target} &{row.rest}" + (f" && {row.text}" if row.text else "") for row in rows]
    return r"\begin{align*} " + r" \\ ".join(lines) + r" \end{align*}"


class Row(NamedTuple):
    """A line in LaTeX: what stands left of the arrow, from the arrow on, and the text behind."""

    target: str
    rest: str
    text: str


def _row(line: str) -> Row:
    """Translate a line, which may have several equations."""
    first, *others = [_part(part) for part in re.split(r"[;,] {2,}", line.strip())]
    rest = [first.rest, *(f"{other.target} {other.rest}".strip() for other in others)]
    return Row(
        first.target, r",\quad ".join(rest), " ".join(filter(None, [first.text, *(other.text for other in others)]))
    )


def _part(part: str) -> Row:
    """Translate an assignment or an expression, with the text behind it."""
    assigned = re.match(r"(\S.*?)\s+(<-|=)\s+(.*)", part)
    target, arrow, rest = assigned.groups() if assigned else ("", "", part)
    value, _, text = rest.partition("  ")
    words = _words(text.strip()) if text.strip() else ""
    if not assigned:
        return Row("", _parsed(value, part), words)
    return Row(_parsed(target, part), f"{ARROWS[arrow]} {_parsed(value, part)}", words)


def _words(text: str) -> str:
    """Translate the text behind an equation: a condition that is math stays math."""
    if text.startswith("if "):
        try:
            return r"\text{if } " + expression(ast.parse(text.removeprefix("if "), mode="eval").body)[0]
        except (SyntaxError, ValueError):
            pass
    return _text(text)


def _text(words: str) -> str:
    return r"\text{" + words.replace("_", r"\_") + "}"


def _parsed(source: str, line: str) -> str:
    try:
        return expression(ast.parse(source.strip(), mode="eval").body)[0]
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"not an equation: {line.strip()!r} ({error})") from None


def expression(node: ast.expr) -> tuple[str, int]:
    """Translate an expression of Python; return its LaTeX and how tightly that binds."""
    match node:
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            return _number(value)
        case ast.Name(name):
            return symbol(name), ATOM
        case ast.UnaryOp(ast.USub(), operand):
            return "-" + _within(operand, PRODUCT), SUM
        case ast.BinOp(left, ast.Add() | ast.Sub() as op, right):
            sign, least = ("+", SUM) if isinstance(op, ast.Add) else ("-", PRODUCT)
            return f"{_within(left, SUM)} {sign} {_within(right, least)}", SUM
        case ast.BinOp(base, ast.Pow(), exponent):
            return f"{_within(base, ATOM)}^{{{expression(exponent)[0]}}}", POWER
        case ast.BinOp():
            return _product(node), PRODUCT
        case ast.Compare(left, ops, others):
            signs = [COMPARISONS[type(op)] for op in ops]
            tail = "".join(f" {sign} {expression(other)[0]}" for sign, other in zip(signs, others, strict=True))
            return expression(left)[0] + tail, SUM
        case ast.Attribute(value, "T"):
            return _within(value, ATOM) + r"^{\top}", POWER
        case ast.Attribute(value, name):
            return _within(value, ATOM) + r"^{\top} " + symbol(name), PRODUCT
        case ast.Call(ast.Name(name), arguments, []):
            return _call(name, [expression(argument)[0] for argument in arguments])
    raise ValueError(f"{ast.unparse(node)!r} has no translation")


def _number(value: float) -> tuple[str, int]:
    """Translate a number; a power of ten stays one."""
    mantissa, exponential, exponent = f"{value:g}".partition("e")
    if not exponential:
        return mantissa, ATOM
    power = f"10^{{{int(exponent)}}}"
    return (power, POWER) if mantissa == "1" else (rf"{mantissa} \cdot {power}", PRODUCT)


def symbol(name: str) -> str:
    r"""Translate a name: Greek letters, and letters with an index; any other name is text.

    >>> symbol("beta1"), symbol("rho_inf"), symbol("g_last"), symbol("weight_decay")
    ('\\beta_{1}', '\\rho_{\\infty}', 'g_{\\text{last}}', '\\text{weight\\_decay}')
    """
    parts = re.fullmatch(r"([A-Za-z]+?)(\d*)(?:_([a-z]+))?", name)
    base = parts and (GREEK.get(parts[1]) or (parts[1] if len(parts[1]) == 1 else None))
    if not parts or base is None or (parts[2] and parts[3]):
        return _text(name)
    index = parts[2] or (SUFFIXES.get(parts[3]) or _text(parts[3]) if parts[3] else "")
    return f"{base}_{{{index}}}" if index else base


def _call(name: str, arguments: list[str]) -> tuple[str, int]:
    if name in FENCES and len(arguments) == 1:
        left, right = FENCES[name]
        return left + arguments[0] + right, POWER if name == "sqrt" else ATOM
    letter = symbol(name)
    head = OPERATORS.get(name) or (rf"\operatorname{{{name}}}" if letter.startswith(r"\text") else letter)
    return rf"{head}\left({', '.join(arguments)}\right)", ATOM


def _within(node: ast.expr, least: int) -> str:
    """Translate an operand, in parentheses if it binds less tightly than ``least``."""
    text, level = expression(node)
    return text if level >= least else rf"\left({text}\right)"


def _product(node: ast.expr) -> str:
    """Translate a product: each division puts the factors since the last one over its divisor."""
    done: list[tuple[list[ast.expr], list[ast.expr]]] = []  # numerators and denominators
    open_factors: list[ast.expr] = []
    for divides, factor in _factors(node):
        if not divides:
            open_factors.append(factor)
        elif open_factors or not done:
            done.append((open_factors, [factor]))
            open_factors = []
        else:
            done[-1][1].append(factor)
    pieces = [rf"\frac{{{_joined(above)}}}{{{_joined(below)}}}" for above, below in done]
    return r" \, ".join([*pieces, _joined(open_factors)] if open_factors else pieces)


def _factors(node: ast.expr) -> Iterable[tuple[bool, ast.expr]]:
    """Yield the factors of a product from left to right, and whether each divides."""
    match node:
        case ast.BinOp(left, ast.Mult() | ast.MatMult() | ast.Div() as op, right):
            yield from _factors(left)
            yield isinstance(op, ast.Div), right
        case ast.BinOp(_, ast.FloorDiv() | ast.Mod() as op, _):
            raise ValueError(f"{ast.unparse(node)!r} has no translation")
        case _:
            yield False, node


def _joined(factors: list[ast.expr]) -> str:
    if len(factors) == 1:
        return expression(factors[0])[0]
    texts = [_within(factor, PRODUCT) for factor in factors]
    joined = texts[0]
    for before, after in itertools.pairwise(texts):
        words = re.search(r"\\text\{[^{}]*\}$", before) or after.startswith(r"\text{")
        joined += (r" \cdot " if words or after[0].isdigit() else r" \, ") + after
    return joined
