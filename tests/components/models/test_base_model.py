"""import_base_model from each source, and its errors. The hub is faked over real HTTP, in a process of its own."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.models.importing import import_base_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PARAMETERS = 98_560


def test_directory_is_copied_and_cast(tiny_model, tmp_path):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = import_base_model(tmp_path / "model", source=f"file://{tiny_model}")

    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.equal(before[n].to(torch.bfloat16), after[n])] == []
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template is not None
    assert report.metrics == {"parameters": PARAMETERS}
    assert report.findings == []
    assert report.details == {
        "source": f"file://{tiny_model}",
        "revision": None,
        "license": None,
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "chat_template": True,
    }
    assert json.loads((tmp_path / "model" / "provenance.json").read_text()) == {
        "component": "import_base_model",
        **report.details,
        "parameters": PARAMETERS,
    }


def test_auto_dtype_keeps_the_weights_byte_for_byte(tiny_model, tmp_path):
    report = import_base_model(tmp_path / "model", source=str(tiny_model), dtype="auto")

    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        tiny_model / "model.safetensors"
    ).read_bytes()
    assert report.details["dtype"] == "float32"


def test_pickles_code_and_subdirectories_are_left_behind(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    (source / "modeling_custom.py").write_text("raise SystemExit('ran')")
    (source / "original").mkdir()
    (source / "original" / "model.safetensors").write_bytes(b"")

    import_base_model(tmp_path / "model", source=str(source))

    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "provenance.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_missing_chat_template_is_a_finding(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "chat_template.jinja").unlink()

    report = import_base_model(tmp_path / "model", source=str(source))

    assert report.details["chat_template"] is False
    assert report.findings == ["The tokenizer has no chat template: not a chat model."]


def test_missing_generation_config_is_written(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "generation_config.json").unlink()
    (source / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")

    report = import_base_model(tmp_path / "model", source=str(source))

    assert json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"] == 2
    assert report.details["license"] == "mit"
    assert (tmp_path / "model" / "README.md").read_text().endswith("A model.\n")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"source": "s3://bucket/model"}, SettingError, "Unknown scheme 's3'.*Use hf://"),
        ({"source": "no-slash"}, SettingError, "'no-slash' is not the name of a hub repository"),
        ({"source": "hf://../etc"}, SettingError, "is not the name of a hub repository"),
        ({"source": "file://host/dir"}, SettingError, "names the host 'host'"),
        ({"source": "/nowhere"}, ModelError, "Model directory /nowhere does not exist"),
        ({"source": "/nowhere", "revision": "main"}, SettingError, "only the hub has revisions"),
        (
            {"source": "/nowhere", "dtype": "bfloat61"},
            SettingError,
            r"'bfloat61' \(did you mean 'bfloat16'\?\)",
        ),
        (
            {"source": "package://not-installed"},
            ModelError,
            "Python package 'not-installed' is not installed",
        ),
        ({"source": "package://os.path"}, ModelError, "Python package 'os.path' is not installed"),
        ({"source": "package://llmops_components"}, ModelError, "holds 0 GGUF files"),
        ({"source": "org/model"}, SettingError, "not in the local cache and HF_HUB_OFFLINE is set"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        import_base_model(tmp_path / "model", **settings)
    assert list(tmp_path.iterdir()) == []


def test_directory_without_weights_is_an_error(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights"):
        import_base_model(tmp_path / "model", source=str(source))


def test_missing_shard_is_named(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks 1 of 2 weight files: model-00002\.safetensors"):
        import_base_model(tmp_path / "model", source=str(source))


def test_model_that_needs_its_own_code_is_refused(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "modeling.Config"}}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"Transformers cannot read the model's config\.json"):
        import_base_model(tmp_path / "model", source=str(source))
    assert not (tmp_path / "model").exists()


def test_gguf_in_a_package_becomes_a_model_that_answers(tmp_path):
    """A GGUF of a few hundred kB in a package that must not be imported."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = tmp_path / "site" / "gguf_in_a_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    tensors = _write_gguf(package / "tiny.gguf")
    sys.path.insert(0, str(tmp_path / "site"))
    try:
        report = import_base_model(tmp_path / "model", source="package://gguf-in-a-package", dtype="float32")
    finally:
        sys.path.remove(str(tmp_path / "site"))

    assert report.details["architecture"] == "LlamaForCausalLM"
    assert report.details["dtype"] == "float32"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert report.metrics["parameters"] == model.num_parameters()
    written = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(
        written["model.embed_tokens.weight"], torch.from_numpy(tensors["token_embd.weight"])
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert tokenizer.decode(tokenizer("ab")["input_ids"]) == "ab"


@pytest.mark.parametrize("name", ["tiny.gguf", "directory", "file://", "beside a config"])
def test_gguf_is_taken_by_its_path_or_from_a_directory_with_one(name, tmp_path):
    directory = tmp_path / "a gguf"
    directory.mkdir()
    _write_gguf(directory / "tiny.gguf")
    (directory / "mmproj-F16.gguf").write_bytes(b"no model")  # eyes of a model
    if name == "beside a config":  # as repositories on the hub have it
        (directory / "config.json").write_text("{}")
    path = directory / "tiny.gguf" if name == "tiny.gguf" else directory
    source = path.as_uri() if name == "file://" else str(path)

    report = import_base_model(tmp_path / "model", source=source, dtype="float32")

    assert (report.details["architecture"], report.details["dtype"]) == ("LlamaForCausalLM", "float32")
    assert "`tiny.gguf`" in (tmp_path / "model" / "README.md").read_text()


def test_directory_with_safetensors_and_a_gguf_is_the_safetensors(tiny_model, tmp_path):
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "model-Q4.gguf").write_bytes(b"a copy")
    report = import_base_model(tmp_path / "model", source=str(source))
    assert report.metrics == {"parameters": PARAMETERS}
    assert not list((tmp_path / "model").glob("*.gguf"))


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        (
            ["model-Q4.gguf", "model-Q8.gguf"],
            "",
            r"holds 2 GGUF files: model-Q4\.gguf, model-Q8\.gguf\. Give the path of one",
        ),
        (
            ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
            "",
            r"m-00001-of-00002\.gguf is one of 2 parts of a GGUF file, .* --merge m-00001-of-00002\.gguf whole\.gguf",
        ),
        (
            ["m-00002-of-00002.gguf"],
            "m-00002-of-00002.gguf",
            r"m-00002-of-00002\.gguf is one of 2 parts .* --merge m-00001-of-00002\.gguf",
        ),
        (["broken.gguf"], "broken.gguf", r"GGUF file .*broken\.gguf cannot be read"),
        (
            ["model.safetensors"],
            "model.safetensors",
            r"model\.safetensors is one file of a model, .* Give .*source,",
        ),
        (["config.json"], "config.json", r"config\.json is one file of a model"),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            "",
            r"holds an adapter: merge it with its base model",
        ),
        (["MLmodel", "model/config.json"], "", r"is a model as MLflow stores it: .* Give .*source/model\."),
        (["snapshot/config.json"], "", r"is not a model directory: .* Give .*source/snapshot\."),
        ([], "", r"is not a model directory: it has no config\.json"),
    ],
)
def test_what_is_no_model_is_answered_with_what_it_is(files, source, message, tmp_path):
    for name in files:
        file = tmp_path / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345678")
    (tmp_path / "source").mkdir(exist_ok=True)
    with pytest.raises(ModelError, match=message):
        import_base_model(tmp_path / "model", source=str(tmp_path / "source" / source))
    assert not (tmp_path / "model").exists()


def _write_gguf(path: Path) -> dict:
    import gguf
    import numpy as np

    size, inner, heads, tokens = 32, 64, 2, ["<e>", "a", "b", "ab"]
    rng = np.random.default_rng(0)
    block = {
        "attn_q.weight": (size, size),
        "attn_k.weight": (size, size),
        "attn_v.weight": (size, size),
        "attn_output.weight": (size, size),
        "ffn_gate.weight": (inner, size),
        "ffn_up.weight": (inner, size),
        "ffn_down.weight": (size, inner),
        "attn_norm.weight": (size,),
        "ffn_norm.weight": (size,),
    }
    shapes = {"token_embd.weight": (len(tokens), size), "output_norm.weight": (size,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in block.items()}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


class _Hub(http.server.BaseHTTPRequestHandler):
    """The two requests that a download makes: a repository's files at a revision, and each file."""

    model: Path
    served: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/tiny/revision/"):
            if path.endswith(("/main", f"/{COMMIT}")):
                files = [{"rfilename": f.name} for f in self.model.iterdir()] + [{"rfilename": "evil.bin"}]
                self._send(200, json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": files}).encode())
            else:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/org/tiny/tree/"):
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"}
                for f in self.model.iterdir()
            ]
            self._send(200, json.dumps(files).encode())
        elif path.startswith("/api/models/org/gated/"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.served.append(name)
            content = (self.model / name).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub_of() -> Iterator[Callable[[Path], tuple[str, list[str]]]]:
    """Starts a hub whose repository org/tiny has the files of a directory: its address, and the names it has served."""
    servers = []

    def start(model: Path) -> tuple[str, list[str]]:
        served: list[str] = []
        handler = type("Handler", (_Hub,), {"model": model, "served": served})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", served

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(hub_of, tiny_model: Path) -> tuple[str, list[str]]:
    return hub_of(tiny_model)


def _import(endpoint: str, tmp_path: Path, source: str, revision: str | None = None) -> dict:
    """Run in a process of its own: the hub's client reads its endpoint and offline mode when it is imported."""
    script = (
        "import json, sys\n"
        "from llmops_components.errors import ComponentError\n"
        "from llmops_components.models.importing import import_base_model\n"
        "try:\n"
        f"    r = import_base_model({str(tmp_path / 'model')!r}, source={source!r}, revision={revision!r})\n"
        "    out = {'details': r.details, 'metrics': r.metrics}\n"
        "except ComponentError as e:\n"
        "    out = {'error': type(e).__name__, 'message': str(e)}\n"
        "print(json.dumps(out))\n"
    )
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_hub_repository_is_pinned_to_its_commit_and_pickles_are_not_fetched(hub, tmp_path):
    endpoint, served = hub

    done = _import(endpoint, tmp_path, "hf://org/tiny")

    assert done["details"]["revision"] == COMMIT
    assert done["metrics"] == {"parameters": PARAMETERS}
    assert "model.safetensors" in served
    assert "evil.bin" not in served
    assert (tmp_path / "model" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("source", "revision", "error", "message"),
    [
        (
            "org/missing",
            None,
            "ModelError",
            "Base model org/missing does not exist on the hub, or is private",
        ),
        ("org/gated", None, "ModelError", "Base model org/gated is gated. Accept its licence"),
        ("org/tiny", "v9", "ModelError", "Base model org/tiny has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(hub, tmp_path, source, revision, error, message):
    done = _import(hub[0], tmp_path, source, revision)

    assert done["error"] == error
    assert message in done["message"]
    assert not (tmp_path / "model").exists()


def test_unreachable_hub_is_not_a_missing_model(tmp_path):
    done = _import("http://127.0.0.1:9", tmp_path, "org/tiny")

    assert done["error"] == "UnavailableError"
    assert "no answer from the hub" in done["message"]


def test_hub_repository_with_gguf_files_alone_says_which(hub_of, tmp_path):
    (tmp_path / "repository").mkdir()
    for name in ("tiny-Q4.gguf", "tiny-Q8.gguf", "config.json"):
        (tmp_path / "repository" / name).write_text("{}")
    done = _import(hub_of(tmp_path / "repository")[0], tmp_path, "org/tiny")
    assert done["error"] == "ModelError"
    assert done["message"].startswith(
        "org/tiny has no safetensors, only GGUF files: tiny-Q4.gguf, tiny-Q8.gguf. Fetch one (hf download org/tiny "
    )
