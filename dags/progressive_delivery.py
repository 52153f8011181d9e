"""### Progressive delivery: a registered model version, checked, brought in step by step, or taken back

Takes a version of a registered model, from the form or, where a task has registered one with an asset of `MODEL_NAMES` as its
outlet, that one, unless the registering run delivers it itself, with the form's defaults for all else; looks whether its files are those that were registered, and whether they may be served; starts
it beside the revision that serves, and gives it more of the requests step by step. Between the steps its errors and times are
compared with those of the stable revision, and, with `probe_data`, the answers of both to the same questions. What breaks a limit goes
back at once, and the task says which, with the figures and the worst answers side by side. What keeps to all of them serves, and gets
the alias.

Where steps run is decided by `kubeflow_connection`, where models are registered by `mlflow_connection`. Services run where `kserve_connection`
says; on a cluster its extra has to have `predictor_resources`, and `probe_data` needs `kubeflow_connection` to be Kubeflow Pipelines on the same cluster, from
where each revision can be asked.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, AssetAny, Param
from airflow_provider_llmops.assets import model_asset
from airflow_provider_llmops.groups.progressive_delivery import progressive_delivery_group

MODEL_NAME = "stdlib-helper"
MODEL_NAMES = (MODEL_NAME, "stdlib-helper-sweep")  # whose registrations start the DAG
SERVICE_NAME = "^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$"  # KServe takes longer ones and never deploys them
ALIAS = "^(?!(latest|v[0-9]+)$)[A-Za-z0-9_-]{1,255}$"
METRICS = ["rougeL", "rouge1", "rouge2", "chrf", "exact_match", "string_similarity", "semantic_similarity"]


def connection(name: str, what: str) -> Param:
    """The connection that says where something runs."""
    return Param(
        f"{name}_default",
        type="string",
        minLength=1,
        title=what,
        description=f"Connection of type `{name}`.",
        section="Connections",
    )


params = {
    "model_name": Param(
        MODEL_NAME,
        type="string",
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        title="Registered model",
        description="Name in the model registry.",
    ),
    "version": Param(
        None,
        type=["null", "string"],
        pattern="^[1-9][0-9]{0,8}$",
        title="Version",
        description="Number of the version. Left empty: the one that has the alias below.",
    ),
    "from_alias": Param(
        "candidate",
        type="string",
        pattern=ALIAS,
        title="Alias that is delivered",
        description="Whose version is delivered where no number is given.",
    ),
    "to_alias": Param(
        "production",
        type="string",
        pattern=ALIAS,
        title="Alias of what serves",
        description="Moved to the version when it serves, unless a later run has moved it.",
    ),
    "service": Param(
        None,
        type=["null", "string"],
        pattern=SERVICE_NAME,
        title="Service",
        description="Name of the service. Left empty: the registered model's.",
    ),
    "probe_data": Param(
        None,
        type=["null", "string"],
        pattern="^(/|[a-z][a-z0-9]*://).",
        title="Probe set",
        description="Address of rows with prompt, and the reference to score answers against, which both revisions are asked in each step. "
        "Left empty: answers are not compared, and the service needs users during the canary.",
    ),
    "min_answer_difference": Param(
        -0.02,
        type="number",
        title="Probe set: margin",
        description="Smallest difference to the stable revision's answers that passes, in the metric's own unit: -0.02 lets the new ones be "
        "worse by so much.",
    ),
    "steps": Param(
        [5, 25, 50],
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 99},
        minItems=1,
        maxItems=10,
        uniqueItems=True,
        title="Steps",
        description="Percent of the requests in each step, rising; 100 follows by itself.",
        section="Canary",
    ),
    "step_seconds": Param(
        600,
        type="number",
        minimum=0,
        maximum=86400,
        title="Seconds of a step",
        description="How long a step takes. A breach does not wait for its end.",
        section="Canary",
    ),
    "min_requests": Param(
        50,
        type="integer",
        minimum=1,
        maximum=1000000,
        title="Requests of a step",
        description="Fewest requests by which a step is decided; those of the probe set count.",
        section="Canary",
    ),
    "max_error_rate": Param(
        0.01,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
        title="Share of errors",
        description="Share of its requests that may fail.",
        section="Canary",
    ),
    "max_latency_ratio": Param(
        1.5,
        type=["null", "number"],
        exclusiveMinimum=0,
        title="Latency",
        description="How many times the stable revision's 95th percentile it may take. Left empty: not looked at.",
        section="Canary",
    ),
    "on_undecided": Param(
        "roll_back",
        type="string",
        enum=["roll_back", "go_on"],
        title="Undecided",
        description="What follows a step that cannot be decided.",
        section="Canary",
    ),
    "undecided_seconds": Param(
        1800,
        type="number",
        minimum=0,
        maximum=86400,
        title="Seconds of patience",
        description="How much longer a step waits for enough requests and for the comparison.",
        section="Canary",
    ),
    "probe_metric": Param(
        "rougeL",
        type="string",
        enum=METRICS,
        title="Probe set: metric",
        description="Metric that decides; higher is better.",
        section="Probe set",
    ),
    "max_unscored": Param(
        0,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
        title="Probe set: without a score",
        description="Share of the questions that may be without a score.",
        section="Probe set",
    ),
    "probe_request": Param(
        {"max_tokens": 64, "temperature": 0},
        type="object",
        title="Probe set: request",
        description="Further fields of each question.",
        section="Probe set",
    ),
    "probe_protocol": Param(
        "openai_chat",
        type="string",
        enum=["openai_chat", "openai_completions", "openai"],
        title="Probe set: protocol",
        description="openai_completions for a model without a chat template; openai asks conversations as the first and texts as the second.",
        section="Probe set",
    ),
    "allowed_licenses": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Licences",
        description="Those that may be served, as the hub names them. Left empty: not looked at.",
        section="Checks",
    ),
    "max_parameters": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Most parameters",
        description="Of the model. Left empty: not looked at.",
        section="Checks",
    ),
    "scan": Param(
        True,
        type="boolean",
        title="Scan",
        description="Have modelscan look for code in the files.",
        section="Checks",
    ),
    "signing_connection": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Signature",
        description="Connection of type `model_signing` with the public key of who has to have signed the model; without a signature that holds it is "
        "not served. Left empty: not looked at.",
        section="Checks",
    ),
    "namespace": Param(
        "default",
        type="string",
        pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        title="Namespace",
        description="Namespace of the service.",
        section="Connections",
    ),
    "kserve_connection": connection("kserve", "Where services run"),
    "kubeflow_connection": connection("kubeflow", "Where steps run"),
    "mlflow_connection": connection("mlflow", "Model registry"),
}

with DAG(
    dag_id="progressive_delivery",
    schedule=AssetAny(*map(model_asset, MODEL_NAMES)),
    catchup=False,
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    render_template_as_native_obj=True,
    doc_md=__doc__,
    tags=["llmops", "delivery"],
) as dag:
    progressive_delivery_group(group_id=None, model_names=MODEL_NAMES)
