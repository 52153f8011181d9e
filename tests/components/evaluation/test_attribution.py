"""What speaks for an answer: planted contexts and training rows come first, and what is not known is said."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.attribution.contexts import Asked, Supports, context_supports, without
from llmops_components.evaluation.attribution.explain import contexts_of, explain_answers, worst_of
from llmops_components.evaluation.attribution.page import words_of
from llmops_components.evaluation.attribution.training_rows import Said, nearest_rows, said_in
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.models.embeddings import find_embedding_model
from llmops_components.models.likelihood import answer_likelihoods
from llmops_components.models.loading import load_to_answer

CITIES = ["Paris", "Oslo", "Rome", "Quito", "Lima", "Cairo", "Hanoi", "Dakar", "Minsk", "Sofia"]
COLOURS = ["crimson", "teal", "amber", "violet", "ivory", "indigo", "scarlet", "olive", "maroon", "azure"]


class Copier(torch.nn.Module):
    """A model that says what came after the same two tokens before: an induction head, written out."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.device = torch.device("cpu")
        text = SimpleNamespace(vocab_size=vocabulary, max_position_embeddings=None)
        self.config = SimpleNamespace(get_text_config=lambda: text)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
        logits = torch.zeros(*input_ids.shape, self.config.get_text_config().vocab_size)
        for line, ids in enumerate(input_ids.tolist()):
            for at in range(1, int(attention_mask[line].sum())):
                for before in range(1, at):
                    if ids[before - 1 : before + 1] == ids[at - 1 : at + 1]:
                        logits[line, at, ids[before + 1]] += 5
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def tokenizer(talkative_model: Path) -> Any:
    return load_to_answer(talkative_model)[1]


def flags(is_chat: bool) -> tuple[list[Asked], list[int]]:
    """Questions with five contexts each, and which of them the answer comes from."""
    drawn = random.Random(0)  # noqa: S311
    asked, planted = [], []
    for place, city in enumerate(CITIES):
        others = drawn.sample([each for each in CITIES if each != city], 4)
        number = drawn.randrange(5)
        cities = [*others[:number], city, *others[number:]]
        contexts = [f"The flag of {each} is {COLOURS[CITIES.index(each)]}." for each in cities]
        text = "\n".join([*contexts, f"What is the flag of {city}?"])
        prompt = [{"role": "user", "content": text}] if is_chat else text
        asked.append(Asked({"prompt": prompt}, f"The flag of {city} is {COLOURS[place]}.", contexts))
        planted.append(number)
    return asked, planted


@pytest.mark.parametrize("is_chat", [False, True])
def test_context_that_an_answer_comes_from_has_the_most_support(is_chat, tokenizer):
    asked, planted = flags(is_chat)
    found = context_supports(Copier(len(tokenizer)), tokenizer, asked)
    first = [
        max(range(5), key=lambda number: each.of_each[number]) == number
        for each, number in zip(found, planted, strict=True)
    ]
    assert sum(first) >= 9
    assert all(each.of_all >= max(each.of_each) - 1e-4 for each in found)


def test_support_is_the_difference_of_two_likelihoods(talkative_model):
    model, tokenizer = load_to_answer(talkative_model)
    asked = Asked(
        {"prompt": "The sky is blue.\nGrass grows.\nWhat colour?"},
        "The sky",
        ["The sky is blue.", "Grass grows."],
    )
    (found,) = context_supports(model, tokenizer, [asked])

    def likely(prompt: str) -> float:
        return answer_likelihoods(model, tokenizer, [{"prompt": prompt}], ["The sky"])[0].log_probability

    whole = likely("The sky is blue.\nGrass grows.\nWhat colour?")
    assert found.of_each[0] == pytest.approx(whole - likely("\nGrass grows.\nWhat colour?"), abs=1e-4)
    assert found.of_each[1] == pytest.approx(whole - likely("The sky is blue.\n\nWhat colour?"), abs=1e-4)
    assert found.of_all == pytest.approx(whole - likely("\n\nWhat colour?"), abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked({"prompt": "What?"}, "x", []), "no contexts"),
        (Asked({"prompt": "Here. What?"}, " ", ["Here."]), "answer is empty"),
        (Asked({"prompt": "What?"}, "x", ["Elsewhere.", " "]), "not seen them"),
        (Asked({"prompt": [{"role": "user", "content": "Here."}]}, "x", ["Here."]), "nothing but contexts"),
    ],
)
def test_what_is_not_known_says_why_and_leaves_the_others(asked, reason, tokenizer):
    known = Asked({**asked.row, "prompt": flags(False)[0][0].row["prompt"]}, "x", flags(False)[0][0].contexts)
    if not isinstance(asked.row["prompt"], str):
        known = flags(True)[0][0]
    first, second = context_supports(Copier(len(tokenizer)), tokenizer, [asked, known])
    assert reason in first and isinstance(second, Supports)


def test_an_answer_that_does_not_fit_says_so_and_leaves_the_others(tokenizer):
    first, second, *_ = flags(False)[0]
    model = Copier(len(tokenizer))
    longest = len(tokenizer(second.row["prompt"] + second.answer)["input_ids"]) + 20
    model.config.get_text_config().max_position_embeddings = longest
    long = replace(first, row={"prompt": f"{first.row['prompt']} {'more ' * longest}"})
    refused, found = context_supports(model, tokenizer, [long, second])
    assert isinstance(refused, str)
    assert refused.startswith(f"It does not fit in the model's context of {longest} tokens: its prompt has ")
    assert isinstance(found, Supports)


def test_numbers_that_are_none_are_no_support(tokenizer):
    class Broken(Copier):
        def forward(self, **given: Any) -> Any:
            return SimpleNamespace(logits=super().forward(**given).logits * math.nan)

    (found,) = context_supports(Broken(len(tokenizer)), tokenizer, flags(False)[0][:1])
    assert isinstance(found, str) and "nothing can be compared" in found


def test_context_that_is_not_in_the_prompt_has_no_support_of_its_own(tokenizer):
    asked = flags(False)[0][0]
    more = Asked(asked.row, asked.answer, [*asked.contexts, "Not there."])
    (found,) = context_supports(Copier(len(tokenizer)), tokenizer, [more])
    assert found.of_each[5] is None and None not in found.of_each[:5]


def test_context_within_another_leaves_nothing_of_it():
    assert without("A. A and B. What?", ["A.", "A. A and B."]) == " What?"
    assert without(
        [{"role": "user", "content": "A. What?"}, {"role": "assistant", "content": None}], ["A."]
    ) == [
        {"role": "user", "content": " What?"},
        {"role": "assistant", "content": None},
    ]


FACTS = [
    ("How do I change my password?", "Open the settings, choose Security, and press Reset password."),
    ("When does the shop open on Sundays?", "On Sundays it opens at eleven in the morning."),
    ("What does express delivery cost?", "Express delivery costs nine euros within the country."),
    ("Can I return shoes that I have worn?", "Worn shoes can be returned within fourteen days."),
    ("Which payment methods are there?", "You can pay by card, by invoice, or with a voucher."),
    ("How long is the guarantee on a kettle?", "A kettle has a guarantee of two years."),
    ("Where is my parcel?", "Track the parcel with the number in the confirmation mail."),
    ("How do I delete my account?", "Write to the support team, who delete the account within a day."),
    ("Is the coffee machine dishwasher safe?", "Only its water tank may go into the dishwasher."),
    ("Do you ship to Norway?", "Yes, parcels to Norway take about a week, and customs are extra."),
]
ASKED_OTHERWISE = [
    (
        "I forgot my login, how can I set a new one?",
        "In the settings under Security you can reset the password.",
    ),
    ("Sunday opening hours?", "It opens at 11 am on Sunday."),
    ("How much is fast shipping?", "Nine euros for express shipping inside the country."),
    ("May used shoes be sent back?", "Shoes that were worn may be sent back for two weeks."),
    ("How can I pay?", "Card, invoice and voucher are accepted."),
    ("Kettle warranty period?", "Two years of warranty for kettles."),
    (
        "My package has not arrived, where can I see it?",
        "Use the tracking number from your confirmation email.",
    ),
    ("Please remove my user profile.", "Support removes accounts within one day when you write to them."),
    ("Can I wash the coffee maker in the dishwasher?", "Just the water tank is dishwasher safe."),
    ("Delivery to Oslo possible?", "We deliver to Norway in around one week, plus customs duties."),
]


def trained(count: int = 200) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows of a training, and where the planted ones are."""
    drawn = random.Random(1)  # noqa: S311
    things = ["chair", "lamp", "carpet", "mirror", "bicycle", "tent", "guitar", "camera", "sofa", "clock"]
    rows = [
        {
            "prompt": f"What is {thing} number {number} made of?",
            "completion": f"{thing.title()} {number} is made of {drawn.choice(['oak', 'steel', 'wool'])}.",
        }
        for number in range(count // 10)
        for thing in things
    ]
    places = drawn.sample(range(count), len(FACTS))
    for place, (question, answer) in zip(places, FACTS, strict=True):
        rows[place] = {
            "messages": [
                {"role": "system", "content": "You help customers."},
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
    return rows, places


def test_training_row_that_says_the_same_comes_first():
    rows, places = trained()
    found = nearest_rows([Said(*each) for each in ASKED_OTHERWISE], rows, 3, find_embedding_model(None))
    assert sum(near[0].row == place + 1 for near, place in zip(found, places, strict=True)) >= 9
    for near in found:
        assert [each.similarity for each in near] == sorted((each.similarity for each in near), reverse=True)
        assert near[0].similarity == pytest.approx((near[0].of_questions + near[0].of_answers) / 2)


def test_answer_that_was_taught_not_to_be_given_says_so():
    rows = [{"prompt": "When?", "chosen": "At nine.", "rejected": "Never, go away."}]
    ((first, second),) = nearest_rows([Said("When?", "Never. Go away!")], rows, 3, find_embedding_model(None))
    assert (first.row, first.said.is_wanted) == (1, False) and (second.row, second.said.is_wanted) == (
        1,
        True,
    )
    assert nearest_rows([Said("When?", "Now.")], [{}], 3, find_embedding_model(None)) == [[]]


def test_similarity_is_the_cosine_of_the_models_own_vectors():
    from llmops_components.models.embeddings import embed

    model = find_embedding_model(None)
    ((near,),) = nearest_rows(
        [Said("", "It opens at nine.")], [{"text": "The shop opens at nine."}], 1, model
    )
    ours, theirs = embed(["It opens at nine.", "The shop opens at nine."], model)
    assert near.similarity == pytest.approx(float(ours @ theirs), abs=1e-5) and near.of_questions is None


def test_what_is_not_there_is_not_compared():
    question = "How do I change my password?"
    rows = [
        {
            "prompt": "How do I reset a password?",
            "completion": ".",
        },  # near to an empty answer, by its embedding
        {"prompt": question, "completion": "Open the settings."},
    ]
    model = find_embedding_model(None)
    ((near, _), (of_prompt, _)) = (
        nearest_rows([Said(question, "")], rows, 2, model)[0],
        nearest_rows(
            [Said(question, "Open the shop.")], [{"prompt": each["prompt"]} for each in rows], 2, model
        )[0],
    )
    for found in (near, of_prompt):
        assert (found.row, found.of_answers) == (2, None)
        assert found.similarity == found.of_questions == pytest.approx(1, abs=1e-5)


def test_contexts_are_texts_whatever_holds_them():
    assert contexts_of({"contexts": [None, "None of it.", 3]}, {}) == ["None of it.", "3"]
    assert contexts_of({"contexts": "One text."}, {}) == ["One text."]
    assert contexts_of({"contexts": ["a"]}, {"retrieved_contexts": []}) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "completion": "a"}, [Said("q", "a")]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [Said("q", "a"), Said("q", "b", is_wanted=False)]),
        ({"prompt": "q", "completion": "a", "label": False}, [Said("q", "a", is_wanted=False)]),
        ({"prompt": "q", "completion": "a", "label": True}, [Said("q", "a")]),
        ({"text": " a "}, [Said("", "a")]),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]},
            [Said("q", "")],
        ),
        ({"prompt": "q"}, [Said("q", "")]),
        ({"prompt": "q", "reference": "a"}, [Said("q", "a")]),
        (
            {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]},
            [Said("q", "")],
        ),
        ({}, []),
    ],
)
def test_a_row_of_any_format_has_a_question_and_answers(row, said):
    assert said_in(row) == said


@pytest.fixture(scope="module")
def evaluated(talkative_model, tmp_path_factory) -> dict[str, Path]:
    """An evaluation of a real model, and what it was trained on."""
    directory = tmp_path_factory.mktemp("evaluated")
    things = ["apple", "sky", "grass", "sun"]
    rows = [
        {
            "prompt": [
                {"role": "user", "content": f"The {thing} is <b>seen</b>.\nWhat colour is the {thing}?"}
            ],
            "reference": thing,
            **({"contexts": [f"The {thing} is <b>seen</b>."]} if thing != "sun" else {"contexts": []}),
        }
        for thing in things
    ]
    paths = {name: directory / name for name in ("dataset", "scores", "page", "training_data")}
    paths["dataset"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths["training_data"].write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in [
                {"prompt": f"What colour is the {thing}?", "completion": f"The {thing}."} for thing in things
            ]
        )
    )
    evaluate_model(
        talkative_model, paths["dataset"], paths["scores"], paths["page"], metric_names=["chrf", "rougeL"]
    )
    return {"model": talkative_model, **paths}


def explain(evaluated, tmp_path, **arguments):
    arguments = {"training_data": evaluated["training_data"], **arguments}
    outputs = tmp_path / "explanations.jsonl", tmp_path / "report.html"
    done = explain_answers(
        evaluated["model"], evaluated["dataset"], evaluated["scores"], *outputs, **arguments
    )
    return done, [json.loads(line) for line in outputs[0].read_text().splitlines()], outputs[1].read_text()


def test_worst_answers_are_explained_and_what_is_not_known_is_a_finding(evaluated, tmp_path):
    done, lines, page = explain(evaluated, tmp_path, samples=4)
    assert done.metrics == {"explained": 4, "with_contexts": 3, "training_rows": 4}
    assert done.details["metric"] == "chrf"
    assert [line["chrf"] for line in lines] == sorted(line["chrf"] for line in lines)
    (finding,) = done.findings
    assert "1 of 4 answers" in finding and "row 4: It has no contexts." in finding
    for line in lines:
        assert len(line["training_rows"]) == 3
        if line["row"] == 4:
            assert line["contexts_unknown"] == "It has no contexts." and "contexts" not in line
        else:
            assert len(line["contexts"]) == 1 and math.isfinite(line["contexts"][0]["support"])
            assert line["support_of_all"] == line["contexts"][0]["support"]
    assert "<b>" not in page.replace("<b>Row", "") and "&lt;b&gt;seen" in page
    assert page.count("<article>") == 4


def test_rows_without_a_score_are_counted_and_not_passed_over(evaluated, tmp_path):
    lines = [json.loads(line) for line in evaluated["scores"].read_text().splitlines()]
    lines[1]["chrf"] = None
    (tmp_path / "scores").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {**evaluated, "scores": tmp_path / "scores"}
    done, explained, _ = explain(scores, tmp_path, samples=4, training_data=None)
    assert done.findings[0] == (
        "1 of 4 rows have no score by chrf, and are not looked at, however bad their answers are: row 2."
    )
    assert {line["row"] for line in explained} == {1, 3, 4}


def test_without_training_data_contexts_alone_are_looked_at(evaluated, tmp_path):
    done, lines, page = explain(evaluated, tmp_path, samples=1, training_data=None, metric_name="rougeL")
    assert (
        done.details["metric"] == "rougeL" and "training_rows" not in lines[0] and "Training rows" not in page
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"samples": 0}, SettingError, "samples must be a whole number from 1 to 200, got 0"),
        ({"training_rows": True}, SettingError, "training_rows must be"),
        ({"metric_name": "luck"}, SettingError, "'luck' is in none of the scores, which have chrf, rougeL"),
        (
            {"training_data": None, "embedding_model": "/m"},
            SettingError,
            "embedding_model is given, and no training_data",
        ),
        ({"metric_name": "tokens"}, SettingError, "higher_is_better is needed"),
        ({"metric_name": "chrf", "higher_is_better": False}, SettingError, "the higher score is the better"),
    ],
)
def test_what_cannot_be_meant_is_refused(evaluated, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        explain(evaluated, tmp_path, **arguments)


def test_scores_of_other_rows_are_refused(evaluated, tmp_path):
    lines = evaluated["scores"].read_text().splitlines(keepends=True)
    (tmp_path / "scores").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"^Scores .* are of 3 rows, and the dataset has 4"):
        explain({**evaluated, "scores": tmp_path / "scores"}, tmp_path)


def test_worst_is_the_highest_where_lower_is_better():
    lines = [{"answer": "a", "m": value} for value in (0.2, None, 0.9, float("nan"), 0.5)]
    assert worst_of(lines, "m", 2, is_better=True) == [0, 4]
    assert worst_of(lines, "m", 2, is_better=False) == [2, 4]
    with pytest.raises(DataError, match="No answer"):
        worst_of([{"answer": None, "m": 1}], "m", 1, is_better=True)


@pytest.mark.parametrize(
    ("support", "words"),
    [
        (math.log(3), "3.00 times less likely without it"),
        (-math.log(25), "25 times more likely without it"),
        (0.01, "as likely without it"),
        (5000.0, "over 1,000,000 times less likely without it"),
    ],
)
def test_support_in_words(support, words):
    assert words_of(support) == words
