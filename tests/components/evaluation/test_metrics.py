"""Metrics against values worked out by hand or by the reference libraries."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import numpy as np
import pytest
from llmops_components.errors import ModelError, SettingError
from llmops_components.evaluation.metrics import plan as planning
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.metrics.scoring import score_answers
from llmops_components.evaluation.statistics import Scores
from llmops_components.models import embeddings

ANSWERS = ["the cat on mat", "Return the sum of all numbers.", "", "kitten", "It is red, I think"]
REFERENCES = ["the cat sat on the mat", "Return the sum of all numbers.", "nothing", "sitting", "red"]


def scores_of(*names: str, answers=ANSWERS, references=REFERENCES, **kwargs) -> dict[str, Scores]:
    return score_answers(plan_metrics(names, **kwargs), answers, references)


@pytest.fixture(scope="module")
def embedding_model(tmp_path_factory) -> Path:
    """A small random BERT in the layout of sentence-transformers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = sorted({word for text in [*ANSWERS, *REFERENCES] for word in text.split()})
    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                initializer_range=0.5,
            )
        )
    directory = tmp_path_factory.mktemp("embedding-model")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    pooling = directory / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text(
        '{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}'
    )
    return directory


def test_rouge_is_what_a_hand_computes():
    scores = scores_of("rougeL", "rouge1", "rouge2")
    # Sample 1: 4 of 4 and 4 of 6 words; of the pairs only "the cat", 1 of 3 and 1 of 5.
    assert scores["rougeL"].values[:3] == pytest.approx([0.8, 1.0, 0.0])
    assert scores["rouge1"].values[:3] == pytest.approx([0.8, 1.0, 0.0])
    assert scores["rouge2"].values[:3] == pytest.approx([0.25, 1.0, 0.0])
    assert scores["rougeL"].aggregate == pytest.approx(scores["rougeL"].values.mean())


def test_rouge_is_that_of_ragas():
    from ragas.metrics.collections import RougeScore

    expected = [
        RougeScore().score(reference=reference, response=answer).value
        for answer, reference in zip(ANSWERS, REFERENCES, strict=True)
    ]
    assert scores_of("rougeL")["rougeL"].values == pytest.approx(expected)


def test_rouge_compares_stems():
    assert (
        scores_of("rougeL", answers=["numbers returned"], references=["number returns"])["rougeL"].aggregate
        == 1
    )


@pytest.mark.parametrize("part", [slice(None), slice(2, None)], ids=["common 4-grams", "no common 4-grams"])
def test_bleu_is_sacrebleus_for_samples_and_corpus(part):
    import sacrebleu

    answers = [*ANSWERS, "red", "a red ball lies there"][part]
    references = [*REFERENCES, "red ball", "the red ball is here"][part]
    scores = scores_of("bleu", answers=answers, references=references)["bleu"]
    expected = [sacrebleu.sentence_bleu(a, [r]).score for a, r in zip(answers, references, strict=True)]
    assert scores.values == pytest.approx(expected)
    assert scores.values[-2] > 0
    assert scores.aggregate == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert 0 < scores.aggregate != pytest.approx(scores.values.mean())


def test_chrf_is_sacrebleus():
    import sacrebleu

    expected = [sacrebleu.sentence_chrf(a, [r]).score for a, r in zip(ANSWERS, REFERENCES, strict=True)]
    assert scores_of("chrf")["chrf"].values == pytest.approx(expected)


def test_string_metrics_of_ragas():
    scores = scores_of("exact_match", "string_presence", "string_similarity")
    assert scores["exact_match"].values.tolist() == [0, 1, 0, 0, 0]
    assert scores["string_presence"].values.tolist() == [0, 1, 0, 0, 1]
    # Three edits make kitten into sitting.
    assert scores["string_similarity"].values[[1, 2, 3]] == pytest.approx([1, 0, 1 - 3 / 7])


def test_ragas_runs_where_an_event_loop_already_runs():
    async def notebook() -> list[float]:
        return scores_of("exact_match")["exact_match"].values.tolist()

    assert asyncio.run(notebook()) == [0, 1, 0, 0, 0]


def test_ragas_does_not_report_its_use(monkeypatch):
    monkeypatch.delenv("RAGAS_DO_NOT_TRACK")
    scores_of("exact_match")
    assert os.environ["RAGAS_DO_NOT_TRACK"] == "true"


def test_semantic_similarity_is_the_cosine_of_mean_token_vectors(embedding_model):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedding_model)
    model = AutoModel.from_pretrained(embedding_model).eval()

    def vector(text: str) -> torch.Tensor:
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    expected = [
        torch.cosine_similarity(vector(a or " "), vector(r), dim=0).item()
        for a, r in zip(ANSWERS, REFERENCES, strict=True)
    ]
    values = scores_of("semantic_similarity", embedding_model=str(embedding_model))[
        "semantic_similarity"
    ].values
    assert values == pytest.approx(expected, abs=1e-5)
    assert values[1] == pytest.approx(1)
    assert values[0] < 0.999


def test_the_pooling_of_the_embedding_model_is_followed(embedding_model, tmp_path):
    import shutil

    copy = Path(shutil.copytree(embedding_model, tmp_path / "model"))
    mean = embeddings.embed(ANSWERS, copy)
    settings = copy / "1_Pooling" / "config.json"
    settings.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    first = embeddings.embed(ANSWERS, copy)
    assert np.linalg.norm(mean, axis=1) == pytest.approx(np.ones(len(ANSWERS)))
    assert not np.allclose(mean, first, atol=1e-3)
    settings.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="pools by pooling_mode_max_tokens"):
        embeddings.embed(ANSWERS, copy)


def test_unknown_metrics_are_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match=r"Unknown metrics: 'rogueL' \(did you mean 'rougeL'\?\)"):
        plan_metrics(["bleu", "rogueL"])


@pytest.mark.parametrize("metrics", ["rougeL", []])
def test_metrics_have_to_be_a_list_of_names(metrics):
    with pytest.raises(SettingError, match="pass a list of names"):
        plan_metrics(metrics)


def test_semantic_similarity_needs_a_model_when_asked_for_and_is_skipped_otherwise(monkeypatch):
    monkeypatch.setattr(planning, "DEFAULT_PACKAGE", "no_such_package")
    monkeypatch.setattr(embeddings, "DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(
        SettingError, match="'semantic_similarity' cannot be computed: no embedding_model was given"
    ):
        plan_metrics(["semantic_similarity"])
    with pytest.raises(SettingError, match="'reward' cannot be computed: no reward_model was given"):
        plan_metrics(["reward"])
    plan = plan_metrics()
    assert plan.names == tuple(
        name for name, metric in METRICS.items() if metric.by_default and not metric.needs
    )
    assert plan.skipped == {
        "semantic_similarity": "no embedding_model was given and the package no_such_package is not installed",
        "reward": "no reward_model was given",
    }


def test_an_embedding_model_in_an_installed_package_is_found_without_importing_it(monkeypatch, tmp_path):
    package = tmp_path / "some_embedder"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    assert embeddings.find_embedding_model("package://some_embedder") == package / "model"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("package://no_such_package", ModelError, "no package no_such_package"),
        ("package://../../etc", SettingError, "does not name a package"),
        ("/no/such/directory", ModelError, "is not a directory with config.json"),
    ],
)
def test_a_missing_embedding_model_is_named(source, error, message):
    with pytest.raises(error, match=message):
        plan_metrics(["semantic_similarity"], source)
