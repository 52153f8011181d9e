"""Training data as JSON Lines, Parquet and from the hub, whole or streamed: the same rows, checked in the same way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from llmops_components.data.sources import open_source
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import DataError, SettingError, UnavailableError
from llmops_components.training.methods.dpo import train_dpo
from llmops_components.training.methods.kto import train_kto, unpair
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from tiny_model import colour_rows, preference_rows, write_rows

EXACT = {"bf16": False, "logging_steps": 1, "learning_rate": 5e-3, "max_steps": 4}
FLOAT32 = {"dtype": "float32"}


def write_parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def losses(model: Path) -> list[float]:
    return [
        entry["loss"] for entry in json.loads((model / "training_log.json").read_text()) if "loss" in entry
    ]


def tools_in_some_rows() -> list[dict]:
    call = {"type": "function", "function": {"name": "look", "arguments": {"thing": "sky"}}}
    rows = colour_rows(4)
    rows[1]["completion"] = [{"role": "assistant", "content": "I look.", "tool_calls": [call]}]
    return rows


@pytest.mark.parametrize(
    "rows", [colour_rows(8), preference_rows(8), tools_in_some_rows(), [{"text": "a b"}]]
)
def test_parquet_holds_the_same_rows_as_json_lines(tmp_path, rows):
    lines = read_valid_rows(write_rows(tmp_path / "lines", rows))
    assert read_valid_rows(write_parquet(tmp_path / "parquet", rows)) == lines
    assert lines[0] == rows


def test_training_on_parquet_is_the_same(tiny_model, tmp_path):
    for name, write in (("lines", write_rows), ("parquet", write_parquet)):
        data = write(tmp_path / f"{name}.data", colour_rows(16))
        train_sft(
            data,
            tiny_model,
            tmp_path / name,
            tmp_path / f"{name}-adapter",
            training_args=EXACT,
            model_args=FLOAT32,
        )
    assert len(losses(tmp_path / "lines")) == 4
    assert losses(tmp_path / "parquet") == losses(tmp_path / "lines")


def test_row_of_parquet_is_named(tmp_path):
    rows = colour_rows(3)
    rows[1]["completion"] = None
    with pytest.raises(
        DataError, match=r"line 2: completion is missing.* as prompt_completion \(conversational\)"
    ):
        read_valid_rows(write_parquet(tmp_path / "data", rows))


def test_broken_parquet_is_an_error(tmp_path):
    path = write_parquet(tmp_path / "data", colour_rows(3))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        read_valid_rows(path)


def test_fields_that_arrow_adds_to_messages_do_not_reach_the_template(tmp_path):
    rows = tools_in_some_rows()
    dataset = open_source(write_rows(tmp_path / "rows", rows), ("prompt_completion",)).dataset()
    assert [dataset[i] for i in range(4)] == rows


@pytest.mark.parametrize("train", [train_sft, train_dpo, train_kto, train_reward])
def test_rows_of_which_some_call_tools_are_trained_on(tiny_model, tmp_path, train):
    rows = tools_in_some_rows()
    if train is not train_sft:
        rows = [
            {
                "prompt": row["prompt"],
                "chosen": row["completion"],
                "rejected": [{"role": "assistant", "content": "No."}],
            }
            for row in rows
        ]
    data = write_rows(tmp_path / "rows", rows)
    report = train(data, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)
    assert report.metrics["steps"] == 4


def test_template_arguments_of_some_rows_do_not_reach_the_others(tiny_model, tmp_path):
    rows = colour_rows(4)
    rows[2]["chat_template_kwargs"] = {"enable_thinking": False}
    data = write_rows(tmp_path / "rows", rows)
    dataset = open_source(data, ("prompt_completion",)).dataset()
    assert [row["chat_template_kwargs"] for row in dataset] == [{}, {}, {"enable_thinking": False}, {}]
    report = train_sft(data, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=EXACT)
    assert report.metrics["steps"] == 4


def test_column_of_several_types_is_named(tmp_path):
    rows = [{**row, "id": i if i % 2 else str(i)} for i, row in enumerate(colour_rows(4))]
    source = open_source(write_rows(tmp_path / "rows", rows), ("prompt_completion",))
    with pytest.raises(DataError, match="A column has a type that differs from row to row"):
        source.dataset()
    assert source.dataset(("prompt", "completion")).column_names == ["prompt", "completion"]


def test_pair_becomes_a_good_and_a_bad_row():
    row = preference_rows(1)[0]
    implicit = {key: row["prompt"] + row[key] for key in ("chosen", "rejected")}
    expected = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": True},
        {"prompt": row["prompt"], "completion": row["rejected"], "label": False},
    ]
    assert unpair(row) == expected
    assert unpair(implicit) == expected
    assert unpair(expected[0]) == expected[:1]


@pytest.mark.parametrize("write", [write_rows, write_parquet])
def test_large_dataset_is_streamed(tiny_model, tmp_path, monkeypatch, write):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "100")
    data = write(tmp_path / "rows", colour_rows(32))
    report = train_sft(
        data,
        tiny_model,
        tmp_path / "model",
        tmp_path / "adapter",
        training_args=EXACT | {"max_steps": 12},  # more than one pass
        eval_dataset=data,
    )
    assert report.metrics["steps"] == 12
    assert report.metrics["final_loss"] < report.metrics["first_loss"]
    assert report.metrics["eval_loss"] > 0
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["dataset"].keys() == {"digest", "format"}


def test_streamed_pairs_are_taken_apart_and_mixed(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "100")
    data = write_rows(tmp_path / "rows", preference_rows(32))
    settings = EXACT | {"max_steps": 40, "per_device_train_batch_size": 8}
    report = train_kto(data, tiny_model, tmp_path / "model", tmp_path / "adapter", training_args=settings)
    assert report.metrics["final_margin"] > 0.1


def test_streamed_training_that_was_stopped_goes_on(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "100")
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    data = write_rows(tmp_path / "rows", colour_rows(32))
    settings = {"training_args": EXACT | {"max_steps": 10, "save_steps": 2}, "model_args": FLOAT32}
    train_sft(data, tiny_model, tmp_path / "whole", tmp_path / "a", **settings)
    settings["checkpoints"] = tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        train_sft(data, tiny_model, tmp_path / "model", tmp_path / "b", callbacks=[Stop()], **settings)
    report = train_sft(data, tiny_model, tmp_path / "model", tmp_path / "b", **settings)
    assert report.details["resumed_from"] == "checkpoint-4"
    assert losses(tmp_path / "model") == losses(tmp_path / "whole")


def test_streamed_dataset_needs_its_steps(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "100")
    data = write_rows(tmp_path / "rows", colour_rows(32))
    with pytest.raises(SettingError, match=r"max_steps is needed, because .* is large and streamed"):
        train_sft(data, tiny_model, tmp_path / "m", tmp_path / "a", training_args={"bf16": False})


@pytest.mark.parametrize("at", [3, 1500])
def test_bad_row_of_a_streamed_dataset_is_named(tmp_path, monkeypatch, at):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "100")
    rows = [{"prompt": "a", "completion": "b"} for _ in range(2000)]
    rows[at]["completion"] = ""
    with pytest.raises(
        DataError, match=rf"row {at + 1}: completion is empty.* as prompt_completion \(plain text\)"
    ):
        list(open_source(write_rows(tmp_path / "rows", rows), ("prompt_completion",)).dataset())


class FakeHub:
    """Stands in for the hub's API and the loading from it: one dataset, on disk."""

    def __init__(self, file: Path, size: int | None) -> None:
        self.file, self.size = file, size
        self.asked: list = []

    def dataset_info(self, name: str, revision: str | None = None):
        self.asked.append(("info", name, revision))
        if name != "org/colours":
            from httpx import Request, Response
            from huggingface_hub.errors import RepositoryNotFoundError

            raise RepositoryNotFoundError(
                "404", response=Response(404, request=Request("GET", "https://hub"))
            )
        return type("Info", (), {"sha": "c0ffee"})()

    def load_dataset_builder(self, name, config, *, revision):
        return type("Builder", (), {"info": type("I", (), {"dataset_size": self.size})()})()

    def load_dataset(self, name, config, *, split, revision, streaming):
        import datasets

        self.asked.append((name, config, split, revision, streaming))
        cache = str(self.file.parent / "cache")
        return datasets.Dataset.from_json(str(self.file), cache_dir=cache).to_iterable_dataset()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(write_rows(tmp_path / "hub.jsonl", colour_rows(8)), size=1000)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr("datasets.load_dataset_builder", fake.load_dataset_builder)
    monkeypatch.setattr("datasets.load_dataset", fake.load_dataset)
    return fake


def test_dataset_of_the_hub_is_pinned_to_the_commit_of_its_revision(hub):
    source = open_source("hf://datasets/org/colours@v1.0?config=small&split=test", ("prompt_completion",))
    assert source.rows == colour_rows(8)
    assert source.origin == {
        "source": "hf://datasets/org/colours",
        "revision": "c0ffee",
        "config": "small",
        "split": "test",
        "rows": 8,
        "format": "prompt_completion (conversational)",
    }
    assert hub.asked == [("info", "org/colours", "v1.0"), ("org/colours", "small", "test", "c0ffee", False)]


@pytest.mark.parametrize("size", [None, 1 << 40])
def test_large_dataset_of_the_hub_is_streamed(hub, size):
    hub.size = size
    source = open_source("hf://datasets/org/colours", ("prompt_completion",))
    assert source.rows is None
    assert list(source.dataset()) == colour_rows(8)
    assert hub.asked[-1] == ("org/colours", None, "train", "c0ffee", True)


def test_pictures_of_the_hub_are_refused_by_name(hub, monkeypatch):
    from datasets import Dataset, Features, Image, List, Value

    features = Features({"text": Value("string"), "shots": List(Image())})
    pictures = Dataset.from_dict({"text": ["a"], "shots": [[]]}, features=features)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pictures)
    with pytest.raises(
        DataError, match=r"^Column shots holds pictures, sound or video; only text is taken here"
    ):
        open_source("hf://datasets/org/colours", ("language_modeling",))


def test_rows_of_the_hub_have_types_of_json(hub, monkeypatch):
    import datetime

    from datasets import Dataset

    rows = [{"text": "a", "when": datetime.datetime(2026, 11, 26), "score": float("nan")}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_list(rows))
    assert open_source("hf://datasets/org/colours", ("language_modeling",)).rows == [
        {"text": "a", "when": "2026-11-26T00:00:00"}
    ]
    rows[0]["score"] = float("inf")
    with pytest.raises(DataError, match=r"^Rows cannot be used: row 1 has an infinite number in score"):
        open_source("hf://datasets/org/colours", ("language_modeling",))


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("hf://org/colours", SettingError, "does not name a dataset on the hub"),
        ("hf://datasets/../../etc", SettingError, "does not name a dataset on the hub"),
        ("hf://datasets/org/colours?spilt=test", SettingError, r"'spilt' \(did you mean 'split'\?\)"),
        ("hf://datasets/org/other", DataError, "cannot be read from the hub: RepositoryNotFoundError"),
    ],
)
def test_wrong_address_is_named(hub, uri, error, message):
    with pytest.raises(error, match=message):
        open_source(uri, ("prompt_completion",))


def test_hub_out_of_reach_may_be_tried_again(monkeypatch):
    with pytest.raises(UnavailableError, match="The Hugging Face hub cannot be reached"):
        open_source("hf://datasets/org/colours", ("prompt_completion",))  # HF_HUB_OFFLINE is set


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "none", ("prompt_completion",))
    shutil.rmtree(tmp_path)
