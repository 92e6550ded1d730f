"""The records of the standard library's reference: one for each public module, then one for the index.

The modules are imported, all but the few in `SKIPPED`, with nothing printed and no warning shown. What is
found in them is read and never called. The records are the same in every run of the same Python: they hold no
addresses of objects, no environment variables, no folders of this machine.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib
import importlib.util
import inspect
import io
import os
import pkgutil
import re
import reprlib
import sys
import sysconfig
import types
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Record = dict[str, Any]

SKIPPED = {
    "__hello__": "an example of a frozen module, prints when imported",
    "__phello__": "an example of a frozen package, prints when imported",
    "antigravity": "opens a web browser when imported",
    "distutils": "deprecated, and often replaced by other packages",
    "idlelib": "an application, opens windows",
    "lib2to3": "deprecated, writes caches when imported",
    "posix": "not for direct use: see os",
    "this": "prints a poem when imported",
    "turtledemo": "an application, opens windows",
    "xxlimited": "an example for authors of extension modules",
    "xxlimited_35": "an example for authors of extension modules",
    "xxsubtype": "an example for authors of extension modules",
}
TESTS = {"idle_test", "test", "tests"}
PUBLIC_DUNDERS = {"__future__"}
# Values depend on the machine or the moment.
VOLATILE = {"site", "sys", "sysconfig", "tempfile", "time", "zoneinfo"}
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, surrogates
SIGNATURE = re.compile(
    r"(?:\w+\.)*(?P<name>\w+)(?P<parameters>\((?:[^()\n]|\([^()\n]*\))*\))"
    r"(?: *-+> *(?P<result>\w+)(?=[.\n]|$))?[.:]?\s*"
)
TITLE = re.compile(r"[^\n]+\n([~=-])\1+\n\s*")  # a line with its underline
SENTENCE = re.compile(r".{10,}?[.:!?](?=\s)", re.DOTALL)
SCALARS = (bool, bytes, complex, float, int, str, type(None), type(Ellipsis), re.Pattern)
HIDDEN = {  # special names that say nothing about what a class can do
    "__abstractmethods__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__class_getitem__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__",
    "__firstlineno__", "__getattribute__", "__getformat__", "__getnewargs__", "__getstate__", "__hash__",
    "__init__", "__init_subclass__", "__match_args__", "__module__", "__new__", "__orig_bases__",
    "__parameters__", "__qualname__", "__reduce__", "__reduce_ex__", "__setstate__", "__sizeof__",
    "__slots__", "__static_attributes__", "__subclasshook__", "__weakref__",
}  # fmt: skip

short = reprlib.Repr()
short.maxlevel = 3
short.maxtuple = short.maxlist = short.maxset = short.maxfrozenset = 6
short.maxdict = 4
short.maxstring = short.maxother = 72
short.maxlong = 40


class Member(NamedTuple):
    """A public name of a module and what it stands for."""

    name: str
    value: Any


class Shown(NamedTuple):
    """A default value as text, in place of the value itself."""

    text: str

    def __repr__(self) -> str:
        return self.text


class Page(NamedTuple):
    """A module that gets a page."""

    name: str
    module: types.ModuleType
    members: list[Member]

    @property
    def path(self) -> str:
        """The page's file name, which is also the link to it from any other page."""
        return f"{self.name}.html"


class Reference(NamedTuple):
    """All pages by name, and where each class has its full description: page and anchor by the class's id."""

    pages: dict[str, Page]
    homes: dict[int, tuple[str, str]]


def records() -> Iterator[Record]:
    """A record (`kind` is module) for each module in alphabetical order, then one of `kind` index."""
    with quiet():
        modules, failures = load()
        pages = {name: Page(name, module, public_members(module)) for name, module in modules.items()}
        reference = Reference(pages, homes(pages))
    names = [*pages]
    for before, name, after in zip([None, *names], names, [*names[1:], None], strict=False):
        with quiet():
            record = module_record(pages[name], reference)
        yield record | {"previous": link(before), "next": link(after)}
    with quiet():
        record = index_record(reference, failures)
    yield record


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what modules print or warn about while they are imported or looked at."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


# Finding and importing modules


def load() -> tuple[dict[str, types.ModuleType], dict[str, str]]:
    """Import what is public: the modules by name, sorted, and why others are left out, by name."""
    modules: dict[str, types.ModuleType] = {}
    failures: dict[str, str] = {}
    waiting = [name for name in sys.stdlib_module_names if public(name)]
    while waiting:
        name = waiting.pop()
        try:
            modules[name] = imported(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  an import runs anything, and so raises anything
            failures[name] = reason(error)
        else:
            waiting += submodules(modules[name])
    return dict(sorted(modules.items())), dict(sorted(failures.items()))


def public(name: str) -> bool:
    """Whether the last part of a module's name is neither private nor that of a test package."""
    return name in PUBLIC_DUNDERS or not (name.startswith("_") or name in TESTS) or name in SKIPPED


def imported(name: str) -> types.ModuleType:
    """The module, unless it is one to skip or some other file hides it; ImportError says why."""
    if name in SKIPPED:
        raise ImportError(SKIPPED[name])
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError("not part of this build of Python")
    if spec.has_location and not inside_library(spec.origin):
        raise ImportError("hidden by a file outside of the standard library")
    return importlib.import_module(name)


def submodules(package: types.ModuleType) -> list[str]:
    """The names of a package's public submodules; none for a module."""
    folders = [folder for folder in getattr(package, "__path__", ()) if inside_library(folder)]
    names = [found.name for found in pkgutil.iter_modules(folders) if public(found.name)]
    return [f"{package.__name__}.{name}" for name in names]


@functools.cache
def library_folders() -> list[str]:
    """The folders of the standard library itself."""
    return sorted({os.path.realpath(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")})


def inside_library(path: str | None) -> bool:
    """Whether a file belongs to the standard library and not to an installed package."""
    return library_path(path) is not None


def library_path(path: str | None) -> str | None:
    """The path of a file below the standard library's folder, with slashes; None for any other file."""
    for folder in library_folders() if path else ():
        relative = os.path.relpath(os.path.realpath(str(path)), folder)
        if not relative.startswith((os.pardir, "site-packages", "dist-packages")):
            return relative.replace(os.sep, "/")
    return None


def reason(error: BaseException) -> str:
    """Why an import failed, in one short line."""
    lines = str(error).strip().splitlines()
    return clean(re.sub(r" \([^()]*[/\\][^()]*\)$", "", lines[0])) if lines else type(error).__name__


# Public members


def public_members(module: types.ModuleType) -> list[Member]:
    """What `__all__` names, or else the public names defined in the module; sorted, without modules."""
    promised = getattr(module, "__all__", None)
    if promised is None:
        found = {name: value for name, value in vars(module).items() if defined_in(module, name, value)}
    else:
        found = {name: promised_value(module, name) for name in promised}
    return sorted(
        (Member(name, value) for name, value in found.items() if not inspect.ismodule(value)),
        key=lambda member: (member.name.lower(), member.name),
    )


def promised_value(module: types.ModuleType, name: str) -> Any:
    """What `__all__` promises, which some packages load only now; the module itself for a broken promise."""
    try:
        return getattr(module, name)
    except Exception:  # noqa: BLE001  loading runs anything, and so raises anything
        return module


def defined_in(module: types.ModuleType, name: str, value: Any) -> bool:
    """Whether a name looks like part of a module that does not declare `__all__`."""
    if name.startswith("_"):
        return False
    if isinstance(value, type) or inspect.isroutine(value):
        home = getattr(value, "__module__", None)
        return home in {None, module.__name__, f"_{module.__name__.rpartition('.')[2]}"}
    return not isinstance(value, types.ModuleType) and type(value).__module__ != "__future__"


def homes(pages: Mapping[str, Page]) -> dict[int, tuple[str, str]]:
    """Where each class is described: by preference in the module it says it is from, under its own name."""
    found: dict[int, tuple[tuple[bool, bool], tuple[str, str]]] = {}
    for page in pages.values():
        for name, value in page.members:
            if isinstance(value, type):
                rank = (value.__module__ != page.name, value.__name__ != name)
                if id(value) not in found or rank < found[id(value)][0]:
                    found[id(value)] = (rank, (page.name, name))
    return {key: place for key, (_, place) in found.items()}


# Descriptions


def module_record(page: Page, reference: Reference) -> Record:
    """Everything that a module's page shows, but for its neighbours."""
    classes, functions, constants = sort_out(page.members)
    described = [class_record(member, page, reference) for member in classes]
    summary, rest = split_doc(module_doc(page))
    parent = page.name.rpartition(".")[0]
    return {
        "kind": "module",
        "name": page.name,
        "path": page.path,
        "python": sys.version.split()[0],
        "summary": summary,
        "doc": rest,
        "source": library_path(getattr(page.module, "__file__", None)),
        "package": hasattr(page.module, "__path__"),
        "parent": link(parent) if parent in reference.pages else None,
        "submodules": submodule_links(page, reference),
        "constants": [constant_record(member, page.name) for member in constants],
        "functions": [function_record(member.name, member.value) for member in functions],
        "classes": [record for record in described if not record["exception"]],
        "exceptions": [record for record in described if record["exception"]],
    }


def link(name: str | None) -> dict[str, str] | None:
    """A module's name and the address of its page."""
    return None if name is None else {"name": name, "href": f"{name}.html"}


def submodule_links(page: Page, reference: Reference) -> list[Record]:
    """The modules one level below, and those offered under another name, as os offers posixpath as path."""
    below = [name for name in reference.pages if name.rpartition(".")[0] == page.name]
    found = {name: name for name in below}
    for name in getattr(page.module, "__all__", ()):
        value = vars(page.module).get(name)
        if isinstance(value, types.ModuleType) and value.__name__ in reference.pages:
            found.setdefault(f"{page.name}.{name}", value.__name__)
    return [
        {"name": name, "href": reference.pages[target].path, "summary": summary_of(reference.pages[target])}
        for name, target in sorted(found.items())
    ]


def summary_of(page: Page) -> str:
    """The first sentence or line of a module's description."""
    return split_doc(module_doc(page))[0]


def module_doc(page: Page) -> str:
    """A module's docstring, or that of the C module beneath it, as of _signal for signal."""
    return doc_of(page.module) or doc_of(sys.modules.get(f"_{page.name}"))


def sort_out(members: Sequence[Member]) -> tuple[list[Member], list[Member], list[Member]]:
    """The members that are classes, those that are functions, and the rest."""
    classes = [member for member in members if isinstance(member.value, type)]
    functions = [member for member in members if is_function(member.value)]
    known = {member.name for member in (*classes, *functions)}
    return classes, functions, [member for member in members if member.name not in known]


def is_function(value: Any) -> bool:
    """Whether something is a function, or a function in a wrapper such as a cache."""
    if isinstance(value, type):
        return False
    return inspect.isroutine(value) or (callable(value) and "__wrapped__" in getattr(value, "__dict__", {}))


def constant_record(member: Member, module: str) -> Record:
    """A name with the type of its value, and the value itself where it is the same everywhere."""
    own = doc_of(member.value)
    return {
        "name": member.name,
        "type": type(member.value).__name__,
        "value": None if module in VOLATILE else value_text(member.value),
        "summary": split_doc(own)[0] if own != doc_of(type(member.value)) else "",
    }


def value_text(value: Any) -> str | None:
    """A short representation that is the same in every run; None where there is none."""
    if isinstance(value, enum.Enum) and value.name is not None:
        return f"{type(value).__name__}.{value.name}"
    if not is_plain(value):
        return None
    text = clean(short.repr(value))
    return None if any(place in text for place in places()) else text


def is_plain(value: Any, depth: int = 3) -> bool:
    """Whether a value is made of numbers, texts and containers of these alone."""
    if type(value) in SCALARS:
        return True
    if depth == 0:
        return False
    if type(value) is dict:
        return all(is_plain(part, depth - 1) for pair in value.items() for part in pair)
    return type(value) in {tuple, list, set, frozenset} and all(is_plain(part, depth - 1) for part in value)


@functools.cache
def places() -> list[str]:
    """Folders that differ from machine to machine, and so have no place in a document."""
    return [sys.prefix, sys.base_prefix, os.path.dirname(sys.executable) or sys.prefix]


def function_record(name: str, value: Any, *, bound: bool = False) -> Record:
    """A function or method; `bound` leaves out the first parameter, which the call does not show."""
    promised, doc = split_signature(name.rpartition(".")[2], doc_of(value))
    summary, rest = split_doc(doc)
    return {
        "name": name,
        "prefix": "async " if inspect.iscoroutinefunction(value) else "",
        "signature": signature_of(value, bound=bound) or promised or "(…)",
        "summary": summary,
        "doc": rest,
    }


def signature_of(value: Any, *, bound: bool = False) -> str | None:
    """The parameters and the result; None where Python does not know them."""
    try:
        signature = inspect.signature(value)
        parameters = [shown(parameter) for parameter in signature.parameters.values()]
        return written_signature(str(signature.replace(parameters=parameters[1 if bound else 0 :])))
    except Exception:  # noqa: BLE001  the annotations' own repr may raise anything
        written = getattr(value, "__text_signature__", None)
    return written_signature(written) if written else None


def written_signature(written: str) -> str:
    """A signature as C code states it, on one line and without `self`."""
    return clean(re.sub(r"\$\w+(, /)?(, )?", "", " ".join(written.split())).replace("<unrepresentable>", "…"))


def shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter whose default, where it has one, is shown as in source code."""
    if parameter.default is parameter.empty:
        return parameter
    return parameter.replace(default=Shown(default_text(parameter.default)))


def default_text(value: Any) -> str:
    """A default as in source code: a value, the name of a class or function, or an ellipsis."""
    if isinstance(value, type) or inspect.isroutine(value):
        return str(value.__name__)
    return value_text(value) or "…"


def class_record(member: Member, page: Page, reference: Reference) -> Record:
    """A class with its bases and, on the page that is its home, its attributes and methods."""
    cls = member.value
    home = reference.homes[id(cls)]
    promised, doc = split_signature(member.name, own_doc(cls))
    summary, rest = split_doc(doc)
    at_home = home == (page.name, member.name)
    return {
        "name": member.name,
        "exception": issubclass(cls, BaseException),
        "signature": class_signature(cls, promised),
        "summary": summary,
        "doc": rest if at_home else "",
        "bases": [base_link(base, page.name, reference) for base in cls.__bases__ if base is not object],
        "home": None if at_home else place_link(home, page.name),
        **(
            class_members(member.name, namespace(cls, reference))
            if at_home
            else {"attributes": [], "methods": [], "special": []}
        ),
    }


def own_doc(cls: type) -> str:
    """A class's own docstring; without those that data classes and named tuples come by."""
    doc = cls.__dict__.get("__doc__")
    return cleaned(doc) if isinstance(doc, str) else ""


def class_signature(cls: type, promised: str | None) -> str:
    """How a class is called; nothing for exceptions and enumerations, which all take the same."""
    if issubclass(cls, enum.Enum):
        return ""
    signature = signature_of(cls) or promised or "(…)"
    return "" if issubclass(cls, BaseException) and signature in {"(…)", "(*args, **kwargs)"} else signature


def base_link(base: type, module: str, reference: Reference) -> Record:
    """A base class's name, and the address of its description where there is one."""
    home = reference.homes.get(id(base))
    if home is None:
        return {"name": f"{base.__module__}.{base.__qualname__}", "href": None}
    return place_link(home, module)


def place_link(place: tuple[str, str], module: str) -> Record:
    """The link to a class from the page of `module`."""
    home, name = place
    shown = name if home in {module, "builtins"} else f"{home}.{name}"
    return {"name": shown, "href": f"#{name}" if home == module else f"{home}.html#{name}"}


def namespace(cls: type, reference: Reference) -> dict[str, Any]:
    """What a class defines, and what it has from bases that no page describes; an enumeration's plain values."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is cls or id(base) not in reference.homes:
            found |= vars(base)
    if issubclass(cls, enum.Enum):
        found |= {name: member.value for name, member in cls.__members__.items()}
    return found


def class_members(name: str, found: Mapping[str, Any]) -> Record:
    """The public attributes and methods in a class's namespace, and the names of its special methods."""
    attributes, methods = [], []
    for key, raw in sorted(found.items(), key=lambda item: (item[0].lower(), item[0])):
        if not isinstance(key, str) or key.startswith("_"):
            continue
        if (method := method_record(f"{name}.{key}", raw)) is not None:
            methods.append(method)
        else:
            attributes.append(attribute_record(f"{name}.{key}", raw))
    special = [key for key, raw in found.items() if is_special(key, raw)]
    return {"attributes": attributes, "methods": methods, "special": sorted(special)}


def is_special(name: str, raw: Any) -> bool:
    """Whether a name stands for an operator or protocol that a class takes part in."""
    return name.startswith("__") and name.endswith("__") and name not in HIDDEN and inspect.isroutine(raw)


def method_record(name: str, raw: Any) -> Record | None:
    """A method as found in a class's dictionary, unbound; None for anything else."""
    if isinstance(raw, staticmethod):
        return function_record(name, raw.__func__) | {"prefix": "staticmethod "}
    if isinstance(raw, classmethod):
        return function_record(name, raw.__func__, bound=True) | {"prefix": "classmethod "}
    if isinstance(raw, types.ClassMethodDescriptorType):
        return function_record(name, raw, bound=True) | {"prefix": "classmethod "}
    if inspect.isroutine(raw):
        return function_record(name, raw, bound=not isinstance(raw, types.BuiltinFunctionType))
    return None


def attribute_record(name: str, raw: Any) -> Record:
    """A property, slot or plain value as found in a class's dictionary; no property is evaluated."""
    computed = isinstance(raw, property | functools.cached_property) or inspect.isdatadescriptor(raw)
    doc = doc_of(raw)
    return {
        "name": name,
        "type": "property" if isinstance(raw, property | functools.cached_property) else type_word(raw),
        "value": None if computed or "environ" in name else value_text(raw),
        "summary": split_doc(doc)[0] if computed or doc != doc_of(type(raw)) else "",
    }


def type_word(raw: Any) -> str:
    """A word for the kind of an attribute."""
    if isinstance(raw, type):
        return "class"
    return "attribute" if inspect.isdatadescriptor(raw) else type(raw).__name__


# Docstrings


def doc_of(value: Any) -> str:
    """The docstring of anything, its margins trimmed; empty where there is none."""
    try:
        doc = None if value is None else value.__doc__
    except Exception:  # noqa: BLE001  some objects compute it
        return ""
    return cleaned(doc) if isinstance(doc, str) else ""


def cleaned(doc: str) -> str:
    """A docstring without margins, addresses and characters that no document may hold."""
    return clean(inspect.cleandoc(doc).rstrip())


def clean(text: str) -> str:
    """A text without addresses of objects, and with what no document may hold spelled out."""
    return UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), ADDRESS.sub("", text))


def split_doc(doc: str) -> tuple[str, str]:
    """The first paragraph of a docstring on one line, or its first sentence if it is long; and the rest."""
    doc = TITLE.sub("", doc, count=1)
    paragraph = doc.partition("\n\n")[0]
    if len(paragraph) > 200 and (sentence := SENTENCE.match(paragraph)):
        paragraph = sentence[0]
    return " ".join(paragraph.split()), doc[len(paragraph) :].strip("\n").lstrip(" ")


def split_signature(name: str, doc: str) -> tuple[str | None, str]:
    """The signature that many docstrings of C functions begin with, and the docstring without it."""
    found = SIGNATURE.match(doc)
    if found is None or found["name"] != name:
        return None, doc
    result = f" -> {found['result']}" if found["result"] else ""
    rest = re.sub(r"^[-=]+>\s*", "Returns ", doc[found.end() :])
    return found["parameters"] + result, rest.lstrip("-: ")


# The index


def index_record(reference: Reference, failures: Mapping[str, str]) -> Record:
    """The list of all modules with the names in each, for the index and its search box."""
    return {
        "kind": "index",
        "name": "index",
        "path": "index.html",
        "python": sys.version.split()[0],
        "modules": [index_entry(page, reference) for page in reference.pages.values() if "." not in page.name],
        "names": {page.name: home_names(page, reference) for page in reference.pages.values()},
        "skipped": [{"name": name, "reason": why} for name, why in failures.items()],
    }


def index_entry(page: Page, reference: Reference) -> Record:
    """A module's entry in the index, with one for each module anywhere below it."""
    below = [other for name, other in reference.pages.items() if name.startswith(f"{page.name}.")]
    return {
        "name": page.name,
        "href": page.path,
        "letter": page.name.lstrip("_")[0],
        "summary": summary_of(page),
        "submodules": [{"name": other.name, "href": other.path, "summary": summary_of(other)} for other in below],
    }


def home_names(page: Page, reference: Reference) -> list[str]:
    """The names to be found through the search box: all but the classes that have their home elsewhere."""
    return [
        name
        for name, value in page.members
        if not isinstance(value, type) or reference.homes[id(value)] == (page.name, name)
    ]
