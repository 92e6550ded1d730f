"""Records from a callable of the user's: a function in a file or module that gives mappings, one by one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import TYPE_CHECKING, Any

from chora_mp.errors import SourceError
from chora_mp.sources.shapes import kind, record_of, suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, ModuleType

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair


def read(source: Source) -> Iterator[Pair]:
    """None and record of each thing that the callable, called without arguments, gives."""
    where, _ = source.python or ("", "")
    with _importable(os.path.dirname(where) if where.endswith(".py") else None):
        module = _module(source)
        iterator = _iterator(source, module)
        count = 0
        while True:
            try:
                value = next(iterator)
            except StopIteration:
                return
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # user code may raise anything; `sys.exit` is no Exception
                raise _raised(source, module, error, f" after record {count}" * (count > 0)) from error
            yield None, record_of(value)
            count += 1


@contextmanager
def _importable(folder: str | None) -> Iterator[None]:
    """Lets modules in `folder` be imported by name, also while the callable runs."""
    if folder is None:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


class _Loader(SourceFileLoader):
    """Runs the file as it is.

    Cached bytecode counts as fresh by size and whole seconds, and leaves a folder beside the user's file.
    """

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002  (importlib's signature)
        """The file's code, compiled."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _module(source: Source) -> ModuleType:
    """The user's module, run; raises `SourceError` where it isn't there or doesn't run."""
    if source.python is None:
        raise SourceError(f"{source.name}: names no callable; write it as file.py:function")
    where, _ = source.python
    if where.endswith(".py"):
        os.stat(where)  # raises OSError
    try:
        return _loaded(where) if where.endswith(".py") else import_module(where)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
            raise SourceError(f"{source.name}: no module {error.name!r}; check its name and folder") from error
        raise _raised(source, None, error, " while it was imported") from error


def _loaded(path: str) -> ModuleType:
    """The module in a file, under a name that no other has and that is the same in every process."""
    name = f"chora_mp_source_{blake2b(os.fsencode(path), digest_size=8).hexdigest()}"
    loader = _Loader(name, path)
    spec = spec_from_loader(name, loader)
    if spec is None:
        raise ImportError(f"no way to load {path}")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _iterator(source: Source, module: ModuleType) -> Iterator[Any]:
    """What iterates over what the callable returns."""
    function = _function(source, module)
    try:
        result = function()
        iterator = iter(result) if isinstance(result, Iterable) else None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _raised(source, module, error) from error
    if iterator is None or isinstance(result, Mapping | str | bytes):
        raise SourceError(f"{_label(source)}: returns {kind(result)}; return or yield mappings, one after the other")
    return iterator


def _function(source: Source, module: ModuleType) -> Callable[[], Any]:
    """The callable; raises `SourceError` where the module has none of that name."""
    _, name = source.python or ("", "")
    function = getattr(module, name, None)
    if callable(function):
        found: Callable[[], Any] = function
        return found
    if function is not None:
        raise SourceError(f"{_label(source)}: is not callable (found {kind(function)}); name a function")
    names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    raise SourceError(f"{_label(source)}: is not there; {suggestion(name, names)}")


def _raised(source: Source, module: ModuleType | None, error: BaseException, when: str = "") -> SourceError:
    """The error that tells where in the user's code something was raised."""
    where, function = source.python or ("", "")
    own = (module and module.__file__) or (where if where.endswith(".py") else None)
    place = _place(source, own, error)
    message = f"{type(error).__name__}: {_text(error)}".rstrip(": ")
    return SourceError(f"{place}: {function}: raised {message}{when}; correct it there")


def _place(source: Source, own: str | None, error: BaseException) -> str:
    """`rows.py:12`: the innermost line of the user's code, which is what lies in the module's folder."""
    name = _label(source).rpartition(": ")[0]
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    folder = os.path.dirname(own) if own else os.getcwd()
    inside = [(file, line) for file, line in frames if _is_users(file, folder)]
    if not inside:
        return name
    file, line = inside[-1]
    if own and os.path.samefile(file, own):
        return f"{name}:{line}"
    return f"{os.path.join(os.path.dirname(name), os.path.relpath(file, folder))}:{line}"


def _is_users(file: str, folder: str) -> bool:
    """Whether a file lies in the user's folder, and not in a virtual environment in it."""
    inside = file.startswith(os.path.join(folder, "")) and os.path.isfile(file)
    return inside and "site-packages" not in os.path.relpath(file, folder)


def _label(source: Source) -> str:
    """`rows.py: records`, from the source's name, `rows.py:records` or `rows.py`."""
    _, function = source.python or ("", "")
    return f"{source.name.removesuffix(f':{function}')}: {function}"


def _text(error: BaseException) -> str:
    """What the error says; it is the user's, and may fail at that too."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001
        return f"(its text can't be had: {type(broken).__name__})"
