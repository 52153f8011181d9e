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

__all__ = [
    "Content",
    "ContentDigest",
    "content_digest",
    "content_of",
    "file_record",
    "load_manifest",
    "make_manifest",
    "manifest_text",
    "source_record",
    "step_record",
    "write_manifest",
]
