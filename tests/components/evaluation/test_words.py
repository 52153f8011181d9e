"""ROUGE, BLEU and chrF in every script: a perfect answer has the best score, an unrelated or empty one none; ASCII is that
of the libraries."""

# ruff: noqa: RUF001  (letters of other scripts look like others)

from __future__ import annotations

import random
import string
import unicodedata

import pytest
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.scoring import score_answers, tokenizers_of

NAMES = ["rougeL", "rouge1", "rouge2", "bleu", "chrf"]
# A sentence, and one that has nothing to do with it.
SENTENCES = {
    "Russian": ("Кошка сидит на ковре.", "Завтра будет сильный дождь, возьмите зонт."),
    "Greek": ("Η γάτα κάθεται στο χαλί.", "Αύριο θα βρέξει πολύ."),
    "Chinese": ("猫坐在垫子上。", "今天天气很好，我们去公园吧。"),
    "Japanese": ("猫がマットの上に座っている。", "明日は雨が降るでしょう。"),
    "Thai": ("แมวนั่งอยู่บนเสื่อ", "พรุ่งนี้ฝนจะตกหนักมาก"),
    "Khmer": ("ឆ្មាអង្គុយលើកន្ទេល", "ថ្ងៃស្អែកនឹងមានភ្លៀងធ្លាក់"),
    "Lao": ("ແມວນັ່ງຢູ່ເທິງເສື່ອ", "ມື້ອື່ນຝົນຈະຕົກໜັກ"),
    "Burmese": ("ကြောင်ဖျာပေါ်မှာထိုင်နေတယ်", "မနက်ဖြန်မိုးရွာလိမ့်မည်"),
    "Arabic": ("القطة تجلس على السجادة.", "غدا سوف تمطر بغزارة"),
    "Hebrew": ("החתול יושב על השטיח.", "מחר ירד גשם חזק"),
    "Hindi": ("बिल्ली चटाई पर बैठी है।", "कल बहुत तेज़ बारिश होगी।"),
    "Tamil": ("பூனை பாயில் அமர்ந்திருக்கிறது.", "நாளை பலத்த மழை பெய்யும்."),
    "Korean": ("고양이가 매트 위에 앉아 있다.", "내일은 비가 많이 올 것입니다."),
    "Persian": ("گربه روی فرش نشسته است.", "فردا باران می\u200cبارد"),
    "French": ("Le café est très bon à l\u2019été.", "Demain, nous irons au marché."),
    "two characters": ("北京", "上海"),
    "one word": ("コンピューター", "テレビ"),
    "two scripts": ("GPU的温度是70度 with CUDA 12", "今天 no rain"),
    "an emoji": ("👍🏽", "🎉"),
}


def scores(answer: str, reference: str) -> dict[str, float]:
    found = score_answers(plan_metrics(NAMES), [answer], [reference])
    return {name: round(each.aggregate, 2) for name, each in found.items()}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_perfect_answer_has_the_best_score_and_an_unrelated_or_empty_one_none(language: str) -> None:
    sentence, other = SENTENCES[language]
    best = {"rougeL": 1.0, "rouge1": 1.0, "rouge2": 1.0, "bleu": 100.0, "chrf": 100.0}
    if len(sentence) < 3 or language == "one word":
        best["rouge2"] = scores(sentence, sentence)["rouge2"]  # pairs of words, where there is one word
    assert scores(sentence, sentence) == best
    assert scores("", sentence) == dict.fromkeys(NAMES, 0.0)
    unrelated = scores(other, sentence)
    assert unrelated["rougeL"] == unrelated["rouge1"] == unrelated["rouge2"] == 0
    assert unrelated["bleu"] < 12  # sacreBLEU smooths what short sentences lack
    assert unrelated["chrf"] < 15


def test_a_half_right_answer_is_between_them() -> None:
    assert scores("Кошка спит на ковре.", "Кошка сидит на ковре.")["rougeL"] == 0.75
    assert scores("猫坐在地毯上。", "猫坐在垫子上。")["rougeL"] == pytest.approx(4 / 6, abs=0.01)
    assert 0.3 < scores("แมวนอนอยู่บนเสื่อ", "แมวนั่งอยู่บนเสื่อ")["rougeL"] < 0.9


@pytest.mark.parametrize("form", ["NFD", "NFC", "NFKD"])
def test_the_unicode_form_of_a_text_makes_no_difference(form: str) -> None:
    for sentence, _ in SENTENCES.values():
        expected = scores(sentence, sentence)
        if unicodedata.normalize("NFKC", sentence) == unicodedata.normalize("NFC", sentence):
            assert scores(unicodedata.normalize(form, sentence), sentence) == expected
    found = score_answers(plan_metrics(["exact_match"]), [unicodedata.normalize(form, "café")], ["café"])
    assert found["exact_match"].aggregate == 1


def test_rouge_ignores_case_and_width_in_every_script() -> None:
    assert scores("КОШКА СИДИТ", "кошка сидит")["rougeL"] == 1
    assert scores("ＧＰＵ　ﾃﾚﾋﾞ", "gpu テレビ")["rougeL"] == 1


def ascii_texts(count: int) -> list[str]:
    source = random.Random(1)  # noqa: S311
    words = ["the", "Running", "cats", "don't", "U.S.", "3.14", "returns", "&amp;", "a-b", "x_y", "lists,"]
    return [
        "".join(source.choice(string.printable) for _ in range(source.randrange(60)))
        if source.random() < 0.5
        else " ".join(source.choice(words) for _ in range(source.randrange(14)))
        for _ in range(count)
    ]


def test_scores_of_ascii_are_exactly_those_of_rouge_score_and_sacrebleu() -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    answers, references = ascii_texts(400)[:200], ascii_texts(400)[200:]
    found = score_answers(plan_metrics(NAMES), answers, references)
    rouge = RougeScorer(["rougeL", "rouge1", "rouge2"], use_stemmer=True)
    pairs = list(zip(answers, references, strict=True))
    for name in ("rougeL", "rouge1", "rouge2"):
        assert found[name].values.tolist() == [rouge.score(r, a)[name].fmeasure for a, r in pairs]
    assert found["bleu"].values.tolist() == [sacrebleu.sentence_bleu(a, [r]).score for a, r in pairs]
    assert found["bleu"].aggregate == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert found["chrf"].values.tolist() == [sacrebleu.sentence_chrf(a, [r]).score for a, r in pairs]
    assert tokenizers_of(plan_metrics(NAMES), answers, references)["bleu"] == "13a"


def test_bleu_is_that_of_sacrebleus_tokenizers_for_chinese_and_for_scripts_with_spaces() -> None:
    from sacrebleu.metrics import BLEU

    cases = {
        "zh": [("猫坐在垫子上。", "猫坐在地毯上。"), ("GPU的温度是70度，对吗？", "GPU的温度是75度吗？")],
        "13a": [
            ("Кошка спит на ковре.", "Кошка сидит на ковре."),
            ("बिल्ली चटाई पर है।", "बिल्ली चटाई पर बैठी है।"),
        ],
    }
    for tokenizer, pairs in cases.items():
        expected = BLEU(tokenize=tokenizer, effective_order=True)
        for answer, reference in pairs:
            found = score_answers(plan_metrics(["bleu"]), [answer], [reference])["bleu"].values[0]
            assert found == pytest.approx(expected.sentence_score(answer, [reference]).score)


def test_the_tokenizers_are_told_by_metric() -> None:
    plan = plan_metrics(["rougeL", "bleu", "chrf", "exact_match"])
    assert tokenizers_of(plan, ["red"], ["blue"]) == {
        "rougeL": "rouge_score (a to z, 0 to 9; stems)",
        "bleu": "13a",
        "chrf": "characters",
    }
    assert tokenizers_of(plan, ["Кошка"], ["猫が"]) == {
        "rougeL": "words of any script; stems of English; sequences of 1 to 3 characters in Han, Hiragana",
        "bleu": "13a; characters in Han, Hiragana",
        "chrf": "characters",
    }
