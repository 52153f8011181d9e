"""Versions of data sets: what is in one, where it came from, and how two differ."""

from llmops_components.data.versions.digest import Content, ContentDigest, content_digest, content_of
from llmops_components.data.versions.manifest import (
    file_record,
    load_manifest,
    make_manifest,
    manifest_text,
    source_record,
    step_record,
    write_manifest,
)
from llmops_components.data.versions.policy import (
    Policy,
    check_policy,
    load_policy,
    refuse_unless_allowed,
    with_verdict,
)

__all__ = [
    "Content",
    "ContentDigest",
    "Policy",
    "check_policy",
    "content_digest",
    "content_of",
    "file_record",
    "load_manifest",
    "load_policy",
    "make_manifest",
    "manifest_text",
    "refuse_unless_allowed",
    "source_record",
    "step_record",
    "with_verdict",
    "write_manifest",
]
