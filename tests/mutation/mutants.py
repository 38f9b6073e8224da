# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Finds the places of a C++ file that can be broken, and writes the file with all mutants in it.

Every mutant is an expression that mutation.hpp switches on by its number, so that one compilation
serves all of them. Needs libclang 19 and its Python bindings (Debian: python3-clang-19).
"""

import sys
from dataclasses import dataclass

try:
    from clang import cindex
except ImportError:  # a Python beside the system's
    sys.path.append("/usr/lib/python3/dist-packages")
    from clang import cindex

KIND = cindex.CursorKind
TYPE = cindex.TypeKind

BINARY = {
    "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "==": "equal",
    "!=": "not_equal", "+": "add", "-": "subtract", "*": "multiply", "/": "divide", "%": "modulo",
    "<<": "shift_left", ">>": "shift_right", "&": "bit_and", "|": "bit_or", "^": "bit_xor",
}
ASSIGNMENT = {
    "+=": "add_assign", "-=": "subtract_assign", "*=": "multiply_assign", "/=": "divide_assign",
}
BECOMES = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+",
    "*": "+", "/": "*", "%": "+", "<<": ">>", ">>": "<<", "&": "|", "|": "&", "^": "&",
    "+=": "-=", "-=": "+=", "*=": "+=", "/=": "*=",
}
ARITHMETIC = {
    TYPE.CHAR_U, TYPE.UCHAR, TYPE.CHAR16, TYPE.CHAR32, TYPE.USHORT, TYPE.UINT, TYPE.ULONG,
    TYPE.ULONGLONG, TYPE.CHAR_S, TYPE.SCHAR, TYPE.WCHAR, TYPE.SHORT, TYPE.INT, TYPE.LONG,
    TYPE.LONGLONG, TYPE.FLOAT, TYPE.DOUBLE, TYPE.LONGDOUBLE,
}
# Evaluated by the compiler alone, or no code.
CONSTANT = {
    KIND.STATIC_ASSERT, KIND.ENUM_CONSTANT_DECL, KIND.TEMPLATE_TYPE_PARAMETER,
    KIND.TEMPLATE_NON_TYPE_PARAMETER, KIND.TEMPLATE_TEMPLATE_PARAMETER, KIND.CONCEPT_DECL,
    KIND.REQUIRES_EXPR, KIND.TYPE_ALIAS_DECL, KIND.TYPE_ALIAS_TEMPLATE_DECL, KIND.TYPEDEF_DECL,
    KIND.FRIEND_DECL, KIND.ALIGNED_ATTR,
}


@dataclass
class Mutant:
    number: int
    file: str
    line: int
    column: int
    kind: str
    text: str  # the source line
    change: str


class Finder:
    """Collects mutants of one file, and the insertions and replacements that make them."""

    def __init__(self, path, name, first_number):
        self.path, self.name = path, name
        self.source = open(path, "rb").read()
        self.lines = self.source.decode().split("\n")
        self.mutants, self.edits = [], []
        self.next = first_number

    def text(self, begin, end):
        return self.source[begin:end].decode()

    def add(self, cursor, kind, change, at=None):
        location = at or cursor.extent.start
        number = self.next
        self.next += 1
        self.mutants.append(
            Mutant(number, self.name, location.line, location.column, kind,
                   self.lines[location.line - 1].strip(), change))
        return number

    def wrap(self, number, begin, end, depth, before, after):
        # At one place what ends comes before what begins; outer prefixes come first, and outer
        # suffixes last.
        self.edits.append((begin, 1, depth, begin, before, number))
        self.edits.append((end, 0, -depth, end, after, number))

    def replace(self, number, begin, end, text):
        self.edits.append((begin, 2, 0, end, text, number))

    # ---- the kinds of mutants

    def operator_between(self, left, right):
        begin, end = left.extent.end.offset, right.extent.start.offset
        text = self.text(begin, end)
        operator = text.strip().strip("()").strip()
        at = text.find(operator)
        return operator, begin + at, begin + at + len(operator)

    def binary(self, cursor, depth):
        children = list(cursor.get_children())
        if len(children) != 2:
            return
        left, right = children
        operator, begin, end = self.operator_between(left, right)
        span = cursor.extent.start.offset, cursor.extent.end.offset
        if operator in BINARY:
            number = self.add(cursor, "operator", f"{operator} -> {BECOMES[operator]}")
            self.wrap(number, *span, depth, f"::mutation::{BINARY[operator]}({number}u, ", ")")
            self.replace(number, begin, end, ",")
        elif operator in ("&&", "||"):
            for side, which in ((left, "left"), (right, "right")):
                number = self.add(side, "operand", f"the {which} side of {operator} is left out")
                how = (f"(::mutation::on({number}u) || (" if operator == "&&"
                       else f"(!::mutation::on({number}u) && (")
                self.wrap(number, side.extent.start.offset, side.extent.end.offset, depth, how,
                          "))")

    def assignment(self, cursor, depth):
        children = list(cursor.get_children())
        operator, begin, end = self.operator_between(*children)
        if operator not in ASSIGNMENT or children[0].type.get_canonical().kind not in ARITHMETIC:
            return
        number = self.add(cursor, "operator", f"{operator} -> {BECOMES[operator]}")
        self.wrap(number, cursor.extent.start.offset, cursor.extent.end.offset, depth,
                  f"::mutation::{ASSIGNMENT[operator]}({number}u, ", ")")
        self.replace(number, begin, end, ",")

    def condition(self, cursor, depth):
        number = self.add(cursor, "condition", "negated")
        self.wrap(number, cursor.extent.start.offset, cursor.extent.end.offset, depth,
                  f"(::mutation::on({number}u) != static_cast<bool>(", "))")

    def literal(self, cursor, depth):
        begin, end = cursor.extent.start.offset, cursor.extent.end.offset
        text = self.text(begin, end)
        if not text[:1].isdigit() and not text.startswith("."):
            return
        number = self.add(cursor, "constant", f"{text} -> {text} + 1")
        self.wrap(number, begin, end, depth, f"::mutation::plus_one({number}u, ", ")")

    def boolean(self, cursor, depth):
        begin, end = cursor.extent.start.offset, cursor.extent.end.offset
        text = self.text(begin, end)
        if text not in ("true", "false"):
            return
        number = self.add(cursor, "constant", f"{text} negated")
        self.wrap(number, begin, end, depth, f"(::mutation::on({number}u) != ", ")")

    def argument(self, cursor, depth):
        number = self.add(cursor, "argument", "+ 1")
        self.wrap(number, cursor.extent.start.offset, cursor.extent.end.offset, depth,
                  f"::mutation::plus_one({number}u, ", ")")

    def statement(self, cursor, depth):
        begin, end = cursor.extent.start.offset, cursor.extent.end.offset
        text = self.text(begin, end)
        rest = self.source[end:].lstrip()
        if not rest.startswith(b";") or self.is_error(cursor) or ".reserve(" in text:
            return  # reserve changes only the time
        end = self.source.index(b";", end) + 1
        number = self.add(cursor, "statement", "left out")
        self.wrap(number, begin, end, depth, f"{{ if (!::mutation::on({number}u)) ", " }")

    # ---- the walk

    def is_here(self, cursor):
        return cursor.extent.start.file is not None and cursor.extent.start.file.name == self.path

    @staticmethod
    def is_error(cursor):
        """Whether it throws: what its sentence says is not broken."""
        if cursor.kind == KIND.CXX_THROW_EXPR:
            return True
        return cursor.kind == KIND.CALL_EXPR and cursor.spelling.startswith(("throw_", "fail"))

    def visit(self, cursor, depth):
        if cursor.kind in CONSTANT or self.is_error(cursor):
            return
        if cursor.kind in (KIND.VAR_DECL, KIND.FIELD_DECL):
            tokens = [token.spelling for token in cursor.get_tokens()]
            equals = tokens.index("=") if "=" in tokens else len(tokens)
            if "constexpr" in tokens[:equals] or "consteval" in tokens[:equals]:
                return
        if cursor.kind == KIND.BINARY_OPERATOR:
            self.binary(cursor, depth)
        elif cursor.kind == KIND.COMPOUND_ASSIGNMENT_OPERATOR:
            self.assignment(cursor, depth + 1)
        elif cursor.kind in (KIND.INTEGER_LITERAL, KIND.FLOATING_LITERAL):
            self.literal(cursor, depth)
        elif cursor.kind == KIND.CXX_BOOL_LITERAL_EXPR:
            self.boolean(cursor, depth)
        children = list(cursor.get_children())
        self.roles(cursor, children, depth)
        for index, child in enumerate(children):
            if cursor.kind == KIND.CASE_STMT and index == 0:
                continue
            self.visit(child, depth + 10)

    def roles(self, cursor, children, depth):
        """What children are in their parent."""
        if cursor.kind == KIND.IF_STMT:
            head = self.text(cursor.extent.start.offset, children[0].extent.start.offset)
            plain = "constexpr" not in head and ";" not in head
            if plain and children[0].kind.is_expression():
                if children[0].kind != KIND.BINARY_OPERATOR:
                    self.condition(children[0], depth + 5)
            bodies = children[1:]
        elif cursor.kind == KIND.CONDITIONAL_OPERATOR:
            if children[0].kind != KIND.BINARY_OPERATOR:
                self.condition(children[0], depth + 5)
            bodies = []
        elif cursor.kind == KIND.COMPOUND_STMT:
            bodies = children
        elif cursor.kind in (KIND.FOR_STMT, KIND.WHILE_STMT, KIND.CXX_FOR_RANGE_STMT):
            bodies = children[-1:]
        else:
            bodies = []
        for body in bodies:
            if body.kind.is_expression():
                self.statement(body, depth + 5)
        if cursor.kind == KIND.CALL_EXPR:
            for argument in cursor.get_arguments():
                if argument is None or not self.is_here(argument):
                    continue
                kind = argument.type.get_canonical().kind
                inner = argument
                while inner.kind == KIND.UNEXPOSED_EXPR:
                    below = list(inner.get_children())
                    if len(below) != 1:
                        break
                    inner = below[0]
                plain = inner.kind in (KIND.DECL_REF_EXPR, KIND.MEMBER_REF_EXPR)
                # An lvalue may be passed by reference.
                if kind in ARITHMETIC and plain and inner is not argument:
                    self.argument(argument, depth + 5)

    def find(self, unit):
        for cursor in unit.cursor.get_children():
            self.walk_declarations(cursor)
        return self.mutants

    def walk_declarations(self, cursor):
        if cursor.kind in (KIND.NAMESPACE, KIND.LINKAGE_SPEC, KIND.UNEXPOSED_DECL):
            for child in cursor.get_children():
                self.walk_declarations(child)
        elif self.is_here(cursor):
            self.visit(cursor, 0)

    def instrumented(self, without):
        """The file with all mutants but those numbers."""
        edits = sorted(edit for edit in self.edits if edit[5] not in without)
        result, at = [], 0
        for begin, _, _, end, text, _ in edits:
            result += [self.source[at:begin], text.encode()]
            at = max(at, begin, end)
        return b"".join(result + [self.source[at:]])


def find(path, name, arguments, first_number):
    """The Finder of a file, with its mutants."""
    unit = cindex.Index.create().parse(path, args=["-x", "c++", *arguments])
    errors = [str(d) for d in unit.diagnostics if d.severity >= cindex.Diagnostic.Error]
    if errors:
        raise SystemExit(f"{path} does not compile: {errors[0]}")
    finder = Finder(path, name, first_number)
    finder.find(unit)
    return finder
