"""Reusable building blocks for taking an LLM from raw data to a served model.

A plain Python library; :mod:`llmops_components.kfp` adapts it to Kubeflow Pipelines.
"""
