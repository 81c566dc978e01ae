"""Job files: what a valid one means, and what a wrong one is told."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

import lifl
from lifl.api.job import FLJob, Model, Spec, Trainer
from lifl.api.load import load_job
from lifl.errors import InvalidJob

HEAD = "apiVersion: fl.lifl.dev/v1alpha1\nkind: FLJob\nmetadata:\n  name: digits\n"
SMALL = HEAD + "spec:\n  model:\n    initial: digits:initial_model\n"

FULL = """\
apiVersion: fl.lifl.dev/v1alpha1
kind: FLJob
metadata:
  name: digits
  namespace: research
  labels: {team: a}
  annotations: {note: "x"}
spec:
  rounds: 30
  clients: {min: 8, fraction: 0.5, minPerRound: 2, minUpdates: 3}
  seed: 7
  deadlineS: 2.5
  nodes: 2
  model: {file: start.safetensors}
  trainer:
    entrypoint: pkg.digits:train
    clients: 16
    args: {epochs: 3, rates: [0.1, null], on: true}
  evaluator: {entrypoint: "digits:evaluate"}
  aggregation:
    algorithm: fedavgm
    serverLearningRate: 0.5
    mode: lazy
    fanIn: 8
    kernels: reference
    proxy: unix
  memory: {inputSlots: 4, arenaBytes: 2Gi}
  placement: {policy: least-connections}
status: {phase: Running, anything: [1]}
"""


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(folder: Path, text: str, name: str = "job.yaml") -> str:
    with pytest.raises(InvalidJob) as caught:
        load_job(write(folder, text, name))
    return str(caught.value)


# ---------------------------------------------------------------- valid


def test_defaults(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL))
    spec = job.spec
    assert (job.metadata.name, job.metadata.namespace) == ("digits", "default")
    assert (spec.rounds, spec.seed, spec.nodes, spec.deadline_s) == (10, 0, 1, None)
    assert (spec.clients.min, spec.clients.fraction) == (1, 1.0)
    assert (spec.trainer, spec.evaluator, job.status) == (None, None, None)
    assert (spec.aggregation.fan_in, spec.aggregation.momentum) == (4, 0.0)
    assert (spec.memory.input_slots, spec.memory.arena_bytes) == (8, None)
    assert spec.placement.policy == "bestfit"


def test_every_field(tmp_path: Path) -> None:
    spec = load_job(write(tmp_path, FULL)).spec
    assert spec.trainer == Trainer(
        entrypoint="pkg.digits:train",
        clients=16,
        args={"epochs": 3, "rates": [0.1, None], "on": True},
    )
    assert spec.model.file == "start.safetensors"
    assert (spec.deadline_s, spec.memory.arena_bytes) == (2.5, 2 << 30)
    assert (spec.aggregation.momentum, spec.aggregation.fan_in) == (0.9, 8)
    assert (spec.clients.min_per_round, spec.clients.min_updates) == (2, 3)


def test_yaml_json_and_the_dump_of_a_job_are_the_same_job(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, FULL))
    dumped = job.model_dump_json(by_alias=True)
    assert load_job(write(tmp_path, dumped, "job.json")) == job
    assert FLJob.model_validate_json(dumped) == job


def test_json_with_tabs_and_escapes(tmp_path: Path) -> None:
    text = '{\n\t"apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob",\n' + (
        '\t"metadata": {"name": "a", "labels": {"k": "\\ud83d\\ude00\\/"}},\n'
        '\t"spec": {"model": {"initial": "m:f"}}\n}\n'
    )
    assert load_job(write(tmp_path, text, "job.json")).metadata.labels == {"k": "😀/"}


def test_what_an_api_server_adds_is_ignored(tmp_path: Path) -> None:
    text = SMALL.replace(
        "  name: digits\n",
        "  name: digits\n  uid: 1-2\n  generation: 3\n  creationTimestamp: 2026-01-01T00:00:00Z\n"
        "  resourceVersion: '9'\n  managedFields: [{manager: kubectl}]\n",
    )
    text = text.replace("2026-01-01T00:00:00Z", "'2026-01-01T00:00:00Z'")
    assert load_job(write(tmp_path, text)).metadata.name == "digits"


def test_a_round_waits_for_all_of_the_trainers_clients_by_default(tmp_path: Path) -> None:
    trainer = "  trainer: {entrypoint: 'm:f', clients: 16}\n"
    assert load_job(write(tmp_path, SMALL + trainer)).spec.clients.min == 16
    fewer = SMALL + trainer + "  clients: {min: 4}\n"
    assert load_job(write(tmp_path, fewer)).spec.clients.min == 4


def test_jobs_are_values() -> None:
    spec = Spec(model=Model(initial="m:f"))
    assert spec == Spec(model=Model(initial="m:f"))
    with pytest.raises(ValidationError):
        spec.rounds = 3  # type: ignore[misc]


def test_every_field_is_described() -> None:
    todo: list[type[BaseModel]] = [FLJob]
    seen = set()
    while todo:
        model = todo.pop()
        seen.add(model.__name__)
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            todo += [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    assert seen >= {"Change", "Memory", "Stop", "Trainer"}


# ---------------------------------------------------------------- wrong fields


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("  rounds: 0", "line 8: spec.rounds is 0: it must be at least 1"),
        ("  rounds: ten", "line 8: spec.rounds is 'ten': it must be a whole number, at least 1"),
        ("  rounds: '3'", "spec.rounds is the text '3': it must be a whole number"),
        ("  rounds: 2.5", "spec.rounds is 2.5: it must be a whole number"),
        ("  rounds: true", "spec.rounds is true: it must be a whole number"),
        ("  rounds:", "spec.rounds is empty: it must be a whole number"),
        ("  deadlineS: .inf", "spec.deadlineS is inf: it must be a finite number"),
        ("  deadlineS: 0", "spec.deadlineS is 0: it must be above 0"),
        ("  clients: {fraction: 1.5}", "spec.clients.fraction is 1.5: it must be"),
        ("  clients: 4", "spec.clients is the single value 4: it must be a mapping of fields"),
        ("  seed: -1", "spec.seed is -1: it must be at least 0"),
        (
            "  aggregation: {mode: egaer}",
            "spec.aggregation.mode is 'egaer': it must be one of eager, lazy; "
            "did you mean 'eager'?",
        ),
        (
            "  placement:\n    policy: best-fit",
            "line 9: spec.placement.policy is 'best-fit': it must be one of bestfit, firstfit, "
            "worstfit, least-connections, random; did you mean 'bestfit'?",
        ),
        (
            "  agregation: {}",
            "line 8: spec.agregation: there is no such field; did you mean 'aggregation'? "
            "Known here: rounds, clients, seed, deadlineS,",
        ),
        ("  deadline_s: 3", "spec.deadline_s: there is no such field; did you mean 'deadlineS'?"),
        ("  zzz: 3", "spec.zzz: there is no such field; Known here: rounds"),
        (
            "  aggregation: {fanIn: 0}",
            'spec.aggregation.fanIn is 0: it must be at least 1 and at most 1024, or "auto"',
        ),
        ("  aggregation: {fanIn: }", 'fanIn is empty: it must be a whole number, or "auto"'),
        ("  aggregation: {fanIn: atuo}", "fanIn is 'atuo': it must be a whole number, or \"auto\""),
        ("  aggregation: {fan_in: 3}", "spec.aggregation.fan_in: there is no such field"),
        ("  trainer: {clients: 2}", "spec.trainer.entrypoint is missing: Entry point"),
        (
            "  trainer: {entrypoint: 'digits.train'}",
            "spec.trainer.entrypoint is 'digits.train': it must be \"module:function\"",
        ),
        ("  evaluator: {entrypoint: 'a b:c'}", 'must be "module:function"'),
        ("  memory: {arenaBytes: 2GB}", "spec.memory.arenaBytes is '2GB': it has the unit 'GB'"),
        (
            "  aggregation: {serverMomentum: 0.9}",
            "spec.aggregation: serverMomentum needs algorithm: fedavgm",
        ),
        (
            "  trainer: {entrypoint: 'm:f', clients: 4}\n  clients: {min: 5}",
            "spec: clients.min is 5, but trainer.clients starts only 4",
        ),
        ("  clients: {min: 2, minPerRound: 3}", "spec: clients.minPerRound is 3, above"),
        (
            "  clients:\n    min: 9\n    max: 4",
            "line 10: spec: clients.max is 4, below clients.min, 9: no round would begin",
        ),
        (
            "  trainer:\n    entrypoint: 'm:f'\n    clients: 2\n    workers: 3",
            "line 11: spec.trainer: workers is 3, above clients, 2",
        ),
        (
            "  clients:\n    min: 3\n  trainer: {entrypoint: 'm:f', clients: 2}",
            "line 9: spec: clients.min is 3, but trainer.clients starts only 2",
        ),
        (
            "  clients: {min: 10, fraction: 0.5, minUpdates: 6}",
            "clients.minUpdates is 6, but a round of 10 clients draws only 5",
        ),
        (
            "  trainer: {entrypoint: 'm:f', clients: 1, args: {rate: .nan}}",
            "line 8: spec.trainer.args.rate is nan: it must be a finite number",
        ),
        (
            "  trainer: {entrypoint: 'm:f', clients: 1, args: {a: {b: [1, .inf]}}}",
            "line 8: spec.trainer.args.a.b.1 is inf: it must be a finite number",
        ),
        ("  nodes: 2024-01-01", "line 8: spec.nodes is a"),
        ("  3: x", "spec.3 has a name that is not text"),
        ("  rounds: 1\n  rounds: 2", "line 9, column 3: 'rounds' is there twice: keep one of them"),
    ],
)
def test_a_wrong_field(tmp_path: Path, line: str, sentence: str) -> None:
    said = refused(tmp_path, SMALL + line + "\n")
    assert said.startswith(str(tmp_path / "job.yaml") + ", line ")
    assert sentence in said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("v1alpha1", "v1", "apiVersion is 'fl.lifl.dev/v1': it must be fl.lifl.dev/v1alpha1"),
        ("kind: FLJob", "kind: Job", "line 2: kind is 'Job': it must be FLJob"),
        ("kind: FLJob\n", "", "kind missing: a job has apiVersion: fl.lifl.dev/v1alpha1"),
        ("name: digits", "name: My_Job", "metadata.name is 'My_Job': it must be a DNS label"),
        ("name: digits", "name: " + "a" * 64, "it must be a DNS label: 1 to 63"),
        ("  name: digits", "  labels: {a: b}", "metadata.name is missing"),
        ("initial: digits:initial_model", "file: m.pt", "it must be the path of a .safetensors"),
        ("    initial: digits:initial_model", "    {}", "and has neither"),
        ("initial: digits", "file: m.safetensors\n    initial: digits", "and has both"),
    ],
)
def test_a_wrong_head(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, SMALL.replace(old, new))


def test_all_errors_are_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        SMALL + "  rounds: 0\n  aggregation:\n    mode: egaer\n    fanout: 3\n  nodes: 0\n",
    )
    first, *rest = said.splitlines()
    assert first == f"{tmp_path / 'job.yaml'} has 4 errors:"
    assert [line.split(":")[0].strip() for line in rest] == [
        "line 8", "line 10", "line 11", "line 12",
    ]  # fmt: skip


def test_a_wrong_field_in_json_has_its_line(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL)).model_dump(mode="json", by_alias=True)
    job["spec"]["rounds"] = 0
    lines = json.dumps(job, indent="\t").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if '"rounds"' in text)
    said = refused(tmp_path, "\n".join(lines), "job.json")
    assert f"line {line}: spec.rounds is 0" in said


# ---------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("# nothing\n---\n", "is empty"),
        (SMALL + "---\n" + SMALL, "holds 2 documents"),
        ("- a\n- b\n", "holds a list, not a job"),
        ("hello\n", "holds the single value 'hello', not a job"),
        ("spec: [1, 2\n", "no YAML: expected ',' or ']'"),
        ("a: b: c\n", "line 1, column 5: no YAML: mapping values are not allowed here"),
        ("a:\n\tb: 1\n", "line 2, column 1: no YAML: found character"),
        ("a: !!python/object:os.system {}\n", "apiVersion and kind missing"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "[" * 70 + "]" * 70, "nested too deeply"),
    ],
)
def test_no_job_at_all(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, text)


def test_aliases_that_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expand" in refused(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ('{"kind": "FLJob",\n}', "line 2, column 1: no JSON: Expecting property name"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"kind": 1,\n "kind": 2}', "'kind' is there twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_no_json(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, text, "job.json")


def test_a_folder_a_missing_and_a_binary_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="is a folder"):
        load_job(tmp_path)
    with pytest.raises(InvalidJob, match="does not exist"):
        load_job(tmp_path / "none.yaml")
    for raw, sentence in ((b"\x7fELF\x00", "byte 4 is zero"), (b"a: \xff\xfe", "byte 3 is not")):
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(InvalidJob, match=sentence):
            load_job(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"a: \x07")
    with pytest.raises(InvalidJob, match="is no text"):
        load_job(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"a" * ((1 << 20) + 1))
    with pytest.raises(InvalidJob, match="larger than 1 MiB"):
        load_job(tmp_path / "x")


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_job(tmp_path / "job.yaml").metadata.name == "digits"


def test_lines_survive_comments_anchors_and_flow(tmp_path: Path) -> None:
    text = textwrap.dedent("""\
        # a comment
        apiVersion: fl.lifl.dev/v1alpha1
        kind: FLJob
        metadata: {name: &n digits}

        spec:
          model:
            # another
            initial: m:f
          trainer:
            entrypoint: m:f
            args: {name: *n, deep: {list: [1,
              2]}}
          memory: {
            inputSlots: -1 }
        """)
    assert "line 15: spec.memory.inputSlots is -1" in refused(tmp_path, text)


def test_import_lifl_is_light() -> None:
    """Names load on demand: the package itself brings in nothing but the interpreter's own."""
    program = (
        "import sys; before = set(sys.modules); import lifl; print(*set(sys.modules) - before)\n"
        "lifl.load_job, lifl.FLJob, lifl.InvalidJob, lifl.__version__, dir(lifl)\n"
        "assert 'numpy' not in sys.modules and 'zmq' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"lifl", "__future__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lifl.nothing  # noqa: B018
    assert lifl.Busy is lifl.errors.Busy


def test_fan_in_auto_survives_being_written_down(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SMALL + "  aggregation: {fanIn: auto}\n")
    job = load_job(path)
    assert job.spec.aggregation.fan_in is None
    text = job.model_dump_json(by_alias=True, exclude={"status"})
    assert '"fanIn":"auto"' in text
    assert FLJob.model_validate_json(text) == job
