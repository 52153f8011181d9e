"""Arguments that TRL, Transformers and PEFT renamed or dropped, and what takes their place today.

A script or an answer from the web that is a year old is full of them. Each entry is keyed by the class that had the
argument; its value says what to do, with every name of today in backticks.
"""

from __future__ import annotations

from collections.abc import Iterable

_GENERATION_STOP = "Set `generation_kwargs` instead."
_NEW_TOKENS = "Set `max_completion_length`; prompts are never cut."
_LENGTHS = "Set `max_length`, which counts prompt and completion together."

REPLACED: dict[str, dict[str, str]] = {
    "TrainingArguments": {
        "adafactor": "Set `optim` to 'adafactor'.",
        "dispatch_batches": "Set it inside `accelerator_config`.",
        "evaluation_strategy": "It is called `eval_strategy` now.",
        "fp16_backend": "Mixed precision is PyTorch's own now: set `bf16` or `fp16`.",
        "fp16_opt_level": "Mixed precision is PyTorch's own now: set `bf16` or `fp16`.",
        "fsdp_min_num_params": "Set it inside `fsdp_config`.",
        "fsdp_transformer_layer_cls_to_wrap": "Set it inside `fsdp_config`.",
        "group_by_length": "Set `train_sampling_strategy` to 'group_by_length'.",
        "half_precision_backend": "Mixed precision is PyTorch's own now: set `bf16` or `fp16`.",
        "include_inputs_for_metrics": "It is called `include_for_metrics` now.",
        "include_tokens_per_second": "Leave it out: tokens_per_second is always measured.",
        "jit_mode_eval": "Leave it out, or set `torch_compile`.",
        "logging_dir": "Leave it out: curves are in training_log.json.",
        "no_cuda": "It is called `use_cpu` now.",
        "overwrite_output_dir": "Leave it out: outputs are always new.",
        "past_index": "Leave it out: Transformers dropped it.",
        "per_gpu_eval_batch_size": "It is called `per_device_eval_batch_size` now.",
        "per_gpu_train_batch_size": "It is called `per_device_train_batch_size` now.",
        "push_to_hub_model_id": "It is called `hub_model_id` now.",
        "save_safetensors": "Leave it out: weights are always safetensors.",
        "sharded_ddp": "Set `fsdp` instead.",
        "split_batches": "Set it inside `accelerator_config`.",
        "torchdynamo": "It is called `torch_compile_backend` now.",
        "tpu_metrics_debug": "Set `debug` instead.",
        "use_ipex": "Leave it out: PyTorch does this itself.",
        "use_mps_device": "Leave it out: the device is found.",
        "warmup_ratio": "Set `warmup_steps` to a number below 1: it is the ratio then.",
        "xpu_backend": "It is called `ddp_backend` now.",
        # Arguments of trainers and scripts that are often put beside those of the configuration.
        "max_seq_length": "It is called `max_length` now.",
        "model_name_or_path": "Leave it out: the model is the input base_model.",
        "peft_config": "Put its fields into peft_args.",
        "processing_class": "Leave it out: the tokenizer is the base model's.",
        "quantization_config": "Put it into model_args.",
        "tokenizer": "Leave it out: the tokenizer is the base model's.",
        "torch_dtype": "Put dtype into model_args.",
        "use_liger": "It is called `use_liger_kernel` now.",
    },
    "SFTConfig": {
        "chars_per_token": "Leave it out: packing counts tokens itself.",
        "dataset_batch_size": "Leave it out, or set `dataset_num_proc`.",
        "num_of_sequences": "Leave it out: packing counts tokens itself.",
    },
    "RewardConfig": {},
    "DPOConfig": {
        "base_model_attribute_name": "Leave it out: the base model is found.",
        "force_use_ref_model": "Leave it out: with an adapter, the model without it is the reference.",
        "generate_during_eval": "Leave it out, and evaluate the tuned model with evaluate_model.",
        "is_encoder_decoder": "Leave it out: only causal models are trained.",
        "label_pad_token_id": "Leave it out: labels are masked.",
        "max_completion_length": _LENGTHS,
        "max_prompt_length": _LENGTHS,
        "max_target_length": _LENGTHS,
        "model_adapter_name": "Leave it out: adapters are made anew.",
        "padding_value": "Leave it out: the tokenizer's own padding token is used.",
        "ref_adapter_name": "Leave it out: adapters are made anew.",
        "ref_model_init_kwargs": "Leave it out: the reference is the base model, loaded in the same way.",
        "reference_free": "Leave it out: every loss of `loss_type` has a reference.",
        "rpo_alpha": "Set `loss_type` to ['sigmoid', 'sft'] and `loss_weights` to [1.0, alpha].",
        "tools": "Put tools into the rows.",
        "use_liger_loss": "Leave it out: the loss is computed in pieces anyway.",
        "use_logits_to_keep": "Leave it out: the loss is computed in pieces anyway.",
        "use_num_logits_to_keep": "Leave it out: the loss is computed in pieces anyway.",
    },
    "KTOConfig": {
        "base_model_attribute_name": "Leave it out: the base model is found.",
        "generate_during_eval": "Leave it out, and evaluate the tuned model with evaluate_model.",
        "is_encoder_decoder": "Leave it out: only causal models are trained.",
        "label_pad_token_id": "Leave it out: labels are masked.",
        "max_completion_length": _LENGTHS,
        "max_prompt_length": _LENGTHS,
        "padding_value": "Leave it out: the tokenizer's own padding token is used.",
        "ref_model_init_kwargs": "Leave it out: the reference is the base model, loaded in the same way.",
        "truncation_mode": "Leave it out: what is beyond `max_length` is cut from the end.",
        "use_liger_loss": "Leave it out: the loss is computed in pieces anyway.",
    },
    "GRPOConfig": {
        "max_length": _NEW_TOKENS,
        "max_seq_length": _NEW_TOKENS,
        "max_prompt_length": "Leave it out, and take long prompts out of the dataset: prompts are never cut.",
        "reward_funcs": "Name them in the parameter rewards.",
        "token_entropy_percentile_threshold": "Set `top_entropy_quantile`, which is one minus it.",
        "use_liger_loss": "Leave it out: the loss is computed in pieces anyway.",
        "vllm_device": "Leave it out: with `vllm_mode` 'colocate' vLLM shares the training's devices.",
        "vllm_dtype": "Leave it out: vLLM takes the model's own.",
        "vllm_enable_prefix_caching": "Leave it out: vLLM decides.",
        "vllm_guided_decoding_regex": "It is called `vllm_structured_outputs_regex` now.",
        "vllm_max_model_len": "It is called `vllm_max_model_length` now.",
        "wandb_log_unique_prompts": "It is called `log_unique_prompts` now.",
    },
    "RLOOConfig": {
        "cliprange": "It is called `epsilon` now.",
        "dataset_num_proc": "Leave it out: prompts are tokenised while training.",
        "exp_name": "It is called `run_name` now.",
        "kl_coef": "It is called `beta` now.",
        "local_rollout_forward_batch_size": "Set `per_device_train_batch_size`.",
        "max_length": _NEW_TOKENS,
        "max_seq_length": _NEW_TOKENS,
        "max_prompt_length": "Leave it out, and take long prompts out of the dataset: prompts are never cut.",
        "missing_eos_penalty": "Leave it out, or set `mask_truncated_completions`.",
        "normalize_advantage": "It is called `normalize_advantages` now.",
        "normalize_reward": "Leave it out, or set `normalize_advantages`.",
        "num_mini_batches": "Set `steps_per_generation`.",
        "num_ppo_epochs": "It is called `num_iterations` now.",
        "num_sample_generations": "Set `log_completions`.",
        "response_length": "It is called `max_completion_length` now.",
        "reward_funcs": "Name them in the parameter rewards.",
        "reward_model_path": "Give the reward model as the input reward_model.",
        "rloo_k": "It is called `num_generations` now.",
        "sft_model_path": "Leave it out: the model is the input base_model.",
        "stop_token": _GENERATION_STOP,
        "stop_token_id": _GENERATION_STOP,
        "token_level_kl": "Leave it out: the penalty is of whole completions.",
        "total_episodes": "Set `max_steps` or `num_train_epochs`.",
        "vllm_guided_decoding_regex": "It is called `vllm_structured_outputs_regex` now.",
        "wandb_log_unique_prompts": "It is called `log_unique_prompts` now.",
        "whiten_rewards": "It is called `normalize_advantages` now.",
    },
    "DistillationConfig": {
        "generation_batch_size": "Leave it out, or set `per_device_train_batch_size`.",
        "lmbda": "Leave it out: the student always learns from its own completions.",
        "log_completions_steps": "Set `log_completions`.",
        "loss_add_tail": "Leave it out: the whole distribution is compared.",
        "loss_top_k": "Leave it out: the whole distribution is compared.",
        "max_length": _NEW_TOKENS,
        "max_seq_length": _NEW_TOKENS,
        "max_new_tokens": "It is called `max_completion_length` now.",
        "max_prompt_length": "Leave it out, and take long prompts out of the dataset: prompts are never cut.",
        "num_generations": "Leave it out: there is one completion for each prompt.",
        "reverse_kl_top_1_mode": "Set `beta`: 0 is the forward divergence, 1 the reverse one.",
        "teacher_model": "Give the teacher as the input teacher.",
        "teacher_model_server_url": "Give the teacher as the input teacher.",
        "use_teacher_server": "Give the teacher as the input teacher.",
        "vllm_sync_frequency": "Leave it out: vLLM always has the newest weights.",
        "wandb_entity": "Leave it out: W&B reads WANDB_ENTITY.",
        "wandb_project": "Set `project`.",
        "wandb_run_group": "Leave it out: W&B reads WANDB_RUN_GROUP.",
    },
    "LoraConfig": {
        "load_in_4bit": "Put quantization_config={'load_in_4bit': True} into model_args.",
        "load_in_8bit": "Put quantization_config={'load_in_8bit': True} into model_args.",
        "lora_dropout_p": "It is called `lora_dropout`.",
        "lora_modules_to_save": "It is called `modules_to_save`.",
        "lora_r": "It is called `r`.",
        "lora_target_modules": "It is called `target_modules`.",
        "lora_task_type": "Leave it out: the component sets it.",
        "use_peft": "Set `peft_type` to None to train all weights.",
    },
    "PromptTuningConfig": {
        "num_tokens": "It is called `num_virtual_tokens`.",
        "prompt_init": "It is called `prompt_tuning_init`.",
    },
    "from_pretrained": {
        "load_in_4bit": "Set `quantization_config` to {'load_in_4bit': True}.",
        "load_in_8bit": "Set `quantization_config` to {'load_in_8bit': True}.",
        "low_cpu_mem_usage": "Leave it out: Transformers always does this.",
        "revision": "Leave it out: the revision was chosen when the base model was imported.",
        "token": "Leave it out: the model is on disk by now; import_base_model reads HF_TOKEN.",
        "torch_dtype": "It is called `dtype` now.",
        "use_auth_token": "Leave it out: the model is on disk by now; import_base_model reads HF_TOKEN.",
        "use_flash_attention_2": "Set `attn_implementation` to 'flash_attention_2'.",
    },
}  # fmt: skip


def replacements(name: str, bases: Iterable[str] = ()) -> dict[str, str]:
    """What takes the place of arguments that a class once had.

    Args:
        name: Name of the class.
        bases: Classes that it inherits arguments from.
    """
    found: dict[str, str] = {}
    for each in (*bases, name):
        found |= REPLACED.get(each, {})
    return found
