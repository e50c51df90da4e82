"""The program inside the sandbox: it runs the cells of a notebook, and does with its objects what it is asked.

Started as ``python -I -S runner.py SETUP``, it reads questions from stdin and writes replies to stdout, each a message
of ``_wire``. The student's code shares this process and can change everything in it. So nothing here protects the
grader: ``box`` doubts every byte that comes out. What is careful here is careful for honest notebooks.
"""

import __future__

import ast
import gc
import importlib
import importlib.util
import json
import linecache
import operator
import os
import sys
import types

MAX_OBJECTS = 1_000  # that the grader may hold at once
MAX_MESSAGE = 1_000  # characters of an exception's text
PLAIN_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")  # what follows them is Python

_OPERATORS = (
    *("abs", "add", "and_", "contains", "floordiv", "ge", "gt", "invert", "le", "lt", "matmul", "mod", "mul", "neg"),
    *("or_", "pos", "pow", "setitem", "sub", "truediv", "xor", "getitem"),
)
ACTIONS = {name: getattr(operator, name) for name in _OPERATORS} | {
    "call": lambda function, *arguments, **keywords: function(*arguments, **keywords),
    "value": lambda value: value,
    "getattr": getattr,
    "setattr": setattr,
    "len": len,
    "iter": iter,
    "next": lambda iterator: [item for _, item in zip(range(1), iterator, strict=False)],  # [] at the end
}


def main() -> None:
    """Set the limits, make ready, answer until the questions end."""
    setup = json.loads(sys.argv[1])
    questions, replies = take_pipes()
    limit_resources(setup["limits"])
    sys.path += setup["paths"]
    wire = load_wire(setup["wire"])
    preload(setup["preload"])
    Runner(wire, questions, replies).answer_all()


def take_pipes():
    """The two pipes, out of the way of ``input`` and ``print``: what is printed goes with the errors."""
    questions, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, replies


def limit_resources(limits):
    """Both limits, soft and hard, so that they cannot be raised again."""
    import resource  # Unix has it

    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:  # some systems have fewer
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))


def load_wire(path):
    """The module by its file: it lies beside others that are not needed here."""
    spec = importlib.util.spec_from_file_location("_course_lib_wire", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def preload(names):
    """Import modules without looking for garbage, of which they make none: PyTorch comes a sixth faster."""
    gc.disable()
    for name in names:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


class Shell:
    """Stands for IPython's shell: everything that is asked of it is done by doing nothing."""

    def __getattr__(self, name):
        return lambda *arguments, **keywords: None


class Runner:
    """The notebook's namespace, and the loop that answers questions about it."""

    def __init__(self, wire, questions, replies):
        self.wire, self.questions, self.replies = wire, questions, replies
        self.process = os.getpid()
        self.flags = 0  # what `from __future__ import` switched on, for all later cells
        self.objects, self.numbers = [], {}
        notebook = types.ModuleType("__main__")
        sys.modules["__main__"] = notebook  # so that the student's classes know their module
        self.names = notebook.__dict__
        self.names["get_ipython"] = Shell
        self.names["display"] = print

    def answer_all(self):
        self.write(self.wire.pack({"ready": True}))
        while True:
            question = self.read()
            try:
                reply = self.wire.pack({"id": question["id"], "value": self.answer(question)})
            except BaseException as error:  # also SystemExit and KeyboardInterrupt: the notebook goes on
                reply = self.wire.pack({"id": question["id"], "error": describe(error)})
            if os.getpid() != self.process:
                os._exit(0)  # the student's code forked, and the child came back here
            self.write(reply)

    def read(self):
        head = self.read_bytes(self.wire.HEAD_BYTES)
        return self.wire.unpack(self.read_bytes(self.wire.body_length(head)))

    def read_bytes(self, length):
        data = bytearray()
        while len(data) < length:
            part = os.read(self.questions, length - len(data))
            if not part:
                os._exit(0)  # the grader has no more questions
            data += part
        return bytes(data)

    def write(self, message):
        data = memoryview(message)
        while data:
            data = data[os.write(self.replies, data) :]

    def answer(self, question):
        if question["op"] == "cell":
            return self.run_cell(question)
        target, *arguments = (self.decode(form) for form in question["arguments"])
        keywords = {name: self.decode(form) for name, form in question["keywords"].items()}
        result = ACTIONS[question["action"]](target, *arguments, **keywords)
        if question.get("arguments_too"):
            result = (result, arguments, keywords)
        return self.wire.encode(result, self.refer)

    def decode(self, form):
        return self.wire.decode(form, self.resolve)

    def resolve(self, kind, key):
        if kind == "object":
            return self.objects[key]
        if key not in self.names:
            raise NameError(f"name '{key}' is not defined")
        return self.names[key]

    def refer(self, value):
        """Keep an object that has no form as text. The same object has the same number."""
        if id(value) not in self.numbers:
            if len(self.objects) >= MAX_OBJECTS:
                raise self.wire.WireError(f"more than {MAX_OBJECTS} objects that are no plain values")
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return {"object": self.numbers[id(value)]}

    def run_cell(self, question):
        """Run a cell's first statements one by one, and say which one begins: the last said is the one that hung."""
        name = f"<cell {question['number']}>"
        source = without_magics(question["source"])
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # for inspect.getsource
        # The whole cell first, as a notebook does: an error of syntax at its end keeps its beginning from running.
        body = compile(source, name, "exec", ast.PyCF_ONLY_AST | self.flags, dont_inherit=True).body
        for number, statement in enumerate(body[: question["statements"]]):
            if os.getpid() == self.process:  # a child of the student's code stays silent
                self.write(self.wire.pack({"id": question["id"], "at": number}))
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                for alias in statement.names:
                    self.flags |= getattr(__future__, alias.name).compiler_flag
            module = ast.Module([statement], [])
            exec(compile(module, name, "exec", self.flags, dont_inherit=True), self.names)


def without_magics(source: str) -> str:
    """A cell without IPython's own lines, so that the rest of it counts.

    >>> without_magics("%%time\\nx = 1")
    '\\nx = 1'
    >>> without_magics("%matplotlib inline\\nif True:\\n    !ls\\nx = 1")
    'pass\\nif True:\\n    pass\\nx = 1'
    >>> without_magics("%%bash\\nrm -r folder")
    ''
    """
    first, newline, rest = source.lstrip().partition("\n")
    if first.startswith("%%"):
        return newline + rest if first.split()[0] in PLAIN_MAGICS else ""
    try:
        compile(source, "<cell>", "exec", ast.PyCF_ONLY_AST)
    except SyntaxError:  # only then: `% 2` at the start of a line may also continue the line above
        return "\n".join(map(_without_magic, source.split("\n")))
    return source


def _without_magic(line):
    text = line.strip()
    if text.startswith(("%", "!", "?")) or text.endswith("?"):
        return line[: len(line) - len(line.lstrip())] + "pass"
    return line


def describe(error: BaseException) -> dict:
    """An exception as plain values; asking it for its text runs the student's code."""
    builtin = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        message = str(error)
    except BaseException:
        message = "(an exception without a readable text)"
    message = message[:MAX_MESSAGE].encode("utf-8", "replace").decode("utf-8")
    return {"kind": type(error).__name__[:100], "builtin": builtin, "message": message, "place": place_of(error)}


def place_of(error):
    """The cell and the line where it was raised, or None."""
    if isinstance(error, SyntaxError) and str(error.filename).startswith("<cell "):
        return f"{error.filename[1:-1]}, line {error.lineno}"
    place, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        place = f"{name[1:-1]}, line {trace.tb_lineno}" if name.startswith("<cell ") else place
        trace = trace.tb_next
    return place


if __name__ == "__main__":
    main()
