"""Which variables a manifest may not give a service on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from llmops_components.errors import SettingError
from llmops_components.serving.local.loader_variables import why_refused
from llmops_components.serving.local.manifest import read_manifest


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "DYLD_INSERT_LIBRARIES",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "PYTHONWARNINGS",
        "PYTHONBREAKPOINT",
        "PYTHONINSPECT",
        "PATH",
        "BASH_ENV",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_EXEC_PATH",
        "SSH_ASKPASS",
        "OPENSSL_CONF",
        "CUDA_INJECTION64_PATH",
        "NODE_OPTIONS",
        "JAVA_TOOL_OPTIONS",
        "LLMOPS_ALLOWED_CODE",
        "LLMOPS_PROCESS_DIR",
        "CC",
        "CXX",
        "NCCL_NET_PLUGIN",
        "NCCL_TUNER_PLUGIN",
        "OMP_TOOL_LIBRARIES",
        "MPLBACKEND",
        "HF_MODULES_CACHE",
        "VLLM_PLUGINS",
        "NUMBA_CACHE_DIR",
        "RAY_RUNTIME_ENV_HOOK",
        "HOME",
        "ld_preload",
    ],
)
def test_variable_that_chooses_code_is_refused(name: str) -> None:
    assert why_refused(name)


@pytest.mark.parametrize(
    "name",
    [
        "OMP_NUM_THREADS",
        "HF_HOME",
        "HF_TOKEN",
        "PYTHONUNBUFFERED",
        "PYTHONHASHSEED",
        "CUDA_VISIBLE_DEVICES",
        "TZ",
        "LANG",
        "MY_PATH",
        "NODE_NAME",
        "NODE_IP",
        "NODE_RANK",
        "ENV",
        "GIT_COMMIT",
        "GIT_SHA",
        "JAVA_HOME",
        "PAGER",
        "NCCL_DEBUG",
    ],
)
def test_other_variables_may_be_given(name: str) -> None:
    assert why_refused(name) is None


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            [{"name": "LD_PRELOAD", "value": "/x.so"}],
            "LD_PRELOAD may not be set for a service on this machine: the system's",
        ),
        ([{"name": "A=B", "value": "1"}], "'A=B' is no name of a variable"),
        ([{"name": "A", "value": "\0"}], "the value of A has a NUL character"),
        (["A=1"], "must be a list of objects"),
        ({"A": "1"}, "must be a list of objects"),
    ],
)
def test_manifest_with_such_a_variable_is_refused(
    env: object, message: str, tmp_path: Path, tiny_model: Path
) -> None:
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "helper"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "storageUri": f"file://{tiny_model}",
                    "env": env,
                }
            }
        },
    }
    with pytest.raises(SettingError, match=message):
        read_manifest(manifest)
