"""How many rows are computed at a time is a matter of speed alone: it is tried, kept, and changes no loss."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import transformers
import trl
from llmops_components.errors import DataError, SettingError
from llmops_components.training import micro_batch
from llmops_components.training.methods.dpo import train_dpo
from llmops_components.training.methods.kto import train_kto
from llmops_components.training.methods.reward import train_reward
from llmops_components.training.methods.sft import train_sft
from llmops_components.training.micro_batch import Trials, fastest
from llmops_components.training.step_order import by_length
from tiny_model import colour_rows, preference_rows, write_rows
from tiny_training import same_course

BATCH, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
SETTINGS = {"logging_steps": 1, "learning_rate": 1e-2, "bf16": False}
TRAIN = {"sft": train_sft, "dpo": train_dpo, "reward": train_reward}


def longer(row, name, at):
    """A row whose answer has so many words more."""
    (answer,) = row[name]
    return {**row, name: [{**answer, "content": answer["content"] + " and blue" * (at * 7 % 5)}]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of many lengths, 22 of them: five steps of four and a rest."""
    root = tmp_path_factory.mktemp("rows")
    write_rows(root / "sft", [longer(row, "completion", at) for at, row in enumerate(colour_rows(22))])
    write_rows(root / "pairs", [longer(row, "chosen", at) for at, row in enumerate(preference_rows(22))])
    return {"sft": root / "sft", "dpo": root / "pairs", "reward": root / "pairs"}


@pytest.fixture
def timed(monkeypatch):
    """Decides which size is the fastest; the trials are carried out all the same."""
    state = SimpleNamespace(best=2, tried=[])
    run = Trials._run

    def run_and_say(self, rows, size):
        run(self, rows, size)
        state.tried.append(size)
        return 1.0 + abs(size - state.best)

    monkeypatch.setattr(Trials, "_run", run_and_say)
    return state


@pytest.fixture
def no_trials(monkeypatch):
    def refuse(self, rows, size):
        raise AssertionError("nothing is to be tried")

    monkeypatch.setattr(Trials, "_run", refuse)


def train(method, rows, model, out, checkpoints=None, callbacks=(), **training_args):
    shutil.rmtree(out, ignore_errors=True)
    return TRAIN[method](
        rows[method],
        model,
        out / "model",
        out / "adapter",
        training_args=SETTINGS | training_args,
        model_args={"dtype": "float32"},
        checkpoints=checkpoints,
        callbacks=callbacks,
    )


def course(out, *names):
    log = json.loads((out / "model" / "training_log.json").read_text())
    return [
        (entry["step"], entry["loss"], *(entry[name] for name in names)) for entry in log if "loss" in entry
    ]


def losses(out):
    return [(step, loss) for step, loss, *_ in course(out)]


@pytest.mark.parametrize("method", TRAIN)
@pytest.mark.parametrize("best", [1, 2, 8])
def test_fastest_split_has_the_losses_of_the_batch_that_is_given(
    method, best, rows, tiny_model, tmp_path, timed, capsys
):
    timed.best = best
    given = {"num_train_epochs": 2, "max_grad_norm": 1.0}
    train(method, rows, tiny_model, tmp_path / "plain", **given, **{BATCH: 8})
    said = train(method, rows, tiny_model, tmp_path / "auto", **given, **{BATCH: "auto", ACCUMULATION: 2})
    chosen = {BATCH: best, ACCUMULATION: 8 // best}
    assert {name: said.details["memory"][name] for name in chosen} == chosen
    assert losses(tmp_path / "auto") == same_course(losses(tmp_path / "plain"))
    assert len(losses(tmp_path / "auto")) == 6
    assert f"{BATCH}={best}" in capsys.readouterr().out
    assert any(f"{BATCH}={best}, {ACCUMULATION}={8 // best}" in finding for finding in said.findings)
    assert f"{BATCH}={best}" in (tmp_path / "auto" / "model" / "README.md").read_text()


@pytest.mark.parametrize("method", TRAIN)
def test_trials_leave_nothing_behind(method, rows, tiny_model, tmp_path, timed):
    """Not only losses: counters are those of a run with the numbers given."""
    timed.best = 2
    settings = {"num_train_epochs": 1}
    train(method, rows, tiny_model, tmp_path / "auto", **settings, **{BATCH: "auto"})
    assert timed.tried
    train(method, rows, tiny_model, tmp_path / "given", **settings, **{BATCH: 2, ACCUMULATION: 2})
    names = ("num_tokens", "grad_norm")
    assert course(tmp_path / "auto", *names) == course(tmp_path / "given", *names)


FAMILIES = {
    "Qwen2Config": {"num_key_value_heads": 2, "intermediate_size": 160},
    "GPT2Config": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "Gemma2Config": {"num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 16},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_have_the_same_losses_too(family, rows, tiny_model, tmp_path, timed):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    config = getattr(transformers, family)(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **FAMILIES[family],
    )
    transformers.AutoModelForCausalLM.from_config(config).eval().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    train("sft", rows, tmp_path / "base", tmp_path / "plain", num_train_epochs=1, **{BATCH: 4})
    train("sft", rows, tmp_path / "base", tmp_path / "auto", num_train_epochs=1, **{BATCH: "auto"})
    assert timed.tried
    assert losses(tmp_path / "auto") == same_course(losses(tmp_path / "plain"))


def test_batch_that_nobody_gives_is_tried_only_where_the_training_is_long(
    rows, tiny_model, tmp_path, timed, monkeypatch
):
    said = train("sft", rows, tiny_model, tmp_path / "short", num_train_epochs=1)
    assert timed.tried == [] and said.details["memory"][BATCH] == 4
    monkeypatch.setattr(micro_batch, "WORTH_ROWS", 40)
    said = train("sft", rows, tiny_model, tmp_path / "steps", max_steps=9)
    assert timed.tried == [] and said.details["memory"][BATCH] == 4
    said = train("sft", rows, tiny_model, tmp_path / "long", num_train_epochs=2)
    assert said.details["memory"][BATCH] == 2
    timed.tried.clear()
    said = train("sft", rows, tiny_model, tmp_path / "own", num_train_epochs=2, **{BATCH: 3})
    assert timed.tried == [] and said.details["memory"][BATCH] == 3 and said.findings == []


class Dies(transformers.TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_run_that_is_gone_on_with_keeps_its_choice_and_tries_nothing(
    rows, tiny_model, tmp_path, timed, monkeypatch
):
    settings = {"num_train_epochs": 1, "save_steps": 2, BATCH: "auto"}
    train("sft", rows, tiny_model, tmp_path / "whole", tmp_path / "other", **settings)
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        train("sft", rows, tiny_model, tmp_path / "out", kept, callbacks=[Dies()], **settings)
    assert json.loads((kept / "micro_batch.json").read_text()) == {BATCH: 2, "rows": 4}
    timed.tried.clear()
    timed.best = 1
    said = train("sft", rows, tiny_model, tmp_path / "out", kept, **settings)
    assert timed.tried == [] and said.details["resumed_from"] == "checkpoint-2"
    assert said.details["memory"][BATCH] == 2
    assert losses(tmp_path / "out") == same_course(losses(tmp_path / "whole"))


@pytest.mark.parametrize("content", ["", "[]", '{"per_device_train_batch_size": 3, "rows": 4}'])
def test_choice_that_cannot_be_read_or_is_of_another_batch_is_made_again(
    content, rows, tiny_model, tmp_path, timed
):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "micro_batch.json").write_text(content)
    train("sft", rows, tiny_model, tmp_path / "out", kept, num_train_epochs=1, **{BATCH: "auto"})
    assert timed.tried
    assert json.loads((kept / "micro_batch.json").read_text())[BATCH] == 2


def test_checkpoints_from_before_there_was_a_choice_are_gone_on_with_as_they_began(
    rows, tiny_model, tmp_path, no_trials, monkeypatch
):
    kept = tmp_path / "kept"
    settings = {"num_train_epochs": 2, "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        train("sft", rows, tiny_model, tmp_path / "out", kept, callbacks=[Dies()], **settings)
    monkeypatch.setattr(micro_batch, "WORTH_ROWS", 1)
    said = train("sft", rows, tiny_model, tmp_path / "out", kept, **settings)
    assert said.details["resumed_from"] and said.details["memory"][BATCH] == 4


REFUSED = {
    "packs": ("sft", {"packing": True}, "packing makes rows of one length"),
    "sorts": ("dpo", {"loss_type": ["sigmoid", "aot"]}, "loss_type aot depends on which rows"),
    "means over tokens": ("dpo", {"loss_type": "sft"}, "loss_type sft depends on which rows"),
    "drops": ("sft", {"dataloader_drop_last": True}, "dataloader_drop_last is set"),
    "makes noise": ("sft", {"neftune_noise_alpha": 5}, "neftune_noise_alpha is set"),
    "computes anew": ("sft", {"activation_checkpointing": True}, "activation_checkpointing is set"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_losses_is_refused(case, rows, tiny_model, tmp_path, no_trials, monkeypatch):
    method, settings, reason = REFUSED[case]
    with pytest.raises(SettingError, match=f"'auto' cannot be honoured: {reason}"):
        train(method, rows, tiny_model, tmp_path / "out", **settings, **{BATCH: "auto"})
    monkeypatch.setattr(micro_batch, "WORTH_ROWS", 1)  # and without being asked for, it is not tried
    said = train(method, rows, tiny_model, tmp_path / "out", max_steps=1, **settings)
    assert said.details["memory"][BATCH] == 4


def test_rows_that_are_streamed_are_not_split(rows, tiny_model, tmp_path, no_trials, monkeypatch):
    monkeypatch.setenv("LLMOPS_STREAM_BYTES", "1")
    with pytest.raises(SettingError, match="cannot be honoured: the rows are streamed"):
        train("sft", rows, tiny_model, tmp_path / "out", max_steps=2, **{BATCH: "auto"})


def test_training_whose_losses_are_of_its_batches_does_not_know_auto(tiny_model, tmp_path):
    with pytest.raises(
        SettingError, match=r"per_device_train_batch_size is 'auto', and takes a whole number"
    ):
        train_kto(
            write_rows(tmp_path / "rows", [{"prompt": "a", "completion": "b", "label": True}] * 2),
            tiny_model,
            tmp_path / "m",
            tmp_path / "a",
            training_args={BATCH: "auto"},
        )


@pytest.mark.parametrize(
    ("best", "start", "chosen", "compared"),
    [
        (4, 4, 4, [(2, 4), (8, 4)]),
        (1, 4, 1, [(2, 4), (1, 2)]),
        (2, 4, 2, [(2, 4), (1, 2)]),
        (32, 4, 32, [(2, 4), (8, 4), (16, 8), (32, 16)]),
    ],
)
def test_search_goes_down_or_else_up_as_long_as_it_pays(best, start, chosen, compared):
    seen = []

    def is_faster(new, old):
        seen.append((new, old))
        return abs(new - best) < abs(old - best)

    assert fastest([1, 2, 4, 8, 16, 32], start, is_faster) == chosen
    assert seen == compared


def test_rest_of_the_rows_has_the_mean_that_it_had(rows, tiny_model, tmp_path, timed):
    """22 pairs in steps of 16 leave six, whose mean is that of one batch of 16, of three by two and of six by one, and not that of a four and a two."""
    timed.best = 1
    train("dpo", rows, tiny_model, tmp_path / "out", num_train_epochs=1, **{BATCH: "auto", ACCUMULATION: 4})
    assert set(timed.tried) == {1, 2}


def test_size_that_does_not_fit_in_memory_is_not_chosen(rows, tiny_model, tmp_path, monkeypatch):
    run = Trials._run

    def run_out(self, rows, size):
        run(self, rows, size)
        if size > 4:
            raise MemoryError
        return 1 / size

    monkeypatch.setattr(Trials, "_run", run_out)
    said = train("sft", rows, tiny_model, tmp_path / "out", max_steps=1, **{BATCH: "auto", ACCUMULATION: 4})
    assert said.details["memory"][BATCH] == 4


def test_rows_of_which_nothing_fits_are_told_by_the_training_and_not_by_a_trial(rows, tiny_model, tmp_path):
    with pytest.raises(DataError, match=r"No row of .* within max_length=3"):
        train("sft", rows, tiny_model, tmp_path / "out", max_length=3, **{BATCH: "auto"})


def test_mixture_of_experts_is_left_alone_where_its_balance_is_part_of_the_loss(
    rows, tiny_model, tmp_path, no_trials, monkeypatch
):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    config = transformers.Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(SettingError, match="cannot be honoured: a part of the loss spreads the tokens"):
        train("sft", rows, tmp_path / "base", tmp_path / "out", max_steps=1, **{BATCH: "auto"})
    monkeypatch.setattr(micro_batch, "WORTH_ROWS", 1)
    said = train("sft", rows, tmp_path / "base", tmp_path / "out", max_steps=1)
    assert said.details["memory"][BATCH] == 4


def test_batch_whose_rest_would_count_otherwise_stays_where_nobody_asks(
    rows, tiny_model, tmp_path, no_trials, monkeypatch
):
    """22 pairs in steps of eight leave six, which no four and two are."""
    monkeypatch.setattr(micro_batch, "WORTH_ROWS", 1)
    said = train("dpo", rows, tiny_model, tmp_path / "out", num_train_epochs=1, **{ACCUMULATION: 2})
    assert said.details["memory"][BATCH] == 4 and said.findings == []


def test_choice_is_given_up_where_the_trainer_leaves_rows_out(rows, tiny_model, tmp_path, timed, monkeypatch):
    """Twenty pairs are five steps of four; of nineteen the last step has three, which are no two and two."""
    pairs = [json.loads(line) for line in rows["dpo"].read_text().splitlines()][:20]
    pairs[3]["prompt"][0]["content"] *= 30
    given = {"dpo": write_rows(tmp_path / "rows", pairs)}
    kept = tmp_path / "kept"
    settings = {"num_train_epochs": 1, "max_length": 100}
    said = train("dpo", given, tiny_model, tmp_path / "auto", kept, **settings, **{BATCH: "auto"})
    assert timed.tried and said.details["memory"][BATCH] == 4
    assert any("was given up (3 rows are left for the last step)" in each for each in said.findings)
    assert not any("trials found the fastest, at the same" in each for each in said.findings)
    train("dpo", given, tiny_model, tmp_path / "plain", **settings, **{BATCH: 4})
    assert losses(tmp_path / "auto") == losses(tmp_path / "plain")
    assert json.loads((kept / "micro_batch.json").read_text())[BATCH] == 4


def test_choice_for_which_the_memory_does_not_suffice_is_given_up_before_anything_else(
    rows, tiny_model, tmp_path, timed, monkeypatch
):
    from llmops_components.training import memory

    timed.best = 8
    check = memory.check_fits

    def fits(trainer):  # the sample does, and all of the rows do not
        if trainer.args.per_device_train_batch_size > 4 and len(trainer.train_dataset) > 16:
            raise memory.WouldNotFit("a batch of 8 would take 3 GiB, and 2 GiB are free")
        check(trainer)

    monkeypatch.setattr(memory, "check_fits", fits)
    monkeypatch.setattr(micro_batch, "check_fits", fits)
    said = train("sft", rows, tiny_model, tmp_path / "out", max_steps=2, **{BATCH: "auto", ACCUMULATION: 2})
    assert said.details["memory"] == {"activation_checkpointing": False, BATCH: 4, ACCUMULATION: 2}
    assert any("was given up (a batch of 8 would take 3 GiB" in each for each in said.findings)


@pytest.mark.parametrize("batch", [4, "auto"])
def test_what_the_trainer_refuses_of_the_rows_is_told_alike_by_a_trial(
    batch, rows, tiny_model, tmp_path, monkeypatch
):
    def refuse(*args, **named):
        raise RuntimeError("assistant_only_loss=True, but a row has no assistant tokens")

    monkeypatch.setattr(trl.SFTTrainer, "training_step", refuse)
    with pytest.raises(DataError, match="finds no answer in at least one row"):
        train("sft", rows, tiny_model, tmp_path / "out", max_steps=1, **{BATCH: batch})


def test_order_of_a_sampler_that_knows_no_epochs_is_taken_too(rows, tiny_model, tmp_path, batches):
    settings = {"num_train_epochs": 2, BATCH: 2, ACCUMULATION: 4}
    settings |= {"accelerator_config": {"use_seedable_sampler": False}}
    train("sft", rows, tiny_model, tmp_path / "sorted", **settings)
    assert len(batches[0]) == 6


def test_rows_of_a_step_are_sorted_and_no_row_leaves_its_step():
    lengths = [5, 1, 9, 3, 7, 2, 8, 4, 6, 0]
    assert list(by_length(range(10), lengths, 4)) == [1, 3, 0, 2, 5, 7, 4, 6, 8, 9]
    assert list(by_length([], lengths, 4)) == []


@pytest.fixture
def batches(monkeypatch):
    """What each step has computed, in its order, of the trainings that follow."""
    from llmops_components.training import building

    found = []
    build = building.build_trainer

    def build_and_look(*args, **named):
        trainer, findings = build(*args, **named)
        if "sample" in named:
            return trainer, findings
        steps, step = [], trainer.training_step
        found.append(steps)

        def seen(model, inputs, *rest, **further):
            while len(steps) <= trainer.state.global_step:
                steps.append([])
            steps[-1].append(inputs["input_ids"].clone())
            return step(model, inputs, *rest, **further)

        trainer.training_step = seen
        return trainer, findings

    monkeypatch.setattr(building, "build_trainer", build_and_look)
    return found


def rows_of(step):
    return sorted(tuple(token for token in row.tolist() if token) for batch in step for row in batch)


def width(steps):
    return sum(batch.shape[1] for step in steps for batch in step)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_rows_of_about_one_length_are_computed_together_over_epochs(
    method, rows, tiny_model, tmp_path, batches
):
    settings = {"num_train_epochs": 3, BATCH: 2, ACCUMULATION: 4}
    train(method, rows, tiny_model, tmp_path / "sorted", **settings)
    train(method, rows, tiny_model, tmp_path / "random", train_sampling_strategy="random", **settings)
    of_sorted, of_random = batches
    assert [rows_of(step) for step in of_sorted] == [rows_of(step) for step in of_random]
    assert len({str(rows_of(step)) for step in of_sorted}) == len(of_sorted), (
        "each epoch has an order of its own"
    )
    assert width(of_sorted) < 0.95 * width(of_random)
    assert losses(tmp_path / "sorted") == same_course(losses(tmp_path / "random"))


def test_training_goes_on_from_a_checkpoint_in_the_same_order(rows, tiny_model, tmp_path, batches):
    settings = {"num_train_epochs": 2, "save_steps": 4, BATCH: 2, ACCUMULATION: 4}
    train("sft", rows, tiny_model, tmp_path / "whole", tmp_path / "other", **settings)
    with pytest.raises(KeyboardInterrupt):
        train("sft", rows, tiny_model, tmp_path / "out", tmp_path / "kept", callbacks=[Dies()], **settings)
    said = train("sft", rows, tiny_model, tmp_path / "out", tmp_path / "kept", **settings)
    assert said.details["resumed_from"] == "checkpoint-4"
    whole, _, rest = batches
    assert [[each.tolist() for each in step] for step in rest if step] == [
        [each.tolist() for each in step] for step in whole[4:]
    ]
    assert losses(tmp_path / "out") == same_course(losses(tmp_path / "whole"))


def test_rows_are_computed_as_they_come_where_the_losses_depend_on_it(rows, tiny_model, tmp_path, batches):
    settings = {"max_steps": 2, BATCH: 2, ACCUMULATION: 4, "loss_type": "aot"}
    train("dpo", rows, tiny_model, tmp_path / "plain", **settings)
    train("dpo", rows, tiny_model, tmp_path / "random", train_sampling_strategy="random", **settings)
    plain, random = ([[each.tolist() for each in step] for step in steps] for steps in batches)
    assert plain == random
