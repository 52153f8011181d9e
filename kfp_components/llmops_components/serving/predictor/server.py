"""One model behind KServe's own model server, for one machine.

Speaks KServe's V1 and V2 inference protocols (readiness, health and ``/metrics`` included) and, at ``/openai/v1``,
OpenAI's completions API. Argument names are those of KServe's huggingfaceserver and vLLM where they have one.

    python -m llmops_components.serving.predictor --model_name my-model --model_dir /models/my-model --http_port 8080
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from llmops_components.errors import ComponentError, ModelError, SettingError
from llmops_components.quiet import quiet_torchao
from llmops_components.redaction import hide_in
from llmops_components.reporting import words_of
from llmops_components.serving.access.secret import read_secret
from llmops_components.serving.access.settings import FILE_VARIABLE, Access
from llmops_components.serving.detached import logs
from llmops_components.state_files import write_json

GRACE_SECONDS = 30
DEFAULT_CONTEXT_TOKENS = 2048
DTYPES = {
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: Arguments, without the program's name.
    """
    parser = argparse.ArgumentParser(
        "llmops_components.serving.predictor", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model_name", required=True, help="name of the model in requests")
    parser.add_argument(
        "--model_dir", required=True, type=Path, help="directory as save_pretrained() writes it"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; loopback unless told otherwise"
    )
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on; 0 for any free one")
    parser.add_argument("--fd", type=int, help="listen on this inherited, bound socket instead")
    parser.add_argument(
        "--dtype", choices=["auto", *DTYPES], default="auto", help="auto: bfloat16 where it is native"
    )
    parser.add_argument(
        "--engine",
        choices=["auto", "openvino", "torch"],
        default="auto",
        help="what computes; auto: OpenVINO on a CPU for models that it answers like torch, else torch",
    )
    parser.add_argument(
        "--max_model_len", type=int, help="context in tokens; default: the model's, at most 2048"
    )
    parser.add_argument("--max_num_seqs", type=int, default=32, help="prompts answered at the same time")
    parser.add_argument(
        "--max_queue_length", type=int, default=64, help="prompts that may wait; more get a 429"
    )
    parser.add_argument(
        "--max_batch_total_tokens",
        type=int,
        help="tokens of prompts and answers that are held at the same time, padded to the longest; default: what "
        "max_num_seqs prompts of full length take",
    )
    parser.add_argument(
        "--request_timeout_seconds", type=float, default=300, help="longest time for one request"
    )
    parser.add_argument(
        "--allowed_hosts",
        default="",
        help="names that requests may have as Host besides localhost, with commas between them; * for any. Any without "
        "this where --host is not loopback, because a cluster's router chooses the name",
    )
    parser.add_argument(
        "--allowed_origins",
        default="",
        help="origins of web pages that may use the service, as a JSON list or with commas between them; * for any",
    )
    parser.add_argument(
        "--access_file",
        type=Path,
        default=os.environ.get(FILE_VARIABLE),
        help="who may ask: keys, quotas, TLS certificate; see llmops_components.serving.access. Without one VLLM_API_KEY is the key",
    )
    parser.add_argument(
        "--audit_directory", type=Path, help="where requests are noted; default: the access file's"
    )
    parser.add_argument(
        "--gateway_secret_file",
        type=Path,
        help="answer only the gateway that has this secret; it asks for the keys",
    )
    parser.add_argument("--state_file", type=Path, help="where to say READY or FAILED, as JSON")
    parser.add_argument("--log_file", type=Path, help="the file that output goes to, to be rotated")
    return parser.parse_args(argv)


def load(args: argparse.Namespace) -> tuple[Any, Any, int]:
    """Load the model.

    Args:
        args: Command line.

    Returns:
        Model, tokenizer and context length in tokens.
    """
    import torch
    from kserve.utils.utils import cpu_count

    from llmops_components.models.directory import check_model_directory
    from llmops_components.models.loading import load_model
    from llmops_components.models.precision import serving

    check_model_directory(args.model_dir)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(
            min(torch.get_num_threads(), cpu_count())
        )  # torch does not see a container's CPU limit
    dtype = serving() if args.dtype == "auto" else DTYPES[args.dtype]
    started = time.monotonic()
    model, tokenizer = load_model(args.model_dir, dtype=dtype, compressed=True)
    if not tokenizer.is_fast:
        raise ModelError(f"The tokenizer at {args.model_dir} is not of the fast kind, which streaming needs.")
    model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    longest = (
        getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT_TOKENS
    )
    context = args.max_model_len or min(longest, DEFAULT_CONTEXT_TOKENS)
    if context > longest:
        raise SettingError(
            f"--max_model_len {context} is more than the {longest} tokens that the model was made for."
        )
    if args.max_batch_total_tokens is not None and args.max_batch_total_tokens < context:
        raise SettingError(
            f"--max_batch_total_tokens {args.max_batch_total_tokens} is less than the {context} tokens of one prompt with its "
            "answer: raise it, or lower --max_model_len."
        )
    logging.getLogger(__name__).info(
        "Loaded %s in %.1f s: %s, %d threads, context %d tokens",
        args.model_dir,
        time.monotonic() - started,
        dtype,
        torch.get_num_threads(),
        context,
    )
    return model, tokenizer, context


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet.

    Args:
        host: Address.
        port: Port, 0 for any free one.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        raise SettingError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --http_port."
        ) from error
    return sock


def serve(args: argparse.Namespace) -> None:
    """Load the model and answer until SIGTERM.

    Args:
        args: Command line.
    """
    sock = socket.socket(fileno=args.fd) if args.fd is not None else bind(args.host, args.http_port)
    sock.set_inheritable(False)
    access = Access(args.access_file) if args.gateway_secret_file is None else None
    tls = access.settings().tls if access else None
    host, port = sock.getsockname()[:2]
    url = f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
    policy = _policy(args, host)
    model, tokenizer, context = load(args)

    import torch
    from kserve import logging as kserve_logging
    from kserve.model_server import app

    from llmops_components.serving.access.admission import Admission
    from llmops_components.serving.access.asgi import USAGE_PATH, AccessControl, AuditTrail, GatewayOnly
    from llmops_components.serving.http.bodies import Bodies
    from llmops_components.serving.http.connections import raise_file_limit
    from llmops_components.serving.http.door import METRICS_PATH, ROUTES, Door
    from llmops_components.serving.predictor.batching import Batcher
    from llmops_components.serving.predictor.choosing import choose_engine
    from llmops_components.serving.predictor.counting import Counted
    from llmops_components.serving.predictor.encoding import PromptEncoder
    from llmops_components.serving.predictor.grammars import Grammars
    from llmops_components.serving.predictor.leaving import ClientWatch
    from llmops_components.serving.predictor.model import (
        LanguageModel,
        Server,
        refuse_in_own_form,
        routes_of_names_with_slashes,
    )
    from llmops_components.serving.predictor.openai import openai_router

    kserve_logging.configure_logging()
    for name in (
        "uvicorn.access",
        "kserve.trace",
    ):  # a log must not grow with every request of a long-lived service
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(is_no_refusal)
    raise_file_limit()
    engine = choose_engine(model, args.engine)
    if not engine.computes_with_torch:
        torch.set_num_threads(1)  # they choose tokens only, and would wait where OpenVINO's threads compute
    batcher = Batcher(
        model,
        tokenizer,
        max_batch_size=args.max_num_seqs,
        max_queue_length=args.max_queue_length,
        max_model_len=context,
        max_batch_total_tokens=args.max_batch_total_tokens,
        request_timeout_seconds=args.request_timeout_seconds,
        engine=engine,
    )
    batcher.start()
    encoder = PromptEncoder(tokenizer, batcher)
    grammars = Grammars(tokenizer, batcher.end_tokens, batcher.vocabulary)
    app.include_router(openai_router(args.model_name, tokenizer, batcher, encoder, grammars))
    refuse_in_own_form(app)

    def ready() -> None:
        say(args, "READY", url=url)
        print(f"Serving {args.model_name} at {url}/openai/v1", flush=True)

    served = LanguageModel(args.model_name, batcher, encoder)

    admission = None
    if access is not None:
        admission = Admission(
            access, directory=args.audit_directory, service=args.model_name, also_open=(METRICS_PATH,)
        )

    def guarded(app: Any) -> Any:
        app = Counted(Bodies(ClientWatch(app)))
        routes = (*ROUTES, ("GET", METRICS_PATH))
        if admission is None:
            app = GatewayOnly(app, read_secret(args.gateway_secret_file))
            routes = (*routes, ("GET", f"{USAGE_PATH}[0-9a-f]+"))
            return Door(app, policy=lambda: policy, routes=routes)
        app = Door(AccessControl(app, admission), policy=lambda: policy, routes=routes)
        return AuditTrail(app, admission)

    server = Server(
        sock,
        guarded=guarded,
        warm_up=served.warm_up,
        on_ready=ready,
        grace_period=GRACE_SECONDS,
        tls=tls,
        refused=None if admission is None else admission.note_refused,
    )
    if "/" in args.model_name:
        app.include_router(routes_of_names_with_slashes(server))
    server.start([served])


def is_no_refusal(record: logging.LogRecord) -> bool:
    """Filter of KServe's logger, whose handlers write the whole stack for each request that is refused.

    The door writes one line for it, and Uvicorn writes the stack of what fails.

    Args:
        record: What KServe would write.
    """
    return not (record.exc_info and record.funcName.endswith("_handler"))


def _policy(args: argparse.Namespace, listens_on: str) -> Any:
    from llmops_components.serving.http.door import policy_of

    try:
        return policy_of(args.allowed_hosts, args.allowed_origins, listens_on)
    except ValueError as error:
        raise SettingError(
            f"{error}. It stands in --allowed_hosts or --allowed_origins, which take a JSON list, or names with commas between them."
        ) from None


def say(args: argparse.Namespace, state: str, **more: Any) -> None:
    """Write the state file, if there is one.

    Args:
        args: Command line.
        state: READY, FAILED or STOPPED.
        more: Further facts.
    """
    if args.state_file:
        write_json(args.state_file, {"state": state, **more})


def main() -> int:
    """Run the predictor.

    Returns:
        Exit status.
    """
    args = parse_arguments()
    logs.configure(args.log_file)
    logging.getLogger(__package__).setLevel(logging.INFO)  # what it loads, and what computes
    quiet_torchao()
    try:
        serve(args)
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        hide_in(error)
        text = words_of(error)
        if not isinstance(error, ComponentError):
            traceback.print_exc()
        print(f"The predictor failed: {text}", file=sys.stderr, flush=True)
        say(args, "FAILED", error=text)
        return 1
    say(args, "STOPPED")
    return 0
