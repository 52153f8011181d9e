"""Reading specifications from files, packages and URLs, and saying what is wrong with them."""

from __future__ import annotations

import copy
import gzip
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading
import zipfile
from typing import Any

import pytest
import yaml
from pipelines import nested, two_steps

from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.specs import files as spec_files
from airflow_provider_llmops.specs.documents import parse_documents, read_stored
from airflow_provider_llmops.specs.messages import meaning_of
from airflow_provider_llmops.specs.pipeline import PipelineSpec

IR = two_steps()
TEXT = yaml.safe_dump(IR).encode()
PLATFORM = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"exec-train": {}}}}}}


def dump(*documents) -> bytes:
    return yaml.safe_dump_all(documents).encode()


def changed(*path, value=None) -> dict:
    """The pipeline with one thing in it replaced, or, without a value, left out."""
    ir = two_steps()
    part = ir
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return ir


TEXT_INPUT = ("root", "dag", "tasks", "report", "inputs", "parameters", "text")


def with_outputs(*, selected="train", artifact=None, **of_one) -> dict:
    """The pipeline with outputs: one of ``train``, one of two tasks, and perhaps an artifact."""
    given = {"outputParameterKey": "out", "producerSubtask": "train"}
    ir = changed("root", "outputDefinitions", value={"parameters": {}})
    names = ("one", "either")
    ir["root"]["outputDefinitions"] = {"parameters": {name: {"parameterType": "STRING"} for name in names}}
    selectors = [dict(given), {**given, "producerSubtask": selected}]
    ir["root"]["dag"]["outputs"] = {
        "parameters": {
            "one": {"valueFromParameter": {**given, **of_one}},
            "either": {"valueFromOneof": {"parameterSelectors": selectors}},
        }
    }
    if artifact:
        selector = {"outputArtifactKey": artifact, "producerSubtask": "train"}
        ir["root"]["dag"]["outputs"]["artifacts"] = {"a": {"artifactSelectors": [selector]}}
    return ir


def tarball(files: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        if link:
            member = tarfile.TarInfo("pipeline.yaml")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers by path: status, announced length (or the true one) and body."""

    by_path: dict[str, tuple[int, int | None, bytes]] = {}

    def do_GET(self) -> None:
        status, length, body = self.by_path[self.path.partition("?")[0]]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server():
    """A web server; yields its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.yaml", TEXT),
        ("p.yml", b"\xef\xbb\xbf# a comment\n---\n" + TEXT),
        ("p.json", json.dumps(IR, indent="\t").encode()),
        ("p.zip", zipped({"README.md": b"", "pipeline.yaml": TEXT})),
        ("p.zip", zipped({"other.yaml": TEXT}, zipfile.ZIP_STORED)),
        ("p.tar.gz", tarball({"a/readme": b"", "./pipeline.yaml": TEXT})),
        ("p.tgz", tarball({"other.yml": TEXT})),
    ],
)
def test_a_file_or_package_is_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, str(tmp_path / name), (tmp_path / name).as_uri()):
        spec = PipelineSpec.load(source)
        assert (spec.name, spec.ir, spec.platform) == ("two-steps", IR, None)


def test_digest_is_that_of_the_text_however_it_is_packed(tmp_path):
    (tmp_path / "p.yaml").write_bytes(TEXT)
    (tmp_path / "p.zip").write_bytes(zipped({"pipeline.yaml": TEXT}))
    digest = f"sha256:{hashlib.sha256(TEXT).hexdigest()}"
    assert [PipelineSpec.load(tmp_path / name).digest for name in ("p.yaml", "p.zip")] == [digest, digest]


@pytest.mark.parametrize("documents", [(IR, PLATFORM), (PLATFORM, IR), (None, IR, None, PLATFORM)])
def test_the_platform_specification_is_kept(tmp_path, documents):
    (tmp_path / "p.yaml").write_bytes(dump(*documents))
    spec = PipelineSpec.load(tmp_path / "p.yaml")
    assert (spec.ir, spec.platform, spec.bind({}).platform) == (IR, PLATFORM, PLATFORM)


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_comments_that_kfp_writes_before_it_may_hold_any_separator_of_lines(tmp_path, separator):
    path = tmp_path / "pipeline.yaml"
    header = f"# PIPELINE DEFINITION\n# Name: p\n# Inputs:\n#    x: str [Default: 'a{separator}']\n\n"
    path.write_bytes(header.encode() + TEXT)
    assert PipelineSpec.load(path).ir == IR
    path.write_bytes(header.encode() + b"a: b: c")
    with pytest.raises(ConfigurationError, match="line 6, column 5: not valid YAML"):
        PipelineSpec.load(str(path))


def test_json_may_have_emoji_in_escapes(tmp_path):
    ir = changed("pipelineInfo", "description", value="\N{ROCKET}")
    (tmp_path / "p.json").write_text(json.dumps(ir))
    assert PipelineSpec.load(tmp_path / "p.json").ir == ir


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"p.yaml is empty\. Compile it again"),
        (b"---\n---\n# nothing\n", "p.yaml is empty"),
        (b"a: b: c", "p.yaml, line 1, column 5: not valid YAML: mapping values are not allowed in"),
        (b"a:\n\t- b", "line 2, column 1: not valid YAML"),
        (b"{'a': ", "line 2, column 1: not valid YAML"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"a: \x00", "not valid YAML.*control characters"),
        (b"!!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b"- a\n- b", r"holds a list, not a pipeline specification: \['a', 'b'\]"),
        (b"just text", "holds a str, not a pipeline specification: 'just text'"),
        (b"\n <!DOCTYPE HTML><title>Sign in</title>", "holds a web page.*perhaps a login page"),
        (
            dump({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}),
            "an Argo Workflow, which is what KFP v1",
        ),
        (b"apiVersion: argoproj.io/v1\nkind: Workflow\nmetadata: {date: 2020-01-01}", "an Argo Workflow"),
        (
            dump({"apiVersion": "pipelines.kubeflow.org/v2beta1", "kind": "PipelineVersion"}),
            "compile it without kubernetes_manifest_format",
        ),
        (dump({"apiVersion": "v1", "kind": "Pod"}), r"is a Kubernetes manifest \(v1 Pod\)"),
        (dump({"name": "x", "implementation": {"container": {}}}), "a component of KFP v1; load it with"),
        (
            dump({"displayName": "x", "pipelineSpec": IR}),
            "a pipeline job; its specification is the part under",
        ),
        (dump({"a": 1}), "it has no pipelineInfo and no root"),
        (dump(PLATFORM), "holds a platform specification alone"),
        (dump(IR, {"a": 1}), "the second document is no platform specification"),
        (dump(IR, IR), "holds 2 pipeline and 0 platform specifications"),
        (dump(IR, PLATFORM, PLATFORM), "holds 1 pipeline and 2 platform specifications"),
        (dump(IR, {"platforms": []}), r"platforms must be a mapping, got list \[\]"),
        (dump(changed("schemaVersion", value="2.0.0")), r"has schemaVersion '2\.0\.0'.*takes 2\.1\.0"),
        (dump(changed("schemaVersion")), "has schemaVersion None"),
        (dump(changed("root")), "it has no root"),
        (dump(changed("deploymentSpec")), "it has no deploymentSpec"),
        (dump(changed("pipelineInfo", "name", value="A B")), r"pipelineInfo\.name is 'A B'"),
        (dump(changed("root", value=[])), r"root must be a mapping, got list \[\]"),
        (dump(changed("root", "dag")), "root has no dag"),
        (dump(changed("root", "dag", "tasks")), "root.dag has no tasks"),
        (
            dump(changed("root", "dag", "tasks", "train", "componentRef", "name", value="comp-trian")),
            r"root\.dag\.tasks\.train refers to a component that is not there: 'comp-trian' "
            r"\(did you mean 'comp-train'\?\)",
        ),
        (
            dump(changed("deploymentSpec", "executors", "exec-train")),
            r"components\.comp-train refers to an executor that is not there: 'exec-train'",
        ),
        (
            dump(changed("components", "comp-train", "executorLabel", value=["x"])),
            r"executorLabel must be text, got list \['x'\](?s:.*)\nSpecification: p.yaml\nPlace: components\.comp-train\.exec",
        ),
        (
            dump(changed("root", "dag", "tasks", "train", "inputs", value=3)),
            r"^inputs must be a mapping, got int 3\. Kubeflow (?s:.*)\nPlace: root\.dag\.tasks\.train\.inputs$",
        ),
        (
            dump(changed("root", "dag", "tasks", "train", "inptus", value={})),
            r"^There is no field 'inptus' \(did you mean 'inputs'\?\) in a PipelineTaskSpec, which has artifactIter",
        ),
        (
            dump(changed("root", "dag", "tasks", "report", "dependentTasks", value="train")),
            r"^dependentTasks must be a list, got str 'train'",
        ),
        (
            dump(changed("root", "dag", "tasks", "report", "dependentTasks", value=["trian"])),
            r"tasks\.report depends on a task that is not there: 'trian' \(did you mean 'train'\?\)",
        ),
        (
            dump(
                changed(
                    "root",
                    "dag",
                    "tasks",
                    "train",
                    "inputs",
                    "parameters",
                    "steps",
                    value={"componentInputParameter": "stebs"},
                )
            ),
            r"tasks\.train takes an input that its pipeline does not have: 'stebs' \(did you mean 'steps'\?\)",
        ),
        (
            dump(changed("root", "dag", "tasks", "train", "dependentTasks", value=["report"])),
            r"root\.dag: tasks wait for each other: (train -> report -> train|report -> train -> report)\.",
        ),
        (
            dump(
                changed(
                    "root", "dag", "tasks", "report", "inputs", "parameters", "text", "runtimeValue", value={}
                )
            ),
            r"There can be one of 'runtimeValue' and 'taskOutputParameter', and there are both",
        ),
        (
            dump(
                changed("root", "inputDefinitions", "parameters", "steps", "parameterType", value="INTEGER")
            ),
            r"^parameterType must be one of NUMBER_DOUBLE, .*, got str 'INTEGER'",
        ),
        (
            dump(changed("root", "inputDefinitions", "parameters", "steps", "parameterType", value=99)),
            r"^parameterType must be one of NUMBER_DOUBLE, .*, got int 99",
        ),
        (
            dump(changed("root", "dag", "tasks", "train", "cachingOptions", "enableCache", value="yes")),
            r"^enableCache must be true or false, got str 'yes'",
        ),
        (
            dump(changed("deploymentSpec", "executors", "exec-train", "container", "imgae", value="x")),
            r"no field 'imgae' \(did you mean 'image'\?\)(?s:.*)\nPlace: deploymentSpec\.executors\.exec-train\.container$",
        ),
        (
            dump(IR, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"exec-tarin": {}}}}}}),
            r"^p\.yaml: platforms\.kubernetes has settings for an executor that is not there: 'exec-tarin' "
            r"\(did you mean 'exec-train'\?\)",
        ),
        *(
            (
                dump(with_outputs(**{key: value})),
                rf"^p\.yaml: root\.dag\.outputs\.parameters\.{output} {message}",
            )
            for output, key, value, message in (
                ("one", "producerSubtask", "tarin", r"comes from a task that is not there: 'tarin' \(did"),
                (
                    "one",
                    "outputParameterKey",
                    "otu",
                    r"takes an output that task 'train' does not have: 'otu' \(did",
                ),
                ("either", "selected", "nope", r"comes from a task that is not there: 'nope'"),
            )
        ),
        (
            dump(with_outputs(artifact="model")),
            r"^p\.yaml: root\.dag\.outputs\.artifacts\.a takes an output that task 'train' does not have: 'model'",
        ),
        (
            dump(changed(*TEXT_INPUT, "taskOutputParameter", "outputParameterKey", value="otu")),
            r"root\.dag\.tasks\.report\.inputs\.parameters\.text takes an output that task 'train' does not have: 'otu' "
            r"\(did you mean 'out'\?\)",
        ),
        (
            dump(changed(*TEXT_INPUT[:-1], "txet", value={"runtimeValue": {"constant": "a"}})),
            r"root\.dag\.tasks\.report\.inputs\.parameters has an input that its component does not have: 'txet' \(did",
        ),
        (
            dump(IR, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"e": {"nope": 1}}}}}}),
            r"no field 'nope' in a KubernetesExecutorConfig(?s:.*)\nPlace: platforms\.kubernetes\.deploymentSpec\.executors\.e$",
        ),
        *(
            (
                dump(changed("pipelineInfo", "name", value=name)),
                r"pipelineInfo\.name is '.*lower-case letters",
            )
            for name in ("a-", "-a", "a..b", "a-.b", "a_b", "A", "x" * 129, "")
        ),
        (
            dump(changed("root", "inputDefinitions", "parameters", "steps", "parameterType")),
            "steps has no parameterType",
        ),
        (b"a: .nan", r"p\.yaml: \$\.a is nan, which JSON cannot carry"),
        (b"a: [2024-01-02]", r"\$\.a\[0\] is a datetime\.date"),
        (b"1: 2", r"\$ has the key 1; JSON has only text as keys"),
    ],
)
def test_what_is_no_specification_is_called_by_its_name(content, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_documents(content, "p.yaml")


def test_other_ways_to_write_the_same_are_read_as_the_sdk_writes_it():
    def snake(value: Any) -> Any:
        if isinstance(value, list):
            return [snake(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {re.sub("([a-z])([A-Z])", r"\1_\2", key).lower(): snake(item) for key, item in value.items()}

    other = snake(IR)
    assert "input_definitions" in other["root"]
    other["root"]["input_definitions"]["parameters"]["steps"]["parameter_type"] = 2  # NUMBER_INTEGER
    other["default_pipeline_root"] = None
    config = {"active_deadline_seconds": "60", "secret_as_env": [], "init_containers": [{"image": "x"}]}
    platform = {"platforms": {"kubernetes": {"deployment_spec": {"executors": {"exec-train": config}}}}}
    assert parse_documents(dump(other, platform), "p.yaml") == (
        IR,
        {
            "platforms": {
                "kubernetes": {
                    "deploymentSpec": {
                        "executors": {
                            "exec-train": {
                                "activeDeadlineSeconds": 60,
                                "secretAsEnv": [],
                                "initContainers": [{"image": "x"}],
                            }
                        }
                    }
                }
            }
        },
    )


def test_values_of_parameters_keep_their_type_and_their_keys():
    value = {"snake_case": 1, "camelCase": 2.0, "none": None, "empty": {}}
    ir = changed("root", "inputDefinitions", "parameters", "steps", "defaultValue", value=value)
    assert repr(parse_documents(dump(ir), "p.yaml")[0]) == repr(yaml.safe_load(dump(ir)))


def test_what_a_newer_server_keeps_is_read_with_fields_that_are_unknown_here():
    stored = changed("root", "dag", "tasks", "train", "newField", value={"a": 1})
    assert read_stored(stored, "p on the server") == (stored, None)
    both = {"pipeline_spec": stored, "platform_spec": PLATFORM}
    assert read_stored(both, "p on the server") == (stored, PLATFORM)
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {}}
    with pytest.raises(ConfigurationError, match="p on the server is an Argo Workflow"):
        read_stored(workflow, "p on the server")


@pytest.mark.parametrize(
    ("path", "value", "is_same"),
    [
        (("root", "inputDefinitions", "artifacts"), {}, True),
        (("root", "inputDefinitions", "parameters", "steps", "defaultValue"), 3, True),
        (("root", "inputDefinitions", "parameters", "steps", "description"), "", True),
        (("deploymentSpec", "executors", "exec-train", "container", "env"), [], True),
        (("root", "inputDefinitions", "parameters", "steps", "defaultValue"), 4, False),
        (("deploymentSpec", "executors", "exec-train", "container", "image"), "y", False),
    ],
)
def test_meaning_is_what_is_left_without_order_and_empty_maps(path, value, is_same):
    other = dict(reversed(changed(*path, value=value).items()))
    assert (meaning_of(other, PLATFORM) == meaning_of(IR, PLATFORM)) is is_same
    assert meaning_of(IR, None) != meaning_of(IR, PLATFORM)


def test_what_the_compiler_gives_a_task_besides_its_components_inputs_is_read():
    given = {
        "cpu_limit": {"runtimeValue": {"constant": "{{$.inputs.parameters['pipelinechannel--cpu']}}"}},
        "pipelinechannel--cpu": {"componentInputParameter": "steps"},
    }
    for ir in (
        with_outputs(),
        changed("root", "dag", "tasks", "train", "inputs", "parameters", value=given),
    ):
        assert parse_documents(dump(ir), "p.yaml") == (ir, None)


def test_settings_of_one_step_are_not_those_of_another():
    def meaning(executors):
        return meaning_of(IR, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}})

    on_gpu, on_cpu = ({"nodeSelector": {"labels": {"a": label}}} for label in ("gpu", "cpu"))
    said = [
        {"exec-a": on_gpu},
        {"exec-b": on_gpu},
        {"exec-a": on_gpu, "exec-b": on_cpu},
        {"exec-a": on_cpu, "exec-b": on_gpu},
        {"exec-a": on_gpu, "exec-b": on_gpu},
        {},
    ]
    assert len({meaning(executors) for executors in said}) == len(said)
    assert meaning({"exec-b": on_gpu, "exec-a": on_cpu}) == meaning({"exec-a": on_cpu, "exec-b": on_gpu})
    assert meaning({"exec-a": on_gpu, "exec-b": {}}) == meaning({"exec-a": on_gpu})


def test_a_component_that_contains_itself_is_refused():
    ir = nested()
    first = ir["root"]["dag"]["tasks"]["first"]
    ir["components"]["comp-two-steps"]["dag"]["tasks"]["again"] = copy.deepcopy(first)
    with pytest.raises(ConfigurationError, match="'comp-two-steps' contains itself"):
        parse_documents(dump(ir), "p.yaml")


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (
            b"a0: &a0 [x,x]\n"
            + b"".join(b"a%d: &a%d [*a%d,*a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 99)),
            "line 2: YAML aliases",
        ),
        (b"[" * 100_000, "more than 100 levels"),
        (b'{"a":' * 100_000, "more than 100 levels"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper than 100 levels"),
        (b"[" + b"1," * 1_000_001 + b"]", "or 1000000 values"),
    ],
    ids=["aliases", "deep YAML", "deep JSON", "less deep JSON", "many values"],
)
def test_bombs_are_refused_before_they_are_built(bomb, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_documents(bomb, "p.yaml")


def test_bombs_in_packages_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(spec_files, "MAX_BYTES", 2**20)
    zeros = bytes(2**21)
    for name, content in {
        "p.yaml": zeros,
        "z.zip": zipped({"pipeline.yaml": zeros}),
        "t.tar.gz": tarball({"pipeline.yaml": zeros}),
        "g.tar.gz": gzip.compress(zeros),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match="holds more than 1 MiB"):
            PipelineSpec.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.zip", zipped({"a.txt": b""}), r"holds no pipeline\.yaml, and its first file is 'a\.txt'"),
        ("p.zip", zipped({}), "is an empty package"),
        ("p.zip", zipped({"pipeline.yaml": TEXT})[:-30], "is not a valid zip file"),
        ("p.zip", zipped({"pipeline.yaml": TEXT}, zipfile.ZIP_BZIP2), "Make it with deflate"),
        ("p.tar.gz", tarball({}), "is an empty package"),
        ("p.tar.gz", tarball({"pipeline.yaml": TEXT})[:-30], r"is not a valid \.tar\.gz file"),
        ("p.tar.gz", gzip.compress(b"no tar" * 200), r"is not a valid \.tar\.gz file"),
        ("p.tar.gz", tarball({}, link="/etc/passwd"), "is an empty package"),
    ],
)
def test_broken_packages_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        PipelineSpec.load(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{tmp}/none.yaml", r"There is no file .*none\.yaml on this machine"),
        ("{tmp}", "is a directory. Name the compiled specification"),
        ("/dev/zero", "There is no file /dev/zero"),
        ("a\0b", "There is no file a"),
        ("file://host/p.yaml", "names the host 'host'"),
        ("nope://bucket/p.yaml", "nope://bucket/p.yaml cannot be opened.*Object stores need"),
    ],
)
def test_sources_that_are_not_there_are_named(tmp_path, source, message):
    with pytest.raises(ConfigurationError, match=message):
        PipelineSpec.load(source.replace("{tmp}", str(tmp_path)))


def test_a_specification_is_read_from_a_url(server):
    Answers.by_path = {"/p.yaml": (200, None, TEXT)}
    assert PipelineSpec.load(f"{server}/p.yaml?token=secret").ir == IR


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((404, None, b""), ConfigurationError, "answered 404 Not Found"),
        ((403, None, b""), ConfigurationError, "answered 403 Forbidden. Only addresses that need no login"),
        ((429, None, b""), ApiUnavailableError, "answered 429"),
        ((503, None, b""), ApiUnavailableError, "answered 503 Service Unavailable"),
        ((200, None, b"<html>Sign in</html>"), ConfigurationError, "holds a web page"),
        ((200, len(TEXT) + 7, TEXT), ApiUnavailableError, "was cut off 7 bytes before its end"),
        ((200, None, b" " * 3000), ConfigurationError, "holds more than 0 MiB"),
    ],
)
def test_answers_of_a_server_are_told_apart_without_its_secrets(server, monkeypatch, answer, kind, message):
    monkeypatch.setattr(spec_files, "MAX_BYTES", len(TEXT) + 100)
    assert len(TEXT) < 2800
    Answers.by_path = {"/p.yaml": answer}
    with pytest.raises(kind, match=message) as error:
        PipelineSpec.load(f"{server}/p.yaml?token=secret")
    assert type(error.value) is kind
    assert "secret" not in str(error.value)


def test_a_server_that_is_down_may_be_tried_again():
    with pytest.raises(ApiUnavailableError, match=r"cannot be read: .*Is the server up"):
        PipelineSpec.load("http://127.0.0.1:1/p.yaml")
