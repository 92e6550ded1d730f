"""The bundle: what is in the snapshot, what is left out of it, and when its digest changes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from chora_mp import bundle as bundle_module
from chora_mp.bundle import LARGEST_TEMPLATE, Bundle, Plugin, shown, take_bundle
from chora_mp.errors import JobError
from chora_mp.job import JinjaOptions, Job, Output, Source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job with a template, a plug-in, a dependency and a constant."""
    write(tmp_path / "templates" / "page.md.j2", "page")
    write(tmp_path / "plugin.py", "FILTERS = {}")
    write(tmp_path / "logo.svg", "<svg/>")
    return Job(
        name="job",
        folder=tmp_path,
        template="page.md.j2",
        templates=(tmp_path / "templates",),
        output=Output(tmp_path / "out", "{{ name }}.md"),
        key="{{ name }}",
        context={"edition": 2026, "site": {"name": "x"}},
        plugins=(str(tmp_path / "plugin.py"), "json"),
        depends=(tmp_path / "logo.svg",),
        file="job.yaml",
        lines={"plugins": 7, "output.path": 3},
    )


def write(path: Path, content: str | bytes) -> None:
    """Write a file, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(job: Job) -> list[str]:
    """The templates in the snapshot."""
    return sorted(take_bundle(job).templates)


def refused(job: Job) -> tuple[str, ...]:
    """The problems that the bundle cannot be taken for."""
    with pytest.raises(JobError) as caught:
        take_bundle(job)
    return caught.value.problems


# ---- contents --------------------------------------------------------------------------------------------


def test_contents(job, tmp_path, monkeypatch):
    """The bundle holds what the job says, and the files' bytes as they were when it was taken."""
    monkeypatch.chdir(tmp_path)
    bundle = take_bundle(job)
    write(tmp_path / "templates" / "page.md.j2", "changed")
    assert {"page.md.j2": ("templates/page.md.j2", b"page")} == bundle.templates
    assert (Plugin("plugin", str(tmp_path / "plugin.py"), b"FILTERS = {}"), Plugin("json")) == bundle.plugins
    assert (job.template, job.key, job.output.path, job.context) == (
        bundle.template,
        bundle.key,
        bundle.path,
        bundle.context,
    )
    assert {"job.yaml:3: output.path", "job.yaml:7: plugins", "job.yaml: key"} <= set(bundle.labels.values())


def test_it_travels(job):
    """A worker gets a copy that is equal."""
    bundle = take_bundle(job)
    assert bundle == pickle.loads(pickle.dumps(bundle))
    assert isinstance(bundle, Bundle)


def test_without_output(job):
    """A job that keeps its documents as text has no output path."""
    assert None is take_bundle(job.replace(output=None)).path


def test_an_earlier_folder_hides_a_later(job, tmp_path):
    """A template that several folders have comes from the first; the others add theirs."""
    write(tmp_path / "own" / "page.md.j2", "own")
    write(tmp_path / "own" / "a" / "part", "own part")
    write(tmp_path / "theirs" / "a" / "part", "their part")
    write(tmp_path / "theirs" / "a" / "other", "other")
    folders = tuple(tmp_path / name for name in ("own", "templates", "theirs"))
    found = take_bundle(job.replace(templates=folders)).templates
    assert {"page.md.j2": b"own", "a/part": b"own part", "a/other": b"other"} == {
        name: data for name, (_, data) in found.items()
    }


def test_names_are_relative_to_their_folder(job, tmp_path):
    """Templates in folders are called by their path below the template folder, with slashes."""
    write(tmp_path / "templates" / "a" / "b" / "é.j2", "x")
    assert ["a/b/é.j2", "page.md.j2"] == names(job)


def test_folders_of_tools_are_left_out(job, tmp_path):
    """What version control and caches keep there is no template; hidden files and folders are, as in Jinja2."""
    for name in (".git/config", "a/.parts/x", "__pycache__/x.pyc", "a/__pycache__/y", ".hidden.j2", "a/x"):
        write(tmp_path / "templates" / name, "x")
    assert [".hidden.j2", "a/.parts/x", "a/x", "page.md.j2"] == names(job)


def test_too_much_for_templates(job, tmp_path, monkeypatch):
    """A folder of data is not read into memory as if it were templates: the job is told to name a folder of its own."""
    monkeypatch.setattr(bundle_module, "MOST_TEMPLATES", 1000)
    write(tmp_path / "templates" / "data.bin", "x" * 2000)
    with pytest.raises(JobError, match="templates: over 0 MiB of files; name a folder of templates"):
        take_bundle(job)


def test_a_template_folder_that_is_hidden(job, tmp_path):
    """A folder that the job names is taken, whatever it is called."""
    write(tmp_path / ".templates" / "page.md.j2", "x")
    assert ["page.md.j2"] == names(job.replace(templates=(tmp_path / ".templates",)))


@pytest.mark.parametrize("linked", [False, True])
def test_the_output_is_left_out(job, tmp_path, linked):
    """Documents of the last run are no templates of the next, also where the output folder is reached by a symlink."""
    write(tmp_path / "templates" / "out" / "old.md", "document")
    folder = tmp_path / "templates" / "out"
    if linked:
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    assert ["page.md.j2"] == names(job.replace(output=Output(folder, "x")))


def test_templates_inside_the_output(job, tmp_path):
    """An output folder above the templates leaves them what they are."""
    assert ["page.md.j2"] == names(job.replace(output=Output(tmp_path, "x")))


def test_symlink_loops(job, tmp_path):
    """A symlink back to a folder above is not followed round and round."""
    write(tmp_path / "templates" / "a" / "part", "x")
    (tmp_path / "templates" / "a" / "up").symlink_to("..")
    (tmp_path / "templates" / "self").symlink_to(".")
    (tmp_path / "templates" / "endless").symlink_to("endless")
    assert ["a/part", "page.md.j2"] == names(job)


def test_symlinks_to_elsewhere(job, tmp_path):
    """Templates that are symlinks, or lie in a folder that is one, are found where Jinja2 finds them."""
    write(tmp_path / "shared" / "part", "shared")
    (tmp_path / "templates" / "linked").symlink_to("../shared")
    (tmp_path / "templates" / "file").symlink_to("../shared/part")
    assert ["file", "linked/part", "page.md.j2"] == names(job)


@pytest.mark.parametrize("link", ["a-link", "z-link"])
def test_symlinks_to_a_folder_beside(job, tmp_path, link):
    """A folder has two names where a symlink gives it a second: its templates are found by both."""
    write(tmp_path / "templates" / "base" / "part", "x")
    (tmp_path / "templates" / link).symlink_to("base")
    assert sorted(["base/part", f"{link}/part", "page.md.j2"]) == names(job)


def test_dangling_symlinks(job, tmp_path):
    """A symlink to nothing is no template, and nobody's trouble."""
    (tmp_path / "templates" / "dangling").symlink_to("nowhere")
    assert ["page.md.j2"] == names(job)


def test_what_is_no_file(job, tmp_path):
    """A FIFO in the folder is passed over without waiting for it."""
    os.mkfifo(tmp_path / "templates" / "fifo")
    assert ["page.md.j2"] == names(job)


def test_what_is_too_big(job, tmp_path):
    """Data that lies among the templates is left out; the largest template still is one."""
    for name, size in (("largest", LARGEST_TEMPLATE), ("data.bin", LARGEST_TEMPLATE + 1)):
        with (tmp_path / "templates" / name).open("wb") as file:
            file.truncate(size)
    assert ["largest", "page.md.j2"] == names(job)


def test_too_big_does_not_hide(job, tmp_path):
    """What is left out hides nothing in a later folder."""
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "page.md.j2").open("wb") as file:
        file.truncate(LARGEST_TEMPLATE + 1)
    found = take_bundle(job.replace(templates=(tmp_path / "data", *job.templates))).templates
    assert b"page" == found["page.md.j2"][1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"plugins": ("{folder}/absent.py",)}, "job.yaml:7: plugins: cannot read absent.py: No such file or directory"),
        ({"depends": ("{folder}/absent.svg",)}, "job.yaml: depends: cannot read absent.svg: No such file or directory"),
    ],
)
def test_what_cannot_be_read(job, tmp_path, monkeypatch, change, problem):
    """A plug-in or dependency that is not there is a problem of the job, with its place in the job file."""
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    [(key, [path])] = [(key, [path.format(folder=tmp_path) for path in paths]) for key, paths in change.items()]
    assert (problem,) == refused(job.replace(**{key: (path if key == "plugins" else Path(path),)}))


def test_a_constant_that_cannot_travel(job):
    """A constant that no other process could have is a problem of `context`."""
    [problem] = refused(job.replace(context={"call": lambda: 1}))
    assert problem.startswith("job.yaml: context: a constant cannot be sent to the workers (")


def test_shown(tmp_path, monkeypatch):
    """Paths below the folder that one stands in are shown from there, others whole."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    found = [shown(tmp_path / "below" / "a" / "b"), shown(tmp_path / "beside")]
    assert [os.path.join("a", "b"), str(tmp_path / "beside")] == found


# ---- digest ----------------------------------------------------------------------------------------------

CHANGES = {
    "template": {"template": "other.md.j2"},
    "key": {"key": "{{ id }}"},
    "no key": {"key": None},
    "constant": {"context": {"edition": 2027, "site": {"name": "x"}}},
    "nested constant": {"context": {"edition": 2026, "site": {"name": "y"}}},
    "constant's type": {"context": {"edition": "2026", "site": {"name": "x"}}},
    "one more constant": {"context": {"edition": 2026, "site": {"name": "x"}, "more": None}},
    "undefined": {"jinja": JinjaOptions(undefined="default")},
    "autoescape": {"jinja": JinjaOptions(autoescape=False)},
    "sandbox": {"jinja": JinjaOptions(sandbox=True)},
    "extensions": {"jinja": JinjaOptions(extensions=("jinja2.ext.do",))},
    "trim_blocks": {"jinja": JinjaOptions(extra={"trim_blocks": True})},
    "plugins": {"plugins": ("json",)},
    "plugins in another order": {"plugins": None},
    "depends": {"depends": ()},
    "no output": {"output": None},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_digest_changes_with_the_job(job, name):
    """Each option that decides the output changes the digest."""
    change = {"plugins": job.plugins[::-1]} if name == "plugins in another order" else CHANGES[name]
    assert take_bundle(job).digest != take_bundle(job.replace(**change)).digest


def test_a_digest_changes_with_the_output_path(job, tmp_path):
    """The expression of the path counts, the folder that it is in does not."""
    outputs = (job.output, Output(tmp_path / "out", "x"), Output(tmp_path / "elsewhere", "x"))
    digests = [take_bundle(job.replace(output=output)).digest for output in outputs]
    assert digests[0] != digests[1]
    assert digests[1] == digests[2]


@pytest.mark.parametrize("name", ["templates/page.md.j2", "templates/new", "templates/a/new", "plugin.py", "logo.svg"])
def test_a_digest_changes_with_each_file(job, tmp_path, name):
    """Templates, plug-ins and dependencies count by what is in them, and new templates by being there."""
    before = take_bundle(job).digest
    write(tmp_path / name, "changed")
    assert before != take_bundle(job).digest


def test_a_digest_changes_with_a_template_removed(job, tmp_path):
    """A template that goes changes the digest as one that comes does, and coming back restores it."""
    write(tmp_path / "templates" / "more", "x")
    before = take_bundle(job).digest
    os.unlink(tmp_path / "templates" / "more")
    between = take_bundle(job).digest
    write(tmp_path / "templates" / "more", "x")
    assert (before, True) == (take_bundle(job).digest, before != between)


def test_a_digest_stays(job, tmp_path):
    """What doesn't decide the output doesn't count: time stamps, name, workers, lines, files left out."""
    before = take_bundle(job).digest
    os.utime(tmp_path / "templates" / "page.md.j2", ns=(1, 1))
    write(tmp_path / "templates" / ".git" / "x", "x")
    write(tmp_path / "unrelated", "x")
    other = replace(job, name="other", workers=3, lines={}, file=None, source=Source("x", "jsonl", tmp_path / "x"))
    assert [before] * 2 == [take_bundle(job).digest, take_bundle(other).digest]


def test_a_digest_is_128_bits_in_hexadecimal(job):
    """The digest has the form that the ledger keeps."""
    digest = take_bundle(job).digest
    assert (16, digest) == (len(bytes.fromhex(digest)), digest.lower())


def test_a_digest_does_not_depend_on_sharing(job):
    """Equal constants give an equal digest, whether their parts are one object or several."""
    one, other = str(b"a name", "ascii"), str(b"a name", "ascii")
    shared, apart = ({"first": one, "second": one}, {"first": one, "second": other})
    digests = {take_bundle(job.replace(context=context)).digest for context in (shared, apart)}
    assert 1 == len(digests)


def test_a_digest_does_not_depend_on_where_one_stands(job, tmp_path, monkeypatch):
    """The same job has the same digest, from whichever folder it is run."""
    digests = set()
    for folder in (tmp_path, tmp_path / "templates", tmp_path.parent):
        monkeypatch.chdir(folder)
        digests.add(take_bundle(job).digest)
    assert 1 == len(digests)


ELSEWHERE = """
    import sys
    from pathlib import Path
    from chora_mp.bundle import take_bundle
    from chora_mp.job import Job, Output
    folder = Path(sys.argv[1])
    job = Job(name="job", folder=folder, template="page.md.j2", templates=(folder / "templates",),
              output=Output(folder / "out", "x"), context=eval(sys.argv[2]))
    print(take_bundle(job).digest)
"""


@pytest.mark.parametrize("context", ["{'a': 1, 'b': 'two'}", "{'tags': {'a', 'b', 'c', 'd'}}"], ids=["plain", "set"])
def test_a_digest_is_the_same_in_every_process(job, tmp_path, context):
    """The next run finds the digest of this one, whatever the hashes of strings are in its process."""

    def digest(seed: str) -> Any:
        command = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(tmp_path), context]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True).stdout

    assert 1 == len({digest(seed) for seed in ("1", "2", "3")})
