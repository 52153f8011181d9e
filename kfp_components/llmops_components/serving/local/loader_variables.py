"""Variables that choose code: nobody who may describe a service may have its process load something by them."""

from __future__ import annotations

import re

_HARMLESS = {
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONFAULTHANDLER",
    "PYTHONHASHSEED",
    "PYTHONIOENCODING",
    "PYTHONMALLOC",
    "PYTHONUNBUFFERED",
    "PYTHONUTF8",
}
_REASONS = {
    r"(LD|DYLD)_.*|GCONV_PATH|GLIBC_TUNABLES|NLSPATH": "the system's loader takes libraries from it",
    r"PYTHON.*|MPLBACKEND|VLLM_PLUGINS|RAY_RUNTIME_ENV_HOOK": "Python takes modules or code from it",
    r"HOME|HF_MODULES_CACHE|NUMBA_CACHE_DIR": "Python takes modules or code from the directory",
    r"PATH|BASH_ENV|IFS|SHELLOPTS|BASHOPTS|PS4|PROMPT_COMMAND|BASH_FUNC_.*": "it chooses the programs that are started",
    r"CC|CXX|CUDA_HOME|CUDA_PATH": "compilers of kernels are started from it",
    r"GIT_(SSH.*|EXEC_PATH|CONFIG.*|PROXY_COMMAND|.*EDITOR|ASKPASS|PAGER|EXTERNAL_DIFF|TEMPLATE_DIR)": "Git starts what it names",
    r"SSH_ASKPASS|EDITOR|VISUAL|BROWSER": "other programs start what it names",
    r"OPENSSL_(CONF|ENGINES|MODULES)": "OpenSSL takes libraries from it",
    r"(CUDA|NVIDIA)_INJECTION.*|TORCHINDUCTOR_.*|TRITON_.*|TORCH_EXTENSIONS_DIR": "libraries for GPUs take or make code there",
    r"NCCL_.*PLUGIN.*|OMP_TOOL_LIBRARIES": "libraries for GPUs and threads load what it names",
    r"PERL5.*|RUBY(OPT|LIB)|NODE_(OPTIONS|PATH|EXTRA_CA_CERTS)": "another language takes code from it",
    r"(_JAVA|JAVA_TOOL|JDK_JAVA)_OPTIONS": "another language takes code from it",
    r"LLMOPS_.*": "it belongs to the program that starts the process",
}


def why_refused(name: str) -> str | None:
    """Why a variable may not be given, or None if it may.

    Args:
        name: Name of the variable.
    """
    if name in _HARMLESS:
        return None
    return next(
        (why for pattern, why in _REASONS.items() if re.fullmatch(pattern, name, re.IGNORECASE)), None
    )
