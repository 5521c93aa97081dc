"""Mutants: small changes of a source file that its tests should notice."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
# Methods that a tensor or array can do without: the value stays of a kind that the next line takes.
LEFT_OUT_METHODS = {"abs", "ceil", "clamp", "clamp_", "clip", "clone", "detach", "double", "float", "sort", "to"}
BOUNDS = {"min", "max"}
IN_ANY_ORDER = {"min", "max", "minimum", "maximum", "transpose", "isinstance", "getattr"}  # or where any test fails
# What `strict` of zip guards against does not happen, and without `device` a tensor is on the CPU, where tests run.
KEYWORDS_LEFT_ALONE = ("strict", "device")
CONTEXT_DROPPED = "context dropped"
TEXT_FOR_PEOPLE = {"extra_repr", "__repr__"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: of the file, below the repository.
        line: first line of what changes, from 1.
        kind: what is done to it.
        before: the lines that change, put in one.
        after: what they become.
        start: byte at which the change starts.
        stop: byte after its end.
        replacement: what is written there.
    """

    path: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    stop: int
    replacement: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What says which mutant it is, wherever in the file its line moves to."""
        return self.path, self.before, self.after

    def apply(self, source: bytes) -> bytes:
        """The file's content with the change."""
        return source[: self.start] + self.replacement.encode() + source[self.stop :]


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of its lines.

    Docstrings, types, decorators, texts, messages of errors, ``strict`` of zips, ``device`` and what is logged for
    information stay as they are.

    Args:
        path: of the file, for the mutants.
        source: its content.
    """
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    found = {mutant.key: mutant for mutant in finder.mutants if mutant.before != mutant.after}
    return sorted((m for m in found.values() if _is_code(m, source)), key=lambda mutant: mutant.start)


def _is_code(mutant: Mutant, source: bytes) -> bool:
    """False of a context in parentheses; all others put an expression or a statement in the place of one."""
    if mutant.kind != CONTEXT_DROPPED:
        return True
    try:
        ast.parse(mutant.apply(source))
    except SyntaxError:
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Collects the mutants of each node."""

    def __init__(self, path: str, source: bytes) -> None:
        self.mutants: list[Mutant] = []
        self._path, self._source = path, source
        lengths = [len(line) for line in source.splitlines(keepends=True)]
        self._line_starts = [sum(lengths[:number]) for number in range(len(lengths) + 1)]

    # --- writing mutants down -----------------------------------------------------------------------------

    def _place(self, node: ast.AST) -> tuple[int, int]:
        start = self._line_starts[node.lineno - 1] + node.col_offset
        return start, self._line_starts[node.end_lineno - 1] + node.end_col_offset

    def _write(self, line: int, kind: str, start: int, stop: int, replacement: str) -> None:
        first = self._source.rfind(b"\n", 0, start) + 1
        last = (self._source + b"\n").find(b"\n", stop)
        before = self._source[first:last].decode()
        after = (self._source[first:start] + replacement.encode() + self._source[stop:last]).decode()
        lines = (" ".join(text.split()) for text in (before, after))
        self.mutants.append(Mutant(self._path, line, kind, *lines, start, stop, replacement))

    def _add(self, node: ast.AST, kind: str, new: str) -> None:
        self._write(node.lineno, kind, *self._place(node), new)

    def _replace(self, node: ast.expr, kind: str, **fields: object) -> None:
        """The same expression with other fields."""
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        self._add(node, kind, f"({ast.unparse(other)})")

    # --- what is left alone -------------------------------------------------------------------------------

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:  # texts
        pass

    def visit_arg(self, node: ast.arg) -> None:  # types
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in TEXT_FOR_PEOPLE:
            self.visit(node.args)
            self._visit_body(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_body(node.body)

    def _visit_body(self, body: list[ast.stmt]) -> None:
        for number, statement in enumerate(body):
            if isinstance(statement, ast.Return) and number == len(body) - 1:
                self.generic_visit(statement)  # without it nothing would be returned: any test sees that
            else:
                self.visit(statement)

    # --- statements ---------------------------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Call):
            return self.generic_visit(node)
        called = ast.unparse(node.value.func)
        if called in ("logger.info", "logger.debug"):
            return None
        self._add(node, "statement dropped", "pass")
        return None if called.startswith(("logger.", "warnings.")) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "statement dropped", "pass")

    def visit_Return(self, node: ast.Return) -> None:
        self._add(node, "statement dropped", "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "statement dropped", "pass")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "statement dropped", "pass")
        other = OPERATORS.get(type(node.op))
        if other is not None:
            text = ast.unparse(ast.AugAssign(node.target, other(), node.value))
            self._add(node, "operator", text)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Subscript) for target in node.targets):
            self._add(node, "statement dropped", "pass")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        if not any(item.optional_vars for item in node.items):
            start, last = self._place(node)[0], self._place(node.items[-1].context_expr)[1]
            self._write(node.lineno, CONTEXT_DROPPED, start, last, "if True")
        self.generic_visit(node)

    # --- conditions ---------------------------------------------------------------------------------------

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.UnaryOp):  # the `not` of which is dropped
            self._add(test, "condition negated", f"(not ({ast.unparse(test)}))")

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._add(condition, "condition dropped", "True")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for number, operator in enumerate(node.ops):
            other = [*node.ops[:number], COMPARISONS[type(operator)](), *node.ops[number + 1 :]]
            self._replace(node, "comparison", ops=other)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._replace(node, "operator", op=OPERATORS[type(node.op)]())
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._add(node, "sign dropped", f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    # --- values -------------------------------------------------------------------------------------------

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in OPERATORS and not _is_type(node):
            self._replace(node, "operator", op=OPERATORS[type(node.op)]())
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        for value in _other_values(node.value):
            self._add(node, "constant", f"({value!r})" if isinstance(value, float) else repr(value))

    def visit_Call(self, node: ast.Call) -> None:
        first, second = (node.args + [None, None])[:2]
        name = ast.unparse(node.func).split(".")[-1]
        starred = any(isinstance(argument, ast.Starred) for argument in node.args[:2])
        if first and second and not starred and name not in IN_ANY_ORDER and ast.dump(first) != ast.dump(second):
            self._replace(node, "arguments swapped", args=[second, first, *node.args[2:]])
        for keyword in node.keywords:
            if keyword.arg not in (None, *KEYWORDS_LEFT_ALONE):
                self._replace(node, "keyword dropped", keywords=[k for k in node.keywords if k is not keyword])
        if isinstance(node.func, ast.Name) and name in BOUNDS and first and second:
            for argument in (first, second):
                self._add(node, "bound dropped", f"({ast.unparse(argument)})")
        if isinstance(node.func, ast.Attribute) and node.func.attr in LEFT_OUT_METHODS:
            self._add(node, "call dropped", f"({ast.unparse(node.func.value)})")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in KEYWORDS_LEFT_ALONE:
            self.generic_visit(node)


def _is_type(node: ast.BinOp) -> bool:
    """Whether it is a union of types, such as ``int | None``."""
    return isinstance(node.op, ast.BitOr) and isinstance(node.right, ast.Constant) and node.right.value is None


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float):
        yield 2 * value if value else 1.0
