"""Finds out whether a function uses what its exercise forbids: from its text, from the names it sees, while it runs.

What is forbidden is the dotted name of a module, `course_lib.gaussians`, which forbids all that is in it wherever it
is imported from; or of a function, `torch.logsumexp`, which forbids the method of a tensor of that name too.
To mention it is enough. What can hide a name (`eval`, `__import__` and their like) is refused where anything is
forbidden.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import itertools
import re
import symtable
import sys
import textwrap
from contextlib import contextmanager
from types import FunctionType, ModuleType

HIDING = {"eval", "exec", "compile", "__import__", "globals", "locals", "vars", "__builtins__"}
HIDING_PATHS = ("importlib", "sys.modules", "builtins", "operator.attrgetter", "operator.methodcaller")
HIDING_ATTRIBUTES = {"__dict__", "__getattribute__", "__globals__"}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
MAGIC = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)


def in_cells(cells: list[str], function: str, forbids) -> list[str]:
    """What a function of a notebook uses that is forbidden. Nothing of the notebook is run.

    Whatever a name may stand for counts, also what is bound in a branch, or replaced later: it cannot be known what
    has run, and what has kept the older value. Only of the function itself an older definition is dropped, if a plain
    one follows and nothing else refers to it. The helpers that the function uses are searched too, and what is put
    into the objects that it uses. What hides names is refused outside of functions too. A cell that is not Python is
    left out; lines of IPython's magic are dropped.
    """
    if not forbids:
        return []
    _load(forbids)
    trees = [tree for cell in cells if (tree := _parsed(cell)) is not None]
    codes, imports = {}, {}
    for node in (node for tree in trees for node in _outside(tree)):
        for name, path in _imported(node):
            imports.setdefault(name, []).append(path)
        for name, code in _given(node):
            codes.setdefault(name, []).append(code)
    for node in (node for tree in trees for node in ast.walk(tree)):  # also what a function puts there
        for name, code in _filled(node):
            if name not in imports:  # `torch.testing.assert_close(mine, theirs)` puts nothing into torch
                codes.setdefault(name, []).append(code)

    first = _last_plain(trees, function, codes.get(function, []))

    def node_of(name):
        return _together(first if name is None else codes.get(name, []))

    @functools.cache
    def paths_of(name):
        return _paths(name, lambda root: imports.get(root, ()), lambda root: map(_chain, codes.get(root, ())))

    own = {name for tree in trees for node in tree.body for name, _ in _given(node)}
    found = [path for path in paths_of(function) if _is_forbidden(path, forbids)]
    found += _search(None, node_of, paths_of, tuple(forbids), own)
    hidden = [node for tree in trees for node in tree.body if isinstance(node, ast.Expr)]
    hidden += [target for tree in trees for node in tree.body for target in getattr(node, "targets", [])]
    at_top = _mentions(_together(hidden) or ast.Module([], []), lambda root: imports.get(root, ()), (), own)
    return list(dict.fromkeys([*found, *at_top]))


def _last_plain(trees, function, codes):
    """Of what a function may be, what is left from the last definition that certainly took place."""
    last = None
    for tree in trees:
        for node in itertools.takewhile(_is_plain, tree.body):  # what is not plain may fail, and end the cell
            last = node if getattr(node, "name", None) == function else last
    start = codes.index(last) if last is not None else 0
    # what is put into the function stays, for it may be read before
    return [one for place, one in enumerate(codes) if place >= start or not isinstance(one, FUNCTIONS)]


def _is_plain(node):
    """Whether it is an import of what is there, or the definition of a function in which nothing is computed."""
    if isinstance(node, ast.Import):
        return all(_is_there(one.name) for one in node.names)
    if isinstance(node, ast.ImportFrom):
        return all(_object(path) is not None for _, path in _imported(node))
    if not isinstance(node, FUNCTIONS):
        return False
    around = [*node.decorator_list, node.returns, *node.args.defaults, *node.args.kw_defaults]
    around += [inner.annotation for inner in ast.walk(node.args) if isinstance(inner, ast.arg)]
    return all(one is None or isinstance(one, ast.Constant) for one in around)


def _is_there(module):
    """Whether a module can be imported, as far as that is known without running it."""
    try:
        return module in sys.modules or ("." not in module and importlib.util.find_spec(module) is not None)
    except (ImportError, ValueError):
        return False


def _parsed(cell):
    for text in (cell, MAGIC.sub(r"\1pass", cell)):
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def in_function(function, forbids) -> list[str]:
    """What a function at hand uses that is forbidden, as far as its source can be had."""
    if not forbids or not isinstance(function, FunctionType):
        return []
    _load(forbids)
    seen = function.__globals__

    def node_of(name):
        value = function if name == function.__name__ else seen.get(name)
        while isinstance(value, functools.partial):
            value = value.func
        if not isinstance(value, FunctionType) or value.__globals__ is not seen:
            return None
        try:
            return ast.parse(textwrap.dedent(inspect.getsource(value)))
        except (OSError, TypeError, SyntaxError, ValueError, RecursionError):
            return None

    def path_of(name):
        value = seen.get(name)
        while isinstance(value, functools.partial):
            value = value.func
        return _home(value) if value is not None else None

    def paths_of(name):
        path = path_of(name)
        return [path] if path is not None else []

    return _search(function.__name__, node_of, paths_of, tuple(forbids), seen)


@contextmanager
def watched(names: dict, forbids):
    """While the body runs, collect the forbidden functions that are called by code whose globals are `names`.

    What another module calls on its own account is not collected: only calls that lead straight back to `names`.
    """
    found: list[str] = []
    if not forbids:
        yield found
        return
    _load(forbids)
    functions = [entry for entry in forbids if not isinstance(_object(entry), ModuleType)]
    # The names by which C code is known, and the modules in which Python code is looked at; most calls are neither.
    single = {entry.rpartition(".")[2]: entry for entry in functions if entry.startswith("torch.")}
    single |= {_object(entry).__name__: entry for entry in single.values() if _object(entry)}
    modules = (*forbids, *{_home(_object(entry)).rpartition(".")[0] for entry in functions if _home(_object(entry))})

    def python(frame):
        name = f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"
        if name not in found and _entry(name, forbids) and _from(frame.f_back, names):
            found.append(name)

    def built_in(frame, name):
        if name not in found and _from(frame, names):
            found.append(name)

    before = sys.getprofile()
    sys.setprofile(  # as short as it can be, for it is asked at every call
        lambda frame, event, argument: (
            python(frame)
            if event == "call" and str(frame.f_globals.get("__name__")).startswith(modules)
            else built_in(frame, single[argument.__name__])
            if event == "c_call" and getattr(argument, "__name__", "") in single
            else None
        )
    )
    try:
        yield found
    finally:
        sys.setprofile(before)


def _from(frame, names):
    """Whether the caller is the student's code, with nothing of course_lib in between."""
    while frame is not None:
        if frame.f_globals is names:
            return True
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] == "course_lib":
            return False
        frame = frame.f_back
    return False


# The search


def _search(function, node_of, paths_of, forbids, own):
    """Search a function and all that it reaches; `own` are names that the notebook itself defines."""
    found, waiting, done = [], [function], set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        node = node_of(name)
        if node is None:
            continue
        free = _free(node)
        for said in _mentions(node, _local(node, free, paths_of), forbids, HIDING - (free - set(own))):
            if said not in found:
                found.append(said)
        waiting += sorted(free)
    return found


def _local(node, free, paths_of):
    """What the names in a piece of code may stand for, by its own imports and aliases and those of outside."""
    imports, aliases = {}, {}
    for inner in ast.walk(node):
        for name, path in _imported(inner):
            imports.setdefault(name, []).append(path)
    for name, chain in _aliases(node):
        aliases.setdefault(name, []).append(chain)

    def known(root):
        return [*imports.get(root, ()), *(paths_of(root) if root in free else ())]

    return functools.cache(lambda name: _paths(name, known, lambda root: aliases.get(root, ())))


def _paths(name, imported, aliases):
    """What a name may stand for, through any chain of other names."""
    found, waiting, done = {}, [(name, ())], set()
    while waiting:
        root, rest = waiting.pop()
        if len(done) > 300:
            rest = ()  # node = node.left, node = node.right: from here on only whether anything imported is reached
        if (root, rest) in done or len(rest) > 9:
            continue
        done.add((root, rest))
        found.update(dict.fromkeys(".".join([path, *rest]) for path in imported(root)))
        waiting += [(other, (*more, *rest)) for other, *more in aliases(root)]
    # so long a way to a module is nothing but a hiding place
    return ["builtins"] if found and len(done) > 300 else list(found)


def _free(node):
    """The names that a piece of code looks up outside of itself: a parameter called `entropy` is no such name."""
    try:
        tables = [symtable.symtable(ast.unparse(node), "<cell>", "exec")]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    found = set()
    for table in tables:  # it grows
        tables += table.get_children()
        everything = table.get_type() != "function"  # in a class, and outside, `g = g` reads the g of outside
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (everything or s.is_global())}
    return found


def _aliases(node):
    """The names in a piece of code that are given what a plain name, or an attribute, stands for."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.arguments):
            names = [one.arg for one in [*inner.posonlyargs, *inner.args]]
            pairs = list(zip(names[::-1], inner.defaults[::-1], strict=False))
            pairs += [(one.arg, value) for one, value in zip(inner.kwonlyargs, inner.kw_defaults, strict=True) if value]
        else:
            pairs = _given(inner) if isinstance(inner, ast.Assign | ast.AnnAssign | ast.NamedExpr) else []
        for name, value in pairs:
            if _chain(value)[0]:
                yield name, _chain(value)


def _mentions(node, paths_of, forbids, taken=()):
    """What a piece of code names that is forbidden, or hides it; `taken` are names that the notebook itself defines."""
    called = {inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name | ast.Attribute):
            root, *rest = _chain(inner)
            if (root in HIDING and root not in taken and not rest) or (rest and rest[-1] in HIDING_ATTRIBUTES):
                yield rest[-1] if rest else root
            if root == "getattr" and inner not in called:
                yield root
            paths = paths_of(root) if root else []
            for whole in (".".join([path, *rest]) for path in paths):
                if whole.startswith(HIDING_PATHS) or _is_forbidden(whole, forbids):
                    yield whole
            if not paths and rest and (entry := _method(rest[-1], forbids)):
                yield entry
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            yield from (path for _, path in _imported(inner) if _is_forbidden(path, forbids))
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "getattr":
            for value in inner.args[1:2]:
                if not isinstance(value, ast.Constant) or any(str(value.value) in e.split(".") for e in forbids):
                    yield "getattr"


def _is_forbidden(path, forbids):
    return _entry(path, forbids) or _entry(_home(_object(path)), forbids)


def _chain(node):
    """a.b.c as ["a", "b", "c"]; what is not a plain name at its root has an empty root."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return parts[::-1]


def _imported(node):
    """The names that an import binds, with what they stand for."""
    if isinstance(node, ast.Import):
        for one in node.names:
            first = one.name.split(".")[0]
            yield one.asname or first, one.name if one.asname else first
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for one in node.names:
            for name in _public(node.module) if one.name == "*" else [one.name]:
                yield one.asname or name, f"{node.module}.{name}"


def _outside(tree):
    """All code of a cell that can bind a name of the notebook: what is local to a function or a class is left out."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        inside = list(ast.iter_child_nodes(node))
        if isinstance(node, FUNCTIONS) and not any(isinstance(inner, ast.Global) for inner in ast.walk(node)):
            inside = [*node.decorator_list, node.args]
        waiting += [] if isinstance(node, ast.ClassDef | ast.Lambda) else reversed(inside)  # in the order of the text


def _given(node):
    """The names that one piece of code binds, or puts something into: the name, the code that says what it is."""
    targets, value = [], getattr(node, "value", None)
    if isinstance(node, FUNCTIONS | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and value is not None:
        targets = [node.target]
    elif isinstance(node, ast.For | ast.AsyncFor):
        targets, value = [node.target], node.iter
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        targets, value = [node.optional_vars], node.context_expr
    elif isinstance(node, ast.Try | ast.TryStar):
        yield from ((one.name, ast.Module(node.body, [])) for one in node.handlers if one.name)
    elif isinstance(node, ast.Match):
        for inner in (inner for case in node.cases for inner in ast.walk(case.pattern)):
            name = getattr(inner, "rest" if isinstance(inner, ast.MatchMapping) else "name", None)
            yield from [(name, node.subject)] if name else []
    yield from ((name, value) for target in targets for name in _roots(target))


def _filled(node):
    """The objects into which something is put: `kept.append(it)`, `setattr(kept, "it", it)`, `kept[0] = it`."""
    if isinstance(node, ast.Call):
        into = node.args[0] if node.args and _chain(node.func) == ["setattr"] else node.func
        if isinstance(node.func, ast.Attribute) or into is not node.func:
            values = [*node.args, *(one.value for one in node.keywords)]
            yield from ((name, ast.List(values, ast.Load())) for name in _roots(into))
    if isinstance(node, ast.Assign):
        changed = [target for target in node.targets if isinstance(target, ast.Attribute | ast.Subscript)]
        yield from ((name, node.value) for target in changed for name in _roots(target))


def _roots(target):
    """The names that an assignment changes: `a` and `b` of `a[i], b.c = ...`."""
    while isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        target = target.value
    if isinstance(target, ast.Tuple | ast.List):
        return [name for one in target.elts for name in _roots(one)]
    return [target.id] if isinstance(target, ast.Name) else []


def _together(codes):
    """Several pieces of code as one, None for none."""
    body = [ast.Expr(one) if isinstance(one, ast.expr) else one for one in codes]
    return ast.Module(body, []) if body else None


def _entry(name, forbids):
    return next((entry for entry in forbids if name and (name == entry or name.startswith(entry + "."))), None)


def _method(name, forbids):
    """The forbidden function of torch of which this is the method."""
    for entry in forbids:
        if entry.startswith("torch.") and entry.rpartition(".")[2] == name and callable(_object(entry)):
            return entry
    return None


def _home(value):
    """Where something was made: the dotted name under which it was defined."""
    if isinstance(value, ModuleType):
        return value.__name__
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else None


def _load(forbids):
    """Import the modules that are forbidden, so that it can be seen what comes from them. Their names are ours."""
    for entry in forbids:
        parts = entry.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                importlib.import_module(".".join(parts[:cut]))
                break
            except ImportError:
                continue


def _object(path):
    """What a dotted name stands for, or None.

    The name may be a student's choice, and importing a module runs it. So only what is loaded already is looked at,
    and the modules of course_lib.
    """
    if not path:
        return None
    parts = path.split(".")
    if parts[0] == "course_lib" and len(parts) > 1 and re.fullmatch(r"[a-z]\w*", parts[1]) and parts[1] != "grading":
        _load([".".join(parts[:2])])
    cut = next((cut for cut in range(len(parts), 0, -1) if ".".join(parts[:cut]) in sys.modules), 0)
    value = sys.modules.get(".".join(parts[:cut]))
    for part in parts[cut:]:
        try:
            # a module may import more when it is asked for a name
            value = vars(value).get(part) if isinstance(value, ModuleType) else getattr(value, part, None)
        except Exception:
            return None
    return value


def _public(module):
    value = _object(module)
    if not isinstance(value, ModuleType):
        return []
    return getattr(value, "__all__", None) or [name for name in dir(value) if not name.startswith("_")]
