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
from collections.abc import Iterator
from pathlib import Path

import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.training.base_model import import_base_model

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
def hub(tiny_model: Path) -> Iterator[tuple[str, list[str]]]:
    served: list[str] = []
    handler = type("Handler", (_Hub,), {"model": tiny_model, "served": served})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    server.server_close()


def _import(endpoint: str, tmp_path: Path, source: str, revision: str | None = None) -> dict:
    """Run in a process of its own: the hub's client reads its endpoint and offline mode when it is imported."""
    script = (
        "import json, sys\n"
        "from llmops_components.errors import ComponentError\n"
        "from llmops_components.training.base_model import import_base_model\n"
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
