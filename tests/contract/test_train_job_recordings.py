"""What Kubeflow Trainer 2.3 and JobSet 0.12 said over time, replayed against our reading of it and against the fake.

``tests/recorded/train-jobs.json`` has, for each case, what changed and when: the TrainJob's status, its pods, and events at
the end; and refusals.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from kube_trainjobs import FakeTrainJobs

from airflow_provider_llmops.backends.kubernetes.asking import ForbiddenError
from airflow_provider_llmops.backends.trainjobs import watch as watching
from airflow_provider_llmops.backends.trainjobs.watch import TrainJobWatch
from airflow_provider_llmops.exceptions import ConfigurationError, RunFailedError, RunNotFoundError
from airflow_provider_llmops.hooks.trainer import KubeflowTrainerHook

RECORDED = json.loads(
    (Path(__file__).resolve().parents[1] / "recorded" / "train-jobs.json").read_text(encoding="utf-8")
)
CASES: dict[str, list[dict]] = {}
for entry in RECORDED:
    if "seconds" in entry:
        CASES.setdefault(entry["name"], []).append(entry)
REFUSALS = [entry for entry in RECORDED if isinstance(entry.get("answer"), dict)]
POD = re.compile(r"(.+)-node-0-\d-pod\d+")


def name_of(case):
    """The TrainJob's name, as its pods or messages have it."""
    found = POD.match(json.dumps(CASES[case]).partition("-node-0")[0].rpartition('"')[2] + "-node-0-0-pod01")
    return found[1] if found and "-node-0" in json.dumps(CASES[case]) else "quota-jobset-train-000000000000"


class Recorder(FakeTrainJobs):
    """The fake, and everything that its TrainJob's status and each of its pods have been."""

    def __init__(self):
        super().__init__()
        self.statuses = []
        self.pod_states = {}

    def update(self, job, **status):
        super().update(job, **status)
        self.statuses.append(shape_of(job["status"]))

    def put_pod(self, job, document):
        super().put_pod(job, document)
        self.note_pods()

    def note_pods(self):
        for name, pod in self.pods.items():
            append_new(self.pod_states.setdefault(name, []), pod_shape(pod["document"]))


def append_new(sequence, item):
    if not sequence or sequence[-1] != item:
        sequence.append(item)


def shape_of(status):
    """A status without times, and without what the training itself reports."""
    if status is None:
        return None
    conditions = [
        {key: value for key, value in condition.items() if key != "lastTransitionTime"}
        for condition in status.get("conditions", [])
    ]
    return copy.deepcopy({"jobs": status.get("jobsStatus", []), "conditions": conditions})


def pod_shape(pod):
    """A pod's phase, whether it is being deleted, and how its container goes: state, and exits so far."""
    status = pod["status"]
    found = [status["phase"], "deletionTimestamp" in pod["metadata"]]
    for container in status.get("containerStatuses", []):
        ((kind, detail),) = container["state"].items()
        if kind == "waiting":  # the recording's kubelet called the phase of some of them Running
            found[0] = "Pending or Running" if found[0] != "Failed" else "Failed"
        found += [kind, detail.get("exitCode", detail.get("reason")), bool(container["restartCount"])]
    return found


def is_within(part, whole):
    """Whether the items of one sequence come in another in the same order."""
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


@pytest.fixture
def cluster(monkeypatch):
    with Recorder() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", fake.connection(namespace="team"))
        yield fake


class Lines:
    def __init__(self):
        self.all = []

    def info(self, text, *values):
        self.all.append(text % values)

    warning = info


@pytest.fixture
def replay(cluster, monkeypatch):
    """Watch a recorded case, looking at each change when it happened."""

    def run(case):
        entries, name = CASES[case], name_of(case)
        job = cluster.add(name, nodes=2 if "two" in case else 1)
        for event in itertools.chain.from_iterable(entry.get("events", []) for entry in entries):
            if event["type"] == "Warning":
                about = {"kind": event["about"], "name": event.get("of")}
                cluster.warn(job, event["message"], reason=event["reason"], **about)
        for entry in entries:
            for pod in entry["pods"]:
                cluster.logs |= {(pod["metadata"]["name"], previous): "its log" for previous in (True, False)}
        lines, clock = Lines(), SimpleNamespace(monotonic=lambda: 0.0, time=lambda: 0.0)
        monkeypatch.setattr(watching, "time", clock)
        watch = TrainJobWatch(KubeflowTrainerHook().backend, "team", name, lines)
        states = []
        for entry in entries:
            clock.monotonic = lambda now=entry["seconds"]: now
            cluster.pods.clear()
            for pod in entry["pods"]:
                cluster.put_pod(job, pod)
            job["status"] = entry["trainjob_status"]
            job["metadata"]["deletionTimestamp"] = entry["trainjob"].get("deletionTimestamp")
            cluster.jobs = {("team", name): job} if entry["trainjob"]["exists"] else {}
            try:
                append_new(states, str(watch.look().state))
            except RunNotFoundError:
                append_new(states, "gone")
        shown = [line.replace(f"{name}-", "").replace(f"team/{name}", "j") for line in lines.all]
        return states, (watch.trouble or "").replace(f"{name}-", "").replace(name, "j"), watch, shown

    return run


PENDING, RUNNING, PAUSED, CANCELING = "PENDING", "RUNNING", "PAUSED", "CANCELING"
NO_START = [PENDING, "FAILED", "gone"]
EXIT = "ended with exit code 1 (pod {})"
NOT_AVAILABLE = "Unschedulable: 0/1 nodes are available: {} (pod node-0-0-pod01)"
MISSING = 'CreateContainerConfigError: {} not found (pod node-0-0-pod01)'  # fmt: skip
NOT_MADE = "{} (Job node-0: FailedCreate)"
READ = {
    "one node, succeeds": ([PENDING, RUNNING, "SUCCEEDED", "gone"], ""),
    "two nodes, succeed": ([PENDING, RUNNING, "gone"], ""),
    "two nodes, two processes each, progress reported": ([PENDING, RUNNING, "gone"], ""),
    "one node, progress reported": (["gone", PENDING, RUNNING, "SUCCEEDED", "gone"], ""),
    "wrong training arguments, final error, deleted in the foreground while its container restarts": (
        [PENDING, RUNNING, CANCELING, "gone"],
        "SettingError: Unknown training_args: 'no_such_thing'. Valid names: (...) (exit code 1) (pod node-0-0-pod01)",
    ),
    "bad data, final error, two nodes, deleted in the foreground": (
        [PENDING, CANCELING, "gone"],
        "DataError: Dataset /mnt/data/bad.jsonl: No row has the fields of a known format; fields seen: nonsense. A row needs, "
        "for example, prompt and completion; prompt, chosen and rejected; messages; text; or prompt, reference and contexts "
        "(exit code 1) (pod node-0-1-pod02)",
    ),
    "image that does not exist": (
        NO_START,
        'ErrImagePull: failed to pull and unpack image "nosuch/image:1": not found (pod node-0-0-pod01)',
    ),
    "16 GPUs where there are 8": (NO_START, NOT_AVAILABLE.format("1 Insufficient nvidia.com/gpu")),
    "claim that does not exist": (NO_START, NOT_AVAILABLE.format('persistentvolumeclaim "nope" not found')),
    "secret that does not exist": (NO_START, MISSING.format('secret "hub"')),
    "config map volume that does not exist": (NO_START, MISSING.format('configmap "nocm"')),
    "node selector that no node has": (
        NO_START,
        NOT_AVAILABLE.format("1 node(s) didn't match Pod's node affinity/selector"),
    ),
    "exit code 1, restartPolicy OnFailure as JobSet sets it": (
        [PENDING, RUNNING, "FAILED", "gone"],
        EXIT.format("node-0-0-pod01"),
    ),
    "exit code 1, restartPolicy Never, backoffLimit 6": (
        [PENDING, RUNNING, "gone"],
        EXIT.format("node-0-0-pod01"),
    ),
    "exit code 1, restartPolicy Never, backoffLimit 0": (
        [PENDING, RUNNING, "FAILED", "gone"],
        EXIT.format("node-0-0-pod01"),
    ),
    "training process killed, then the container (SIGKILL)": (
        [PENDING, RUNNING, CANCELING, "gone"],
        EXIT.format("node-0-0-pod01"),
    ),
    "one node of two killed, goes on in place": ([PENDING, RUNNING, "gone"], ""),
    "one node of two exits with 1": ([PENDING, RUNNING, "FAILED", "gone"], EXIT.format("node-0-1-pod02")),
    "deleted by somebody else, in the background": ([PENDING, "gone"], ""),
    "deleted in the foreground: JobSet made again": ([PENDING, RUNNING, CANCELING, "gone"], ""),
    "deleted in the foreground, two nodes: JobSet made again and again": ([PENDING, CANCELING, "gone"], ""),
    "deleted in the foreground while suspended": ([PENDING, PAUSED, CANCELING, "gone"], ""),
    "suspended and resumed": ([PENDING, PAUSED, PENDING, "SUCCEEDED", "gone"], ""),
    "activeDeadlineSeconds reached": ([PENDING, RUNNING, "FAILED", "gone"], ""),
    "suspended and resumed, deadline not reached": ([PENDING, PAUSED, PENDING, "SUCCEEDED", "gone"], ""),
    "quota on pods": (
        NO_START,
        NOT_MADE.format("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
    ),
    "one of three jobs beside the node has no pod, quota on pods": (
        [PENDING, RUNNING],
        "exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3 (Job data-2: FailedCreate)",
    ),
    "quota that wants a memory limit": (
        NO_START,
        NOT_MADE.format("failed quota: q: must specify limits.memory for: node"),
    ),
    "quota on jobsets": (
        NO_START,
        "exceeded quota: q, requested: count/jobsets.jobset.x-k8s.io=1, used: count/jobsets.jobset.x-k8s.io=0, limited: "
        "count/jobsets.jobset.x-k8s.io=0 (TrainJob j: TrainJobResourcesCreationFailed)",
    ),
    "quota on jobs": (
        NO_START,
        "exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=0, limited: count/jobs.batch=0 (JobSet j: "
        "JobCreationFailed)",
    ),
    "LimitRange": (
        NO_START,
        NOT_MADE.format(
            'must be less than or equal to memory limit of 64Mi (spec.containers[0].resources.requests is "128Mi")'
        ),
    ),
    "pod security restricted": (
        NO_START,
        NOT_MADE.format(
            'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "node" must set '
            'securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "node" must set '
            "securityContext.capa"
        ),
    ),
    "one node of two killed with checkpoints: goes on in place from the last one": (
        [PENDING, RUNNING, "SUCCEEDED"],
        "",
    ),
    "all settings, two nodes": ([PENDING, RUNNING, "gone"], ""),
}


def test_every_recorded_case_is_read():
    assert READ.keys() == CASES.keys()


@pytest.mark.parametrize("case", READ)
def test_recorded_case_is_read_as_what_it_was(replay, case):
    states, trouble, watch, _ = replay(case)
    assert (states, trouble) == READ[case]
    assert bool(watch.final_error) == ("final error" in case)


def test_log_lines_of_a_quota_are_few(replay):
    assert replay("quota on pods")[3] == [
        "TrainJob j is PENDING",
        "TrainJob j is PENDING (exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0 (Job node-0: FailedCreate))",
        "Job node: none active",
        "TrainJob j is FAILED (DeadlineExceeded: TrainJob exceeded its active deadline)",
    ]


def test_log_lines_of_a_node_that_fails_begin_with_the_one_that_failed_first(replay):
    lines = replay("one node of two killed with checkpoints: goes on in place from the last one")[3]
    lost = "Connection closed by peer"
    assert [line if lost not in line else lost for line in lines if "SUCCEEDED" not in line] == [
        "TrainJob j is PENDING",
        "Job node: none active",
        "TrainJob j is RUNNING",
        "Job node: 1 active",
        "Pod node-0-1-pod02: UnavailableError: Training process 1 was killed by SIGKILL without a message. That is often the "
        "kernel, out of memory. Its output is above; run it again to go on from the last checkpoint (exit code 1)",
        "Last lines of pod node-0-1-pod02:",
        "  its log",
        lost,
        "Last lines of pod node-0-0-pod01:",
        "  its log",
        "Job node: 1 active, 1 ready",
        "Job node: 1 succeeded",
    ]


def waits(block):
    def script(fake, job, pod):
        fake.accept(job)
        fake.begin(job)
        fake.make_pod(job, pod)
        block(fake, job, pod)
        fake.pods_end_at_once = False
        fake.exceed_deadline(job)
        fake.note_pods()
        fake.stop_pods()
        fake.note_pods()

    return script


def blocked(reason, message):
    def block(fake, job, pod):
        fake.block_pod(job, pod, "PodInitializing", "")
        fake.block_pod(job, pod, reason, message)

    return waits(block)


def held(message):
    return waits(lambda fake, job, pod: fake.hold_pod(job, pod, f"0/1 nodes are available: {message}."))


def starts(fake, job, pod):
    fake.accept(job)
    fake.make_pod(job, pod)
    fake.begin(job)
    fake.start_pod(job, pod)
    fake.run(job)


def succeeds(fake, job, pod):
    starts(fake, job, pod)
    fake.end_pod(job, pod, code=0, reason="Completed")
    fake.complete(job)


def fails(restarted):
    def script(fake, job, pod):
        starts(fake, job, pod)
        fake.begin(job)
        for _ in range(2):
            fake.end_pod(job, pod, code=1, restarted=restarted)
            if restarted:
                fake.start_pod(job, pod)
        if restarted:
            fake.end_pod(job, pod, code=1, restarted=True)
        fake.fail(job)
        fake.pods_end_at_once = False
        fake.delete_pods(job)
        fake.note_pods()
        fake.stop_pods()
        fake.note_pods()

    return script


def deleted(policy, times=1):
    def script(fake, job, pod):
        starts(fake, job, pod)
        delete(fake, job, policy)
        for _ in range(times - 1):
            fake.collect_garbage(job)

    return script


def delete(fake, job, policy):
    fake.pods_end_at_once = False
    objects = KubeflowTrainerHook().backend._objects
    place = ("trainer.kubeflow.org", "v1alpha1", "team", "trainjobs", job["metadata"]["name"])
    objects.delete_namespaced_custom_object(*place, propagation_policy=policy)
    fake.note_pods()
    fake.stop_pods()
    fake.note_pods()


def suspended_and_deleted(fake, job, pod):
    fake.suspend(job)
    fake.accept(job)
    delete(fake, job, "Foreground")
    fake.collect_garbage(job)


def suspended_and_resumed(fake, job, pod):
    starts(fake, job, pod)
    fake.pods_end_at_once = False
    fake.suspend(job)
    fake.note_pods()
    fake.resume(job)
    fake.begin(job)
    fake.stop_pods()
    fake.note_pods()
    fake.run(job)
    fake.complete(job)
    fake.update(job, jobsStatus=[{**job["status"]["jobsStatus"][0], "succeeded": 0, "suspended": 1}])


def over_time(fake, job, pod):
    starts(fake, job, pod)
    fake.pods_end_at_once = False
    fake.exceed_deadline(job)
    fake.note_pods()
    fake.stop_pods()
    fake.note_pods()


def makes_no_pod(fake, job, pod):
    fake.accept(job)
    fake.exceed_deadline(job)


GONE_ON = "one node of two killed with checkpoints: goes on in place from the last one"
# The same situations, driven in the fake.
DRIVEN = {
    "one node, succeeds": succeeds,
    "two nodes, succeed": succeeds,
    "one node, progress reported": succeeds,
    "all settings, two nodes": succeeds,
    "image that does not exist": blocked(
        "ErrImagePull", 'failed to pull and unpack image "nosuch/image:1": not found'
    ),
    "16 GPUs where there are 8": held("1 Insufficient nvidia.com/gpu"),
    "claim that does not exist": held('persistentvolumeclaim "nope" not found'),
    "secret that does not exist": blocked("CreateContainerConfigError", 'secret "hub" not found'),
    "config map volume that does not exist": blocked(
        "CreateContainerConfigError", 'configmap "nocm" not found'
    ),
    "node selector that no node has": held("1 node(s) didn't match Pod's node affinity/selector"),
    "exit code 1, restartPolicy OnFailure as JobSet sets it": fails(restarted=True),
    "one node of two exits with 1": fails(restarted=True),
    "exit code 1, restartPolicy Never, backoffLimit 6": fails(restarted=False),
    "exit code 1, restartPolicy Never, backoffLimit 0": fails(restarted=False),
    GONE_ON: succeeds,
    "deleted by somebody else, in the background": deleted("Background"),
    "deleted in the foreground: JobSet made again": deleted("Foreground"),
    "deleted in the foreground, two nodes: JobSet made again and again": deleted("Foreground", times=12),
    "deleted in the foreground while suspended": suspended_and_deleted,
    "suspended and resumed": suspended_and_resumed,
    "suspended and resumed, deadline not reached": suspended_and_resumed,
    "activeDeadlineSeconds reached": over_time,
    "quota on pods": makes_no_pod,
    "quota that wants a memory limit": makes_no_pod,
    "LimitRange": makes_no_pod,
    "pod security restricted": makes_no_pod,
    "quota on jobs": lambda fake, job, pod: fake.exceed_deadline(job),
    "quota on jobsets": lambda fake, job, pod: fake.exceed_deadline(job),
}


@pytest.mark.parametrize("case", DRIVEN)
def test_fake_goes_the_way_that_was_recorded(cluster, case):
    job = cluster.add(name_of(case))
    cluster.statuses.append(shape_of(job.get("status")))
    DRIVEN[case](cluster, job, "p-0")
    recorded = []
    for entry in CASES[case]:
        if entry["trainjob"]["exists"]:
            append_new(recorded, shape_of(entry["trainjob_status"]))
    assert is_within(recorded, cluster.statuses), recorded


@pytest.mark.parametrize(
    "case", [case for case in DRIVEN if case not in (GONE_ON, "one node of two exits with 1")]
)
def test_pods_of_the_fake_go_the_way_that_was_recorded(cluster, case):
    recorded = []
    for entry in CASES[case]:
        for pod in entry["pods"]:
            if pod["metadata"]["name"].endswith("0-0-pod01") and entry["trainjob"]["exists"]:
                append_new(recorded, pod_shape(pod))
    DRIVEN[case](cluster, cluster.add(name_of(case)), "p-0")
    assert is_within(recorded, cluster.pod_states.get("p-0", [])), (recorded, cluster.pod_states)


@pytest.mark.parametrize("case", ["deleted in the foreground: JobSet made again", "deleted in the foreground, two nodes: JobSet made again and again"])  # fmt: skip
def test_job_set_is_made_again_as_often_as_recorded(cluster, case):
    job = cluster.add(name_of(case))
    DRIVEN[case](cluster, job, "p-0")
    assert cluster.job_sets[name_of(case)] == CASES[case][-1]["trainjob"]["jobsets_made"]


REASONS = {
    "unknown runtime": (
        ConfigurationError,
        'ClusterTrainingRuntime.trainer.kubeflow.org "nosuch" not found: specified clusterTrainingRuntime must be created',
    ),
    "unknown kind of runtime": (ConfigurationError, "unsupported runtime: Nonsense.trainer.kubeflow.org."),
    "namespace does not exist": (ConfigurationError, 'namespaces "lab-train-none" not found.'),
    "quota on trainjobs": (
        RunFailedError,
        "exceeded quota: q, requested: count/trainjobs.trainer.kubeflow.org=1, used: ",
    ),
    "may not create": (
        ForbiddenError,
        'User "system:serviceaccount:lab-train:none" cannot create resource "trainjobs" in API group',
    ),
    "reserved variable": (
        ConfigurationError,
        'must not have reserved envs, invalid envs configured: [PET_NNODES] (spec.trainer.env is [{"name":"PET_NNODES"',
    ),
    "name too long": (ConfigurationError, "metadata.name must be no more than 63 characters."),
    "bad quantity": (ConfigurationError, "quantities must match the regular expression "),
    "deadline of zero": (
        ConfigurationError,
        "spec.activeDeadlineSeconds in body should be greater than or equal to 1 (",
    ),
}


def manifest(name="refused-000000000000", kind="ClusterTrainingRuntime", runtime="torch-distributed", **spec):
    """As much of a TrainJob as admission looks at."""
    metadata = {"name": name, "namespace": "team", "labels": {"llmops/token": "t"}}
    reference = {"apiGroup": "trainer.kubeflow.org", "kind": kind, "name": runtime}
    return {"metadata": metadata, "spec": {"runtimeRef": reference, **spec}}


@pytest.mark.parametrize("refusal", REFUSALS, ids=[refusal["name"] for refusal in REFUSALS])
def test_recorded_refusal_is_told_with_its_reason_first(cluster, refusal):
    cluster.faults = lambda method, path: (refusal["code"], refusal["answer"])
    kind, reason = REASONS[refusal["name"]]
    with pytest.raises(kind) as caught:
        KubeflowTrainerHook().backend.create(manifest())
    assert type(caught.value) is kind
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("unknown runtime", manifest(runtime="nosuch")),
        ("unknown kind of runtime", manifest(kind="Nonsense")),
        ("name too long", manifest(name="a" * 64)),
        ("deadline of zero", manifest(activeDeadlineSeconds=0)),
        (
            "reserved variable",
            manifest(trainer={"env": [{"name": "PET_NNODES", "value": "3"}, {"name": "LLMOPS_REQUEST", "value": "xxx…"}]}),
        ),
    ],
)  # fmt: skip
def test_fake_refuses_what_was_refused_in_the_same_words(cluster, name, refused):
    (recorded,) = [refusal for refusal in REFUSALS if refusal["name"] == name]
    code, answer = cluster._create("team", refused)
    expected = recorded["answer"]
    assert (code, answer["reason"], answer["message"].replace(refused["metadata"]["name"], "NAME")) == (
        recorded["code"],
        expected["reason"],
        expected["message"].replace(expected.get("details", {}).get("name", "-"), "NAME"),
    )


@pytest.mark.parametrize("name", [entry["name"] for entry in RECORDED if entry.get("code") == 201])
def test_fake_accepts_what_was_accepted(cluster, name):
    assert cluster._create("team", manifest(trainer={"numNodes": 0}))[0] == 201
